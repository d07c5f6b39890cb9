/* What tokenizer.json says of the text around the model: normalizer, pre_tokenizer, post_processor
 * and decoder. Each is an object with a type, and a Sequence holds several. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "infer/tokenizer/tokenizer_json.h"

enum { DEPTH_MAX = 8 }; /* of sequences in sequences */

/* How GPT-2 splits: what ByteLevel means when it says use_regex. */
#define GPT2_SPLIT                                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PUNCTUATION "[\\p{P}$+<=>^`|~]"

static int too_deep(const struct tp_json *json, const char *path)
{
    return tp_error_set(json->error, -EINVAL, "%s: expected at most %d sequences in one another",
                        path, DEPTH_MAX);
}

/* A single character, such as Metaspace's "▁". */
static int read_character(const struct tp_members *members, size_t i, char target[4],
                          size_t *ret_length)
{
    char *text;
    size_t length;
    int rc = tp_members_text(members, i, &text, &length);
    if (rc < 0)
        return rc;
    bool one = length > 0 && tp_utf8_step(text[0]) == length;
    if (one) {
        memcpy(target, text, length);
        *ret_length = length;
    }
    free(text);
    return one ? 0 : tp_members_mistake(members, i, "one character");
}

/* ---- pre_tokenizer */

static int add_step(struct tp_tokenizer *tokenizer, const struct tp_members *members,
                    struct tp_split_step step)
{
    struct tp_splitter *splitter = &tokenizer->splitter;
    int rc = 0;
    if (splitter->n == TP_SPLITTER_STEPS_MAX)
        rc = tp_error_set(members->error, -EINVAL, "%s: expected at most %d steps", members->path,
                          TP_SPLITTER_STEPS_MAX);
    else if (tokenizer->bpe.byte_level)
        rc = tp_error_set(members->error, -EINVAL, "%s: expected nothing after ByteLevel",
                          members->path);
    if (rc < 0)
        tp_pattern_free(step.pattern);
    else
        splitter->steps[splitter->n++] = step;
    return rc;
}

static int add_split(struct tp_tokenizer *tokenizer, const struct tp_members *members,
                     const char *expression, bool is_literal, enum tp_split_behavior behavior,
                     bool invert)
{
    struct tp_split_step step = {.kind = TP_SPLIT_PATTERN, .behavior = behavior, .invert = invert};
    int rc =
        tp_pattern_new(expression, strlen(expression), is_literal, &step.pattern, members->error);
    return rc < 0 ? rc : add_step(tokenizer, members, step);
}

enum pre_tokenizer_field {
    TYPE,
    PRETOKENIZERS,
    PATTERN,
    BEHAVIOR,
    INVERT,
    ADD_PREFIX_SPACE,
    USE_REGEX,
    INDIVIDUAL_DIGITS,
    REPLACEMENT,
    PREPEND_SCHEME,
    SPLIT,
};
static const char *const pre_tokenizer_names[] = {
    "type",      "pretokenizers",     "pattern",     "behavior",       "invert", "add_prefix_space",
    "use_regex", "individual_digits", "replacement", "prepend_scheme", "split",  NULL};

static int read_split(struct tp_tokenizer *tokenizer, const struct tp_members *members)
{
    struct tp_split_step step = {.kind = TP_SPLIT_PATTERN};
    size_t behavior = 0;
    int rc = tp_members_choice(members, BEHAVIOR, tp_split_behavior_names, &behavior);
    if (rc == 0)
        rc = tp_members_flag(members, INVERT, false, &step.invert);
    if (rc == 0)
        rc = tp_tokenizer_read_pattern(members, PATTERN, &step.pattern);
    step.behavior = (enum tp_split_behavior)behavior;
    return rc < 0 ? rc : add_step(tokenizer, members, step);
}

static int read_byte_level(struct tp_tokenizer *tokenizer, const struct tp_members *members)
{
    bool add_prefix_space, use_regex;
    int rc = tp_members_flag(members, ADD_PREFIX_SPACE, true, &add_prefix_space);
    if (rc == 0)
        rc = tp_members_flag(members, USE_REGEX, true, &use_regex);
    if (rc == 0 && add_prefix_space)
        rc = add_step(
            tokenizer, members,
            (struct tp_split_step){.kind = TP_SPLIT_PREFIX, .mark = {' '}, .mark_length = 1});
    if (rc == 0 && use_regex)
        rc = add_split(tokenizer, members, GPT2_SPLIT, false, TP_SPLIT_ISOLATED, false);
    if (rc == 0 && tokenizer->bpe.byte_level)
        return tp_error_set(members->error, -EINVAL, "%s: expected ByteLevel once", members->path);
    tokenizer->bpe.byte_level = true;
    return rc;
}

