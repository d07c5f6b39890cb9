/* "model" of tokenizer.json: the vocabulary and the merges. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/bytes.h"
#include "infer/tokenizer/byte_level.h"
#include "infer/tokenizer/tokenizer_json.h"

enum {
    TYPE,
    VOCAB,
    MERGES,
    UNK_TOKEN,
    DROPOUT,
    CONTINUING_SUBWORD_PREFIX,
    END_OF_WORD_SUFFIX,
    FUSE_UNK,
    BYTE_FALLBACK,
    IGNORE_MERGES,
};
static const char *const names[] = {"type",
                                    "vocab",
                                    "merges",
                                    "unk_token",
                                    "dropout",
                                    "continuing_subword_prefix",
                                    "end_of_word_suffix",
                                    "fuse_unk",
                                    "byte_fallback",
                                    "ignore_merges",
                                    NULL};

/* The text of a token, resolved, in a buffer that is used again. */
static int copy_text(const struct tp_json_string *string, struct tp_buffer *text)
{
    text->length = 0;
    int rc = tp_buffer_reserve(text, string->length + 1);
    if (rc < 0)
        return rc;
    tp_json_string_copy(string, text->bytes);
    text->length = string->length;
    return 0;
}

/* ---- vocabulary */

static int add_token(struct tp_tokenizer *tokenizer, struct tp_buffer *text, uint64_t id,
                     struct tp_error *error)
{
    struct tp_vocabulary *vocabulary = &tokenizer->bpe.vocabulary;
    int rc = -ERANGE;
    if (id <= TP_TOKEN_ID_MAX) {
        bool has_key = !tokenizer->bpe.byte_level ||
                       tp_byte_level_to_bytes(text->bytes, text->length, &text->length);
        /* A token with other characters than byte-level ones is met in no text. */
        rc = has_key ? tp_vocabulary_add(vocabulary, text->bytes, text->length, (uint32_t)id)
                     : tp_vocabulary_name(vocabulary, text->bytes, text->length, (uint32_t)id);
    }
    int shown = tp_bytes_shown(text->bytes, text->length);
    if (rc == -EEXIST)
        return tp_error_set(error, -EINVAL,
                            "model.vocab: expected each token and id once, found \"%.*s\": %llu "
                            "again",
                            shown, text->bytes, (unsigned long long)id);
    if (rc == -ERANGE)
        return tp_error_set(error, -EINVAL,
                            "model.vocab: expected ids up to %d and tokens of at most %d bytes, "
                            "found \"%.*s\": %llu",
                            TP_TOKEN_ID_MAX, TP_TOKEN_LENGTH_MAX, shown, text->bytes,
                            (unsigned long long)id);
    return rc;
}

static int read_vocabulary(struct tp_tokenizer *tokenizer, struct tp_json at)
{
    struct tp_buffer text = {0};
    struct tp_json_string key;
    bool first = true, more = true;
    uint64_t id = 0;
    int rc = tp_json_enter_object(&at);
    while (rc == 0 && (rc = tp_json_object_next(&at, &first, &key, &more)) == 0 && more) {
        rc = tp_json_unsigned(&at, &id);
        if (rc < 0)
            tp_error_prefix(at.error, rc, "model.vocab[\"%.*s\"]",
                            tp_bytes_shown(key.raw, key.raw_length), key.raw);
        if (rc == 0)
            rc = copy_text(&key, &text);
        if (rc == 0)
            rc = add_token(tokenizer, &text, id, at.error);
    }
    tp_buffer_clear(&text);
    return rc;
}

/* ---- merges */

struct merge_list {
    struct tp_merge *items;
    size_t n, capacity;
};

/* The two texts of a merge; `joined` holds both, the first of them `left_length` long. */
struct merge_text {
    struct tp_buffer joined, part;
    size_t left_length;
};

static int take_part(struct tp_tokenizer *tokenizer, struct merge_text *text)
{
    size_t length = text->part.length;
    if (tokenizer->bpe.byte_level)
        tp_byte_level_to_bytes(text->part.bytes, length, &length);
    return tp_buffer_append(&text->joined, text->part.bytes, length);
}

