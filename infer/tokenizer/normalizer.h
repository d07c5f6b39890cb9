/* What is done to the text between added tokens before it is split: SentencePiece's models put a
 * "▁" in front and in the place of blanks. */
#ifndef TENSORPORT_INFER_TOKENIZER_NORMALIZER_H
#define TENSORPORT_INFER_TOKENIZER_NORMALIZER_H

#include <stddef.h>

#include "infer/tokenizer/buffer.h"
#include "infer/tokenizer/pattern.h"

enum { TP_NORMALIZER_STEPS_MAX = 16 };

struct tp_normalizer {
    struct tp_normalizer_step {
        struct tp_pattern *pattern; /* each match is replaced; NULL: `content` is put in front */
        char *content;
        size_t length;
    } steps[TP_NORMALIZER_STEPS_MAX];
    size_t n;
};

void tp_normalizer_clear(struct tp_normalizer *normalizer);

/* Two buffers that take turns; they start as zeros. */
struct tp_normalizer_buffers {
    struct tp_buffer turns[2];
};
void tp_normalizer_buffers_clear(struct tp_normalizer_buffers *buffers);

/* Gives the normalized text, in one of the buffers, or `text` itself if nothing is to be done. The
 * errors of tp_pattern_find(). */
int tp_normalize(const struct tp_normalizer *normalizer, struct tp_matcher *matcher,
                 const char *text, size_t length, struct tp_normalizer_buffers *buffers,
                 const char **ret_text, size_t *ret_length);

#endif
