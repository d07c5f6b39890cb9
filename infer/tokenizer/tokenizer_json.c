#include "infer/tokenizer/tokenizer_json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/tokenizer/byte_level.h"

int tp_tokenizer_read_pattern(const struct tp_members *members, size_t i,
                              struct tp_pattern **ret_pattern)
{
    enum { STRING, REGEX };
    static const char *const names[] = {"String", "Regex", NULL};
    struct tp_members kind;
    char path[TP_MEMBER_PATH_MAX];
    char *text = NULL;
    size_t length = 0;
    if (!members->present[i])
        return tp_members_mistake(members, i, "{\"String\": ...} or {\"Regex\": ...}");
    tp_members_path(members, i, path);
    int rc = tp_members_read(&kind, &members->values[i], path, names);
    if (rc == 0 && kind.present[STRING] == kind.present[REGEX])
        rc = tp_members_mistake(members, i, "{\"String\": ...} or {\"Regex\": ...}");
    if (rc == 0)
        rc = tp_members_text(&kind, kind.present[REGEX] ? REGEX : STRING, &text, &length);
    if (rc < 0)
        return rc;
    rc = tp_pattern_new(text, length, kind.present[STRING], ret_pattern, members->error);
    free(text);
    return rc == -EINVAL ? tp_error_prefix(members->error, rc, "%s", path) : rc;
}

int tp_tokenizer_read_array(struct tp_tokenizer *tokenizer, const struct tp_members *members,
                            size_t i, tp_element_reader *read, unsigned depth)
{
    struct tp_json at = members->values[i];
    char path[TP_MEMBER_PATH_MAX], element[TP_MEMBER_PATH_MAX + 16];
    bool first = true, more = true;
    enum tp_json_kind kind;
    if (!members->present[i] || tp_json_peek(&at, &kind) < 0 || kind != TP_JSON_ARRAY)
        return tp_members_mistake(members, i, "an array");
    tp_members_path(members, i, path);
    int rc = tp_json_enter_array(&at);
    for (size_t k = 0; rc == 0; k++) {
        rc = tp_json_array_next(&at, &first, &more);
        if (rc < 0 || !more)
            break;
        snprintf(element, sizeof element, "%s[%zu]", path, k);
        rc = read(tokenizer, &at, element, depth);
        if (rc == 0)
            rc = tp_json_skip(&at);
    }
    return rc;
}

/* The id of a text in the model's vocabulary, which holds bytes if it is byte-level. */
static uint32_t find_text(const struct tp_tokenizer *tokenizer, const char *text, size_t length)
{
    char *copy = malloc(length + 1);
    uint32_t id = TP_TOKEN_NONE;
    if (copy == NULL)
        return TP_TOKEN_NONE;
    memcpy(copy, text, length);
    if (!tokenizer->bpe.byte_level || tp_byte_level_to_bytes(copy, length, &length))
        id = tp_vocabulary_find(&tokenizer->bpe.vocabulary, copy, length);
    free(copy);
    return id;
}

/* ---- added tokens */

static int read_added_flags(const struct tp_members *members, struct tp_added_token *token)
{
    enum { ID, CONTENT, SINGLE_WORD, LSTRIP, RSTRIP, NORMALIZED, SPECIAL };
    int rc = tp_members_flag(members, SPECIAL, false, &token->special);
    if (rc == 0)
        rc = tp_members_flag(members, SINGLE_WORD, false, &token->single_word);
    if (rc == 0)
        rc = tp_members_flag(members, LSTRIP, false, &token->left_strip);
    if (rc == 0)
        rc = tp_members_flag(members, RSTRIP, false, &token->right_strip);
    return rc < 0 ? rc : tp_members_flag(members, NORMALIZED, !token->special, &token->normalized);
}