/* "left right" */
static int read_joint(struct tp_tokenizer *tokenizer, struct tp_json *at, struct merge_text *text)
{
    struct tp_json_string string;
    struct tp_buffer whole = {0};
    int rc = tp_json_string(at, &string);
    if (rc == 0)
        rc = copy_text(&string, &whole);
    const char *blank = rc == 0 ? memchr(whole.bytes, ' ', whole.length) : NULL;
    const char *last = rc == 0 ? memrchr(whole.bytes, ' ', whole.length) : NULL;
    if (rc == 0 && (blank == NULL || blank != last))
        rc = tp_error_set(at->error, -EINVAL, "expected two tokens and a blank, found \"%.*s\"",
                          tp_bytes_shown(whole.bytes, whole.length), whole.bytes);
    for (int side = 0; rc == 0 && side < 2; side++) {
        const char *begin = side == 0 ? whole.bytes : blank + 1;
        const char *end = side == 0 ? blank : whole.bytes + whole.length;
        text->part.length = 0;
        rc = tp_buffer_append(&text->part, begin, (size_t)(end - begin));
        if (rc == 0)
            rc = take_part(tokenizer, text);
        if (side == 0)
            text->left_length = text->joined.length;
    }
    tp_buffer_clear(&whole);
    return rc;
}

/* ["left", "right"] */
static int read_pair(struct tp_tokenizer *tokenizer, struct tp_json *at, struct merge_text *text)
{
    struct tp_json_string string;
    bool first = true, more = false;
    int rc = tp_json_enter_array(at);
    for (int side = 0; rc == 0 && side < 2; side++) {
        rc = tp_json_array_next(at, &first, &more);
        if (rc == 0 && !more)
            return tp_error_set(at->error, -EINVAL, "expected two tokens, found %d", side);
        if (rc == 0)
            rc = tp_json_string(at, &string);
        if (rc == 0)
            rc = copy_text(&string, &text->part);
        if (rc == 0)
            rc = take_part(tokenizer, text);
        if (side == 0)
            text->left_length = text->joined.length;
    }
    if (rc == 0)
        rc = tp_json_array_next(at, &first, &more);
    if (rc == 0 && more)
        return tp_error_set(at->error, -EINVAL, "expected two tokens, found more");
    return rc;
}

static int look_up(const struct tp_tokenizer *tokenizer, const char *bytes, size_t length,
                   uint32_t *ret_id, struct tp_error *error)
{
    *ret_id = tp_vocabulary_find(&tokenizer->bpe.vocabulary, bytes, length);
    if (*ret_id == TP_TOKEN_NONE)
        return tp_error_set(error, -EINVAL, "expected tokens of model.vocab, found \"%.*s\"",
                            tp_bytes_shown(bytes, length), bytes);
    return 0;
}

static int add_merge(struct tp_tokenizer *tokenizer, const struct merge_text *text,
                     struct merge_list *list, struct tp_error *error)
{
    const char *bytes = text->joined.bytes;
    size_t left_length = text->left_length, length = text->joined.length;
    uint32_t left = TP_TOKEN_NONE, right = TP_TOKEN_NONE, result = TP_TOKEN_NONE;
    int rc = look_up(tokenizer, bytes, left_length, &left, error);
    if (rc == 0)
        rc = look_up(tokenizer, bytes + left_length, length - left_length, &right, error);
    if (rc == 0)
        rc = look_up(tokenizer, bytes, length, &result, error);
    if (rc < 0)
        return rc;
    if (list->n == list->capacity) {
        size_t capacity = list->capacity == 0 ? 1024 : 2 * list->capacity;
        struct tp_merge *items = realloc(list->items, capacity * sizeof *items);
        if (items == NULL)
            return -ENOMEM;
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->n] =
        (struct tp_merge){(uint64_t)left << 32 | right, (uint32_t)list->n, result};
    list->n++;
    return 0;
}

static int read_merge(struct tp_tokenizer *tokenizer, struct tp_json *at, struct merge_text *text,
                      struct merge_list *list)
{
    enum tp_json_kind kind;
    int rc = tp_json_peek(at, &kind);
    if (rc < 0)
        return rc;
    text->joined.length = 0;
    rc = kind == TP_JSON_STRING ? read_joint(tokenizer, at, text) : read_pair(tokenizer, at, text);
    return rc < 0 ? rc : add_merge(tokenizer, text, list, at->error);
}

static int read_merge_list(struct tp_tokenizer *tokenizer, struct tp_json at,
                           struct merge_list *list)
{
    struct merge_text text = {0};
    bool first = true, more = true;
    int rc = tp_json_enter_array(&at);
    while (rc == 0 && (rc = tp_json_array_next(&at, &first, &more)) == 0 && more) {
        rc = read_merge(tokenizer, &at, &text, list);
        if (rc == -EINVAL)
            tp_error_prefix(at.error, rc, "model.merges[%zu]", list->n);
    }
    tp_buffer_clear(&text.joined);
    tp_buffer_clear(&text.part);
    return rc;
}