static int read_metaspace(struct tp_tokenizer *tokenizer, const struct tp_members *members)
{
    enum { FIRST, NEVER, ALWAYS };
    static const char *const schemes[] = {"first", "never", "always", NULL};
    struct tp_split_step blanks = {.kind = TP_SPLIT_BLANKS}, prefix;
    size_t scheme = ALWAYS;
    bool add_prefix_space, split;
    int rc = read_character(members, REPLACEMENT, blanks.mark, &blanks.mark_length);
    if (rc == 0)
        rc = tp_members_flag(members, ADD_PREFIX_SPACE, true, &add_prefix_space);
    if (rc == 0)
        rc = tp_members_flag(members, SPLIT, true, &split);
    if (rc == 0 && members->present[PREPEND_SCHEME])
        rc = tp_members_choice(members, PREPEND_SCHEME, schemes, &scheme);
    else if (rc == 0)
        scheme = add_prefix_space ? ALWAYS : NEVER;
    if (rc == 0)
        rc = add_step(tokenizer, members, blanks);
    prefix = blanks;
    prefix.kind = TP_SPLIT_PREFIX;
    prefix.only_first = scheme == FIRST;
    if (rc == 0 && scheme != NEVER)
        rc = add_step(tokenizer, members, prefix);
    if (rc == 0 && split) {
        char mark[5] = "";
        memcpy(mark, blanks.mark, blanks.mark_length);
        rc = add_split(tokenizer, members, mark, true, TP_SPLIT_MERGED_WITH_NEXT, false);
    }
    return rc;
}

static int read_digits(struct tp_tokenizer *tokenizer, const struct tp_members *members)
{
    bool each;
    int rc = tp_members_flag(members, INDIVIDUAL_DIGITS, false, &each);
    return rc < 0 ? rc
                  : add_split(tokenizer, members, "\\p{N}", false,
                              each ? TP_SPLIT_ISOLATED : TP_SPLIT_CONTIGUOUS, false);
}

static int read_punctuation(struct tp_tokenizer *tokenizer, const struct tp_members *members)
{
    size_t behavior = TP_SPLIT_ISOLATED;
    int rc = members->present[BEHAVIOR]
                 ? tp_members_choice(members, BEHAVIOR, tp_split_behavior_names, &behavior)
                 : 0;
    return rc < 0 ? rc
                  : add_split(tokenizer, members, PUNCTUATION, false,
                              (enum tp_split_behavior)behavior, false);
}

static int read_pre_tokenizer(struct tp_tokenizer *tokenizer, const struct tp_json *json,
                              const char *path, unsigned depth)
{
    enum { SEQUENCE, SPLIT_TYPE, BYTE_LEVEL, METASPACE, DIGITS, PUNCTUATIONS, WHITESPACE, WORDS };
    static const char *const types[] = {"Sequence",        "Split",      "ByteLevel",
                                        "Metaspace",       "Digits",     "Punctuation",
                                        "WhitespaceSplit", "Whitespace", NULL};
    struct tp_members members;
    size_t type = 0;
    int rc = depth > DEPTH_MAX ? too_deep(json, path)
                               : tp_members_read(&members, json, path, pre_tokenizer_names);
    if (rc == 0)
        rc = tp_members_choice(&members, TYPE, types, &type);
    if (rc < 0)
        return rc;
    switch (type) {
    case SEQUENCE:
        return tp_tokenizer_read_array(tokenizer, &members, PRETOKENIZERS, read_pre_tokenizer,
                                       depth + 1);
    case SPLIT_TYPE:
        return read_split(tokenizer, &members);
    case BYTE_LEVEL:
        return read_byte_level(tokenizer, &members);
    case METASPACE:
        return read_metaspace(tokenizer, &members);
    case DIGITS:
        return read_digits(tokenizer, &members);
    case PUNCTUATIONS:
        return read_punctuation(tokenizer, &members);
    case WHITESPACE:
        return add_split(tokenizer, &members, "\\s", false, TP_SPLIT_REMOVED, false);
    default:
        return add_split(tokenizer, &members, "[" TP_PATTERN_WORD "]+|[^\\s" TP_PATTERN_WORD "]+",
                         false, TP_SPLIT_REMOVED, true);
    }
}

