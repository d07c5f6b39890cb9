/* What a tokenizer is made of: filled by tokenizer_json.c, used by tokenizer.c. */
#ifndef TENSORPORT_INFER_TOKENIZER_TOKENIZER_PARTS_H
#define TENSORPORT_INFER_TOKENIZER_TOKENIZER_PARTS_H

#include "infer/tokenizer/added_tokens.h"
#include "infer/tokenizer/bpe.h"
#include "infer/tokenizer/normalizer.h"
#include "infer/tokenizer/splitter.h"
#include "infer/tokenizer/tokenizer.h"

struct tp_tokenizer {
    struct tp_bpe bpe;
    struct tp_added_token *added; /* in the order of their ids */
    size_t n_added;
    struct tp_added_index found_before, found_after; /* normalization */
    struct tp_normalizer normalizer;
    struct tp_splitter splitter;
    struct tp_ids prefix, suffix;     /* what is put around a text */
    uint8_t *special;                 /* by id, 0 or 1 */
    struct tp_text_rules {            /* from tokens to text, for models that are not byte-level */
        struct tp_normalizer replace; /* within each token */
        bool byte_fallback;           /* <0xNN> is that byte */
        bool drop_in_first;           /* the first token loses its `mark`s, as Metaspace says */
        char mark[4];
        size_t mark_length;
        char strip[4]; /* taken from the front of the text, up to `strip_max` times */
        size_t strip_length, strip_max;
    } rules;
    struct tp_vocabulary shown; /* each token's text, if !bpe.byte_level */
};

/* Fills a tokenizer that is all zeros, but for `special`, the indexes, `shown` and the seams. */
int tp_tokenizer_read_json(struct tp_tokenizer *tokenizer, const char *json, size_t length,
                           struct tp_error *error);

#endif