static int read_merges(struct tp_tokenizer *tokenizer, struct tp_json at)
{
    struct merge_list list = {0};
    int rc = read_merge_list(tokenizer, at, &list);
    if (rc == 0)
        rc = tp_merges_init(&tokenizer->bpe.merges, list.n);
    for (size_t i = 0; rc == 0 && i < list.n; i++)
        tp_merges_add(&tokenizer->bpe.merges, (uint32_t)(list.items[i].pair >> 32),
                      (uint32_t)list.items[i].pair, list.items[i].rank, list.items[i].result);
    if (rc == 0)
        rc = tp_bpe_find_seams(&tokenizer->bpe, list.items, list.n);
    free(list.items);
    return rc;
}

/* ---- the rest */

static void find_byte_tokens(struct tp_bpe *bpe)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8] = {(char)byte};
        size_t length = 1;
        if (!bpe->byte_level)
            length = (size_t)snprintf(text, sizeof text, "<0x%02X>", byte);
        bpe->of_byte[byte] = tp_vocabulary_find(&bpe->vocabulary, text, length);
    }
}

static int read_unknown(struct tp_tokenizer *tokenizer, const struct tp_members *members)
{
    char *text;
    size_t length;
    tokenizer->bpe.unknown = TP_TOKEN_NONE;
    if (!members->present[UNK_TOKEN])
        return 0;
    int rc = tp_members_text(members, UNK_TOKEN, &text, &length);
    if (rc < 0)
        return rc;
    if (tokenizer->bpe.byte_level)
        tp_byte_level_to_bytes(text, length, &length);
    tokenizer->bpe.unknown = tp_vocabulary_find(&tokenizer->bpe.vocabulary, text, length);
    free(text);
    return tokenizer->bpe.unknown != TP_TOKEN_NONE
               ? 0
               : tp_members_mistake(members, UNK_TOKEN, "a token of model.vocab");
}

/* What would change the ids in ways that are not here. */
static int refuse_variants(const struct tp_members *members)
{
    static const char *const types[] = {"BPE", NULL};
    static const size_t texts[] = {CONTINUING_SUBWORD_PREFIX, END_OF_WORD_SUFFIX};
    size_t type = 0;
    int rc = members->present[TYPE] ? tp_members_choice(members, TYPE, types, &type) : 0;
    for (size_t i = 0; rc == 0 && i < 2; i++) {
        char *text;
        size_t length;
        if (!members->present[texts[i]])
            continue;
        rc = tp_members_text(members, texts[i], &text, &length);
        if (rc == 0) {
            free(text);
            rc = length == 0 ? 0 : tp_members_mistake(members, texts[i], "null");
        }
    }
    if (rc < 0 || !members->present[DROPOUT])
        return rc;
    struct tp_json at = members->values[DROPOUT];
    enum tp_json_kind kind;
    rc = tp_json_peek(&at, &kind);
    bool zero = rc == 0 && kind == TP_JSON_NUMBER && strtod(at.text + at.at, NULL) == 0;
    return rc < 0 || zero ? rc : tp_members_mistake(members, DROPOUT, "null or 0");
}

static int read_flags(struct tp_bpe *bpe, const struct tp_members *members)
{
    int rc = tp_members_flag(members, FUSE_UNK, false, &bpe->fuse_unknown);
    if (rc == 0)
        rc = tp_members_flag(members, BYTE_FALLBACK, false, &bpe->byte_fallback);
    return rc < 0 ? rc : tp_members_flag(members, IGNORE_MERGES, false, &bpe->ignore_merges);
}

static int expect_kind(const struct tp_members *members, size_t i, enum tp_json_kind wanted,
                       const char *what)
{
    struct tp_json at = members->values[i];
    enum tp_json_kind kind;
    if (members->present[i] && tp_json_peek(&at, &kind) == 0 && kind == wanted)
        return 0;
    return tp_members_mistake(members, i, what);
}

int tp_tokenizer_read_model(struct tp_tokenizer *tokenizer, const struct tp_json *json)
{
    struct tp_members members;
    tp_vocabulary_init(&tokenizer->bpe.vocabulary);
    int rc = tp_members_read(&members, json, "model", names);
    if (rc == 0)
        rc = refuse_variants(&members);
    if (rc == 0)
        rc = read_flags(&tokenizer->bpe, &members);
    if (rc == 0)
        rc = expect_kind(&members, VOCAB, TP_JSON_OBJECT, "an object");
    if (rc == 0)
        rc = expect_kind(&members, MERGES, TP_JSON_ARRAY, "an array");
    if (rc == 0)
        rc = read_vocabulary(tokenizer, members.values[VOCAB]);
    if (rc == 0)
        rc = read_unknown(tokenizer, &members);
    if (rc == 0)
        find_byte_tokens(&tokenizer->bpe);
    if (rc == 0)
        rc = read_merges(tokenizer, members.values[MERGES]);
    return rc;
}
