#include "infer/tokenizer/tokenizer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/base/bytes.h"
#include "infer/tokenizer/tokenizer_parts.h"

/* ---- opening */

static int normalize_sought(struct tp_tokenizer *tokenizer, struct tp_matcher *matcher)
{
    struct tp_normalizer_buffers buffers = {0};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < tokenizer->n_added; i++) {
        struct tp_added_token *token = &tokenizer->added[i];
        const char *text = token->content;
        size_t length = token->length;
        if (token->normalized)
            rc = tp_normalize(&tokenizer->normalizer, matcher, text, length, &buffers, &text,
                              &length);
        token->sought = rc == 0 ? malloc(length + 1) : NULL;
        if (rc == 0 && token->sought == NULL)
            rc = -ENOMEM;
        if (rc == 0) {
            memcpy(token->sought, text, length);
            token->sought_length = length;
        }
    }
    tp_normalizer_buffers_clear(&buffers);
    return rc;
}

/* The text of a token as the decoder's rules make it. */
static int show_token(struct tp_tokenizer *tokenizer, struct tp_matcher *matcher, uint32_t id,
                      struct tp_normalizer_buffers *buffers)
{
    const struct tp_text_rules *rules = &tokenizer->rules;
    size_t length;
    const char *text = tp_vocabulary_bytes(&tokenizer->bpe.vocabulary, id, &length);
    if (text == NULL)
        return 0;
    for (unsigned byte = 0; rules->byte_fallback && byte < 256; byte++) {
        if (tokenizer->bpe.of_byte[byte] == id && length == 6 && text[0] == '<') {
            char one = (char)byte;
            return tp_vocabulary_name(&tokenizer->shown, &one, 1, id);
        }
    }
    int rc = tp_normalize(&rules->replace, matcher, text, length, buffers, &text, &length);
    return rc < 0 ? rc : tp_vocabulary_name(&tokenizer->shown, text, length, id);
}

static int show_tokens(struct tp_tokenizer *tokenizer, struct tp_matcher *matcher)
{
    struct tp_normalizer_buffers buffers = {0};
    int rc = 0;
    tp_vocabulary_init(&tokenizer->shown);
    for (size_t id = 0; rc == 0 && id < tokenizer->bpe.vocabulary.n_places; id++)
        rc = show_token(tokenizer, matcher, (uint32_t)id, &buffers);
    tp_normalizer_buffers_clear(&buffers);
    return rc;
}

static int mark_special(struct tp_tokenizer *tokenizer)
{
    tokenizer->special = calloc(tokenizer->bpe.vocabulary.n_places + 1, 1);
    if (tokenizer->special == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < tokenizer->n_added; i++)
        tokenizer->special[tokenizer->added[i].id] = tokenizer->added[i].special;
    return 0;
}

/* What follows from the file's contents. */
static int prepare(struct tp_tokenizer *tokenizer)
{
    struct tp_matcher *matcher = tp_matcher_new();
    int rc = matcher == NULL ? -ENOMEM : normalize_sought(tokenizer, matcher);
    if (rc == 0)
        rc = tp_added_index_init(&tokenizer->found_before, tokenizer->added, tokenizer->n_added,
                                 false);
    if (rc == 0)
        rc = tp_added_index_init(&tokenizer->found_after, tokenizer->added, tokenizer->n_added,
                                 true);
    if (rc == 0)
        rc = mark_special(tokenizer);
    if (rc == 0 && !tokenizer->bpe.byte_level)
        rc = show_tokens(tokenizer, matcher);
    tp_matcher_free(matcher);
    return rc;
}