int tp_tokenizer_read_pre_tokenizer(struct tp_tokenizer *tokenizer, const struct tp_json *json)
{
    return read_pre_tokenizer(tokenizer, json, "pre_tokenizer", 0);
}

/* ---- normalizer */

/* Adds Replace's step, or Prepend's if there is no pattern. */
static int add_rewriting(struct tp_normalizer *normalizer, const struct tp_members *members,
                         size_t content, struct tp_pattern *pattern)
{
    struct tp_normalizer_step step = {.pattern = pattern};
    int rc = 0;
    if (normalizer->n == TP_NORMALIZER_STEPS_MAX)
        rc = tp_error_set(members->error, -EINVAL, "%s: expected at most %d steps", members->path,
                          TP_NORMALIZER_STEPS_MAX);
    if (rc == 0)
        rc = tp_members_text(members, content, &step.content, &step.length);
    if (rc == 0)
        normalizer->steps[normalizer->n++] = step;
    else
        tp_pattern_free(pattern);
    return rc;
}

static int read_normalizer(struct tp_tokenizer *tokenizer, const struct tp_json *json,
                           const char *path, unsigned depth)
{
    enum { N_TYPE, NORMALIZERS, PREPEND, N_PATTERN, CONTENT };
    enum { SEQUENCE, PREPEND_TYPE, REPLACE };
    static const char *const names[] = {"type",    "normalizers", "prepend",
                                        "pattern", "content",     NULL};
    static const char *const types[] = {"Sequence", "Prepend", "Replace", NULL};
    struct tp_members members;
    struct tp_pattern *pattern = NULL;
    size_t type = 0;
    int rc =
        depth > DEPTH_MAX ? too_deep(json, path) : tp_members_read(&members, json, path, names);
    if (rc == 0)
        rc = tp_members_choice(&members, N_TYPE, types, &type);
    if (rc < 0)
        return rc;
    if (type == SEQUENCE)
        return tp_tokenizer_read_array(tokenizer, &members, NORMALIZERS, read_normalizer,
                                       depth + 1);
    if (type == PREPEND_TYPE)
        return add_rewriting(&tokenizer->normalizer, &members, PREPEND, NULL);
    rc = tp_tokenizer_read_pattern(&members, N_PATTERN, &pattern);
    return rc < 0 ? rc : add_rewriting(&tokenizer->normalizer, &members, CONTENT, pattern);
}

int tp_tokenizer_read_normalizer(struct tp_tokenizer *tokenizer, const struct tp_json *json)
{
    return read_normalizer(tokenizer, json, "normalizer", 0);
}

/* ---- post_processor */

/* Appends "special_tokens"[name].ids. */
static int add_template_token(struct tp_tokenizer *tokenizer, const struct tp_members *members,
                              size_t special_tokens, const char *name, bool seen_text)
{
    enum { IDS };
    static const char *const names[] = {"ids", NULL};
    const char *const wanted[] = {name, NULL};
    char path[TP_MEMBER_PATH_MAX], token_path[TP_MEMBER_PATH_MAX];
    struct tp_members tokens, token;
    bool first = true, more = true;
    uint64_t id = 0;
    if (!members->present[special_tokens])
        return tp_members_mistake(members, special_tokens, "an object");
    tp_members_path(members, special_tokens, path);
    int rc = tp_members_read(&tokens, &members->values[special_tokens], path, wanted);
    if (rc == 0 && !tokens.present[0])
        rc = tp_members_mistake(&tokens, 0, "an object");
    if (rc < 0)
        return rc;
    tp_members_path(&tokens, 0, token_path);
    rc = tp_members_read(&token, &tokens.values[0], token_path, names);
    if (rc == 0 && !token.present[IDS])
        rc = tp_members_mistake(&token, IDS, "an array of ids");
    if (rc < 0)
        return rc;
    struct tp_json at = token.values[IDS];
    rc = tp_json_enter_array(&at);
    while (rc == 0 && (rc = tp_json_array_next(&at, &first, &more)) == 0 && more) {
        rc = tp_json_unsigned(&at, &id);
        if (rc == 0 && (id > TP_TOKEN_ID_MAX || !tp_tokenizer_has(tokenizer, (uint32_t)id)))
            rc = tp_error_set(members->error, -EINVAL, "%s: expected ids of tokens, found %llu",
                              token_path, (unsigned long long)id);
        if (rc == 0)
            rc = tp_ids_append(seen_text ? &tokenizer->suffix : &tokenizer->prefix, (uint32_t)id);
    }
    return rc;
}