/* Its id must be free, or that of the same text in the model. */
static int place_added(struct tp_tokenizer *tokenizer, const struct tp_members *members,
                       const struct tp_added_token *token)
{
    struct tp_error *error = members->error;
    uint32_t known = find_text(tokenizer, token->content, token->length);
    size_t length = token->length;
    char *bytes = token->content;
    if (known == token->id)
        return 0;
    if (known != TP_TOKEN_NONE)
        return tp_error_set(error, -EINVAL, "%s.id: expected %u as in model.vocab, found %u",
                            members->path, known, token->id);
    if (token->id < tokenizer->bpe.vocabulary.n_places &&
        tokenizer->bpe.vocabulary.places[token->id].length != TP_TOKEN_NONE)
        return tp_error_set(error, -EINVAL,
                            "%s.id: expected an id that no other token has, found %u",
                            members->path, token->id);
    char *copy = malloc(length + 1);
    if (copy == NULL)
        return -ENOMEM;
    memcpy(copy, bytes, length);
    if (tokenizer->bpe.byte_level) /* shown as HF's decoder does: as bytes where that can be */
        tp_byte_level_to_bytes(copy, length, &length);
    int rc = tp_vocabulary_name(&tokenizer->bpe.vocabulary, copy, length, token->id);
    free(copy);
    return rc == -ERANGE
               ? tp_error_set(error, -EINVAL, "%s: expected a shorter token", members->path)
               : rc;
}

static int read_added_token(struct tp_tokenizer *tokenizer, const struct tp_json *json,
                            const char *path, unsigned depth)
{
    enum { ID, CONTENT };
    static const char *const names[] = {"id",     "content",    "single_word", "lstrip",
                                        "rstrip", "normalized", "special",     NULL};
    struct tp_members members;
    struct tp_added_token token = {0};
    uint64_t id = 0;
    (void)depth;
    int rc = tp_members_read(&members, json, path, names);
    if (rc == 0)
        rc = tp_members_number(&members, ID, &id);
    if (rc == 0 && id > TP_TOKEN_ID_MAX)
        rc = tp_error_set(json->error, -EINVAL, "%s.id: expected at most %d, found %llu", path,
                          TP_TOKEN_ID_MAX, (unsigned long long)id);
    if (rc == 0)
        rc = tp_members_text(&members, CONTENT, &token.content, &token.length);
    if (rc < 0)
        return rc;
    token.id = (uint32_t)id;
    rc = read_added_flags(&members, &token);
    if (rc == 0)
        rc = place_added(tokenizer, &members, &token);
    /* Doubled each time the number is a power of two. */
    if (rc == 0 && (tokenizer->n_added & (tokenizer->n_added - 1)) == 0) {
        size_t room = tokenizer->n_added == 0 ? 1 : 2 * tokenizer->n_added;
        struct tp_added_token *added = realloc(tokenizer->added, room * sizeof *added);
        if (added != NULL)
            tokenizer->added = added;
        else
            rc = -ENOMEM;
    }
    if (rc < 0)
        free(token.content);
    else
        tokenizer->added[tokenizer->n_added++] = token;
    return rc;
}

/* ---- the whole file */

int tp_tokenizer_read_json(struct tp_tokenizer *tokenizer, const char *json, size_t length,
                           struct tp_error *error)
{
    enum { MODEL, ADDED_TOKENS, NORMALIZER, PRE_TOKENIZER, POST_PROCESSOR, DECODER };
    static const char *const names[] = {
        "model", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", NULL};
    struct tp_json at;
    struct tp_members members;
    tp_json_init(&at, json, length, error);
    int rc = tp_members_read_whole(&members, &at, names);
    if (rc == 0 && !members.present[MODEL])
        rc = tp_error_set(error, -EINVAL, "model: expected an object, found nothing");
    if (rc == 0 && members.present[PRE_TOKENIZER])
        rc = tp_tokenizer_read_pre_tokenizer(tokenizer, &members.values[PRE_TOKENIZER]);
    if (rc == 0 && members.present[NORMALIZER])
        rc = tp_tokenizer_read_normalizer(tokenizer, &members.values[NORMALIZER]);
    if (rc == 0)
        rc = tp_tokenizer_read_model(tokenizer, &members.values[MODEL]);
    if (rc == 0 && members.present[ADDED_TOKENS])
        rc = tp_tokenizer_read_array(tokenizer, &members, ADDED_TOKENS, read_added_token, 0);
    if (rc == 0 && members.present[POST_PROCESSOR])
        rc = tp_tokenizer_read_post_processor(tokenizer, &members.values[POST_PROCESSOR]);
    if (rc == 0 && members.present[DECODER])
        rc = tp_tokenizer_read_decoder(tokenizer, &members.values[DECODER]);
    return rc;
}