int tp_tokenizer_parse(const char *json, size_t length, struct tp_tokenizer **ret_tokenizer,
                       struct tp_error *error)
{
    struct tp_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (tokenizer == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    if (error != NULL)
        error->text[0] = '\0';
    int rc = tp_tokenizer_read_json(tokenizer, json, length, error);
    if (rc == 0)
        rc = prepare(tokenizer);
    if (rc < 0) {
        tp_tokenizer_free(tokenizer);
        if (error != NULL && error->text[0] == '\0')
            tp_error_set(error, rc, "%s", rc == -ENOMEM ? "out of memory" : strerror(-rc));
        return rc;
    }
    *ret_tokenizer = tokenizer;
    return 0;
}

int tp_tokenizer_open(const char *path, struct tp_tokenizer **ret_tokenizer, struct tp_error *error)
{
    struct stat status;
    char *file = NULL, *text;
    size_t length;
    bool is_folder = stat(path, &status) == 0 && S_ISDIR(status.st_mode);
    if (asprintf(&file, "%s%s", path, is_folder ? "/tokenizer.json" : "") < 0)
        return tp_error_set(error, -ENOMEM, "out of memory");
    int rc = tp_bytes_read_file(AT_FDCWD, file, TP_TOKENIZER_FILE_MAX, &text, &length, error);
    if (rc == 0) {
        rc = tp_tokenizer_parse(text, length, ret_tokenizer, error);
        free(text);
        if (rc < 0)
            tp_error_prefix(error, rc, "%s", file);
    }
    free(file);
    return rc;
}

void tp_tokenizer_free(struct tp_tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    for (size_t i = 0; i < tokenizer->n_added; i++) {
        free(tokenizer->added[i].content);
        free(tokenizer->added[i].sought);
    }
    free(tokenizer->added);
    tp_added_index_clear(&tokenizer->found_before);
    tp_added_index_clear(&tokenizer->found_after);
    tp_normalizer_clear(&tokenizer->normalizer);
    tp_normalizer_clear(&tokenizer->rules.replace);
    tp_splitter_clear(&tokenizer->splitter);
    tp_ids_clear(&tokenizer->prefix);
    tp_ids_clear(&tokenizer->suffix);
    tp_vocabulary_clear(&tokenizer->shown);
    tp_bpe_clear(&tokenizer->bpe);
    free(tokenizer->special);
    free(tokenizer);
}

/* ---- questions */

size_t tp_tokenizer_size(const struct tp_tokenizer *tokenizer)
{
    return tokenizer->bpe.vocabulary.n_places;
}

bool tp_tokenizer_find(const struct tp_tokenizer *tokenizer, const char *content, uint32_t *ret_id)
{
    size_t length = strlen(content);
    uint32_t id = TP_TOKEN_NONE;
    for (size_t i = 0; i < tokenizer->n_added && id == TP_TOKEN_NONE; i++) {
        const struct tp_added_token *token = &tokenizer->added[i];
        if (token->length == length && memcmp(token->content, content, length) == 0)
            id = token->id;
    }
    if (id == TP_TOKEN_NONE)
        id = tp_vocabulary_find(&tokenizer->bpe.vocabulary, content, length);
    if (id != TP_TOKEN_NONE)
        *ret_id = id;
    return id != TP_TOKEN_NONE;
}

bool tp_tokenizer_find_special(const struct tp_tokenizer *tokenizer, const char *text,
                               size_t length, size_t from, size_t *ret_begin, size_t *ret_end,
                               uint32_t *ret_id)
{
    const struct tp_added_index *kinds[] = {&tokenizer->found_before, &tokenizer->found_after};
    struct tp_matcher *matcher = tp_matcher_new();
    struct tp_added_match match, first = {.token = NULL};
    for (size_t i = 0; matcher != NULL && i < 2; i++) {
        struct tp_added_search search = {from, from};
        while (tp_added_find(kinds[i], matcher, text, length, false, &search, &match) == 1) {
            if (!match.token->special)
                continue;
            if (first.token == NULL || match.begin < first.begin)
                first = match;
            break;
        }
    }
    tp_matcher_free(matcher);
    if (first.token == NULL)
        return false;
    *ret_begin = first.begin;
    *ret_end = first.end;
    *ret_id = first.token->id;
    return true;
}

bool tp_tokenizer_has(const struct tp_tokenizer *tokenizer, uint32_t id)
{
    size_t length;
    return tp_vocabulary_bytes(&tokenizer->bpe.vocabulary, id, &length) != NULL;
}

bool tp_tokenizer_is_special(const struct tp_tokenizer *tokenizer, uint32_t id)
{
    return id < tokenizer->bpe.vocabulary.n_places && tokenizer->special[id] != 0;
}

/* ---- encoding */

struct encoding {
    const struct tp_tokenizer *tokenizer;
    bool ordinary, continued;
    struct tp_matcher *matcher;
    struct tp_bpe_scratch scratch;
    struct tp_normalizer_buffers normalized;
    struct tp_split split;
    struct tp_ids *ids;
};

/* The text before a match; none if it lies in what the match before it took. */
static size_t length_before(const struct tp_added_match *match, size_t done)
{
    return match->begin > done ? match->begin - done : 0;
}

static int encode_piece(void *context, const char *piece, size_t length)
{
    struct encoding *encoding = context;
    return tp_bpe_encode(&encoding->tokenizer->bpe, &encoding->scratch, piece, length,
                         encoding->ids);
}

/* What stands between the tokens that are found before normalization. */
static int encode_between(struct encoding *encoding, const char *text, size_t length, bool at_start)
{
    const struct tp_tokenizer *tokenizer = encoding->tokenizer;
    struct tp_added_search search = {0};
    struct tp_added_match match;
    size_t done = 0;
    int rc = tp_normalize(&tokenizer->normalizer, encoding->matcher, text, length,
                          &encoding->normalized, &text, &length);
    while (rc == 0 && (rc = tp_added_find(&tokenizer->found_after, encoding->matcher, text, length,
                                          encoding->ordinary, &search, &match)) == 1) {
        rc = tp_split_text(&encoding->split, text + done, length_before(&match, done),
                           at_start && done == 0);
        if (rc == 0)
            rc = tp_ids_append(encoding->ids, match.token->id);
        done = match.end;
    }
    return rc < 0
               ? rc
               : tp_split_text(&encoding->split, text + done, length - done, at_start && done == 0);
}

static int encode_text(struct encoding *encoding, const char *text, size_t length)
{
    struct tp_added_search search = {0};
    struct tp_added_match match;
    size_t done = 0;
    int rc = 0;
    while (rc == 0 &&
           (rc = tp_added_find(&encoding->tokenizer->found_before, encoding->matcher, text, length,
                               encoding->ordinary, &search, &match)) == 1) {
        rc = encode_between(encoding, text + done, length_before(&match, done),
                            done == 0 && !encoding->continued);
        if (rc == 0)
            rc = tp_ids_append(encoding->ids, match.token->id);
        done = match.end;
    }
    return rc < 0 ? rc
                  : encode_between(encoding, text + done, length - done,
                                   done == 0 && !encoding->continued);
}

static int append_all(struct tp_ids *ids, const struct tp_ids *more)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < more->n; i++)
        rc = tp_ids_append(ids, more->items[i]);
    return rc;
}