/* One element of "single": {"SpecialToken": {"id": NAME}} or {"Sequence": {"id": "A"}}. */
static int read_template_part(struct tp_tokenizer *tokenizer, const struct tp_members *members,
                              size_t special_tokens, const struct tp_json *json, bool *seen_text)
{
    enum { SPECIAL_TOKEN, SEQUENCE };
    static const char *const names[] = {"SpecialToken", "Sequence", NULL};
    static const char *const id_names[] = {"id", NULL};
    struct tp_members part, token;
    char *name = NULL;
    size_t length = 0;
    int rc = tp_members_read(&part, json, "post_processor.single[]", names);
    if (rc == 0 && part.present[SPECIAL_TOKEN] == part.present[SEQUENCE])
        rc = tp_members_mistake(&part, SPECIAL_TOKEN, "SpecialToken or Sequence");
    if (rc < 0)
        return rc;
    if (part.present[SEQUENCE]) {
        if (*seen_text)
            return tp_members_mistake(&part, SEQUENCE, "one Sequence");
        *seen_text = true;
        return 0;
    }
    rc = tp_members_read(&token, &part.values[SPECIAL_TOKEN],
                         "post_processor.single[].SpecialToken", id_names);
    if (rc == 0)
        rc = tp_members_text(&token, 0, &name, &length);
    if (rc < 0)
        return rc;
    rc = add_template_token(tokenizer, members, special_tokens, name, *seen_text);
    free(name);
    return rc;
}

enum { P_TYPE, PROCESSORS, SINGLE, SPECIAL_TOKENS };

static int read_template(struct tp_tokenizer *tokenizer, const struct tp_members *members)
{
    bool first = true, more = true, seen_text = false;
    enum tp_json_kind kind;
    struct tp_json at = members->values[SINGLE];
    if (tokenizer->prefix.n + tokenizer->suffix.n > 0)
        return tp_members_mistake(members, P_TYPE, "one template that adds tokens");
    if (!members->present[SINGLE] || tp_json_peek(&at, &kind) < 0 || kind != TP_JSON_ARRAY)
        return tp_members_mistake(members, SINGLE, "an array");
    int rc = tp_json_enter_array(&at);
    while (rc == 0 && (rc = tp_json_array_next(&at, &first, &more)) == 0 && more) {
        rc = read_template_part(tokenizer, members, SPECIAL_TOKENS, &at, &seen_text);
        if (rc == 0)
            rc = tp_json_skip(&at);
    }
    return rc < 0 || seen_text ? rc
                               : tp_members_mistake(members, SINGLE, "a template with a Sequence");
}

static int read_post_processor(struct tp_tokenizer *tokenizer, const struct tp_json *json,
                               const char *path, unsigned depth)
{
    enum { SEQUENCE, BYTE_LEVEL, TEMPLATE };
    static const char *const names[] = {"type", "processors", "single", "special_tokens", NULL};
    static const char *const types[] = {"Sequence", "ByteLevel", "TemplateProcessing", NULL};
    struct tp_members members;
    size_t type = 0;
    int rc =
        depth > DEPTH_MAX ? too_deep(json, path) : tp_members_read(&members, json, path, names);
    if (rc == 0)
        rc = tp_members_choice(&members, P_TYPE, types, &type);
    if (rc < 0 || type == BYTE_LEVEL) /* that one only moves offsets */
        return rc;
    if (type == TEMPLATE)
        return read_template(tokenizer, &members);
    return tp_tokenizer_read_array(tokenizer, &members, PROCESSORS, read_post_processor, depth + 1);
}

int tp_tokenizer_read_post_processor(struct tp_tokenizer *tokenizer, const struct tp_json *json)
{
    return read_post_processor(tokenizer, json, "post_processor", 0);
}

/* ---- decoder */

enum { D_TYPE, DECODERS, D_PATTERN, D_CONTENT, START, STOP, D_REPLACEMENT, D_SCHEME, D_PREFIX };