static int explain(int rc, struct tp_error *error)
{
    if (rc == -ELOOP)
        return tp_error_set(error, rc, "the split expression of tokenizer.json takes too long");
    return tp_error_set(error, rc, "%s", rc == -ENOMEM ? "out of memory" : strerror(-rc));
}

int tp_tokenizer_encode(const struct tp_tokenizer *tokenizer, const char *text, size_t length,
                        unsigned flags, struct tp_ids *ids, struct tp_error *error)
{
    if (length > TP_ENCODE_LENGTH_MAX)
        return tp_error_set(error, -EFBIG, "expected a text of at most %d bytes, found %zu",
                            TP_ENCODE_LENGTH_MAX, length);
    if (length == 0)
        text = "";
    size_t valid = tp_utf8_valid(text, length);
    if (valid < length)
        return tp_error_set(error, -EILSEQ, "expected UTF-8, found byte 0x%02x at offset %zu",
                            (unsigned char)text[valid], valid);
    struct encoding encoding = {.tokenizer = tokenizer,
                                .ordinary = (flags & TP_ENCODE_ORDINARY) != 0,
                                .continued = (flags & TP_ENCODE_CONTINUED) != 0,
                                .matcher = tp_matcher_new(),
                                .ids = ids};
    encoding.split =
        (struct tp_split){&tokenizer->splitter, encoding.matcher, encode_piece, &encoding, {{0}}};
    bool bare = (flags & TP_ENCODE_BARE) != 0;
    int rc = encoding.matcher == NULL ? -ENOMEM : 0;
    if (rc == 0)
        rc = tp_ids_reserve(ids, length / 4);
    if (rc == 0 && !bare)
        rc = append_all(ids, &tokenizer->prefix);
    if (rc == 0)
        rc = encode_text(&encoding, text, length);
    if (rc == 0 && !bare)
        rc = append_all(ids, &tokenizer->suffix);
    tp_matcher_free(encoding.matcher);
    tp_bpe_scratch_clear(&encoding.scratch);
    tp_normalizer_buffers_clear(&encoding.normalized);
    tp_split_clear(&encoding.split);
    return rc < 0 ? explain(rc, error) : 0;
}

/* ---- decoding */

static int put(struct tp_decoder *decoder, const char *bytes, size_t length, struct tp_buffer *out)
{
    if ((decoder->flags & TP_DECODE_BYTES) != 0)
        return tp_buffer_append(out, bytes, length);
    return tp_utf8_repair_feed(&decoder->repair, bytes, length, out);
}

/* Metaspace: the first token's marks are not blanks, but nothing. */
static int put_first(struct tp_decoder *decoder, uint32_t id, struct tp_buffer *out)
{
    const struct tp_text_rules *rules = &decoder->tokenizer->rules;
    size_t length, n;
    const char *text = tp_vocabulary_bytes(&decoder->tokenizer->bpe.vocabulary, id, &length);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < length; i += n) {
        n = tp_utf8_step(text[i]);
        if (n != rules->mark_length || memcmp(text + i, rules->mark, n) != 0)
            rc = put(decoder, text + i, n, out);
    }
    return rc;
}

int tp_decoder_feed(struct tp_decoder *decoder, uint32_t id, struct tp_buffer *out)
{
    const struct tp_tokenizer *tokenizer = decoder->tokenizer;
    const struct tp_text_rules *rules = &tokenizer->rules;
    bool skip = (decoder->flags & TP_DECODE_SKIP_SPECIAL) != 0;
    size_t length;
    const char *bytes = tp_vocabulary_bytes(
        tokenizer->bpe.byte_level ? &tokenizer->bpe.vocabulary : &tokenizer->shown, id, &length);
    if (bytes == NULL || (skip && tp_tokenizer_is_special(tokenizer, id)))
        return 0;
    bool first = !decoder->started;
    decoder->started = true;
    if (first && rules->drop_in_first)
        return put_first(decoder, id, out);
    while (decoder->stripped < rules->strip_max && length > 0) {
        if (length < rules->strip_length || memcmp(bytes, rules->strip, rules->strip_length) != 0) {
            decoder->stripped = rules->strip_max;
            break;
        }
        decoder->stripped++;
        bytes += rules->strip_length;
        length -= rules->strip_length;
    }
    return put(decoder, bytes, length, out);
}

int tp_decoder_finish(struct tp_decoder *decoder, struct tp_buffer *out)
{
    return tp_utf8_repair_finish(&decoder->repair, out);
}

int tp_tokenizer_decode(const struct tp_tokenizer *tokenizer, const uint32_t *ids, size_t n,
                        unsigned flags, struct tp_buffer *out)
{
    struct tp_decoder decoder = {.tokenizer = tokenizer, .flags = flags};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = tp_decoder_feed(&decoder, ids[i], out);
    return rc < 0 ? rc : tp_decoder_finish(&decoder, out);
}