static int read_strip(struct tp_tokenizer *tokenizer, const struct tp_members *members)
{
    struct tp_text_rules *rules = &tokenizer->rules;
    uint64_t start = 0, stop = 0;
    int rc = tp_members_number(members, START, &start);
    if (rc == 0)
        rc = tp_members_number(members, STOP, &stop);
    if (rc == 0 && stop != 0)
        rc = tp_members_mistake(members, STOP, "0");
    if (rc == 0 && rules->strip_length > 0)
        rc = tp_members_mistake(members, D_TYPE, "one Strip");
    if (rc == 0)
        rc = read_character(members, D_CONTENT, rules->strip, &rules->strip_length);
    if (rc == 0)
        rules->strip_max = start;
    return rc;
}

static int read_metaspace_decoder(struct tp_tokenizer *tokenizer, const struct tp_members *members)
{
    static const char *const schemes[] = {"first", "never", "always", NULL};
    struct tp_text_rules *rules = &tokenizer->rules;
    struct tp_normalizer_step step = {.length = 1};
    size_t scheme = 2;
    bool prefix;
    int rc = read_character(members, D_REPLACEMENT, rules->mark, &rules->mark_length);
    if (rc == 0)
        rc = tp_members_flag(members, D_PREFIX, true, &prefix);
    if (rc == 0 && members->present[D_SCHEME])
        rc = tp_members_choice(members, D_SCHEME, schemes, &scheme);
    else if (rc == 0)
        scheme = prefix ? 2 : 1;
    if (rc == 0 && rules->replace.n == TP_NORMALIZER_STEPS_MAX)
        rc = tp_members_mistake(members, D_TYPE, "fewer steps");
    if (rc == 0)
        rc = tp_pattern_new(rules->mark, rules->mark_length, true, &step.pattern, members->error);
    if (rc < 0)
        return rc;
    step.content = strdup(" ");
    if (step.content == NULL) {
        tp_pattern_free(step.pattern);
        return -ENOMEM;
    }
    rules->drop_in_first = scheme != 1;
    rules->replace.steps[rules->replace.n++] = step;
    return 0;
}

static int read_decoder(struct tp_tokenizer *tokenizer, const struct tp_json *json,
                        const char *path, unsigned depth)
{
    enum { SEQUENCE, BYTE_LEVEL, REPLACE, BYTE_FALLBACK, FUSE, STRIP, METASPACE };
    static const char *const names[] = {
        "type", "decoders",    "pattern",        "content",          "start",
        "stop", "replacement", "prepend_scheme", "add_prefix_space", NULL};
    static const char *const types[] = {"Sequence", "ByteLevel", "Replace",   "ByteFallback",
                                        "Fuse",     "Strip",     "Metaspace", NULL};
    struct tp_members members;
    struct tp_pattern *pattern = NULL;
    size_t type = 0;
    int rc =
        depth > DEPTH_MAX ? too_deep(json, path) : tp_members_read(&members, json, path, names);
    if (rc == 0)
        rc = tp_members_choice(&members, D_TYPE, types, &type);
    if (rc == 0 && tokenizer->bpe.byte_level && type != BYTE_LEVEL && type != SEQUENCE &&
        type != FUSE)
        rc = tp_members_mistake(&members, D_TYPE, "ByteLevel, as the pre_tokenizer is");
    if (rc == 0 && !tokenizer->bpe.byte_level && type == BYTE_LEVEL)
        rc = tp_members_mistake(&members, D_TYPE, "no ByteLevel, as the pre_tokenizer has none");
    if (rc < 0)
        return rc;
    switch (type) {
    case SEQUENCE:
        return tp_tokenizer_read_array(tokenizer, &members, DECODERS, read_decoder, depth + 1);
    case REPLACE:
        rc = tp_tokenizer_read_pattern(&members, D_PATTERN, &pattern);
        return rc < 0 ? rc : add_rewriting(&tokenizer->rules.replace, &members, D_CONTENT, pattern);
    case BYTE_FALLBACK:
        tokenizer->rules.byte_fallback = true;
        return 0;
    case STRIP:
        return read_strip(tokenizer, &members);
    case METASPACE:
        return read_metaspace_decoder(tokenizer, &members);
    default: /* ByteLevel is how the vocabulary is kept, and text is always fused */
        return 0;
    }
}

int tp_tokenizer_read_decoder(struct tp_tokenizer *tokenizer, const struct tp_json *json)
{
    return read_decoder(tokenizer, json, "decoder", 0);
}
