/* Choosing the next token from logits.
 *
 * In this order: the repetition penalty, temperature, top-k, top-p, min-p, then a draw. Random
 * numbers come from a counter-based generator (Philox 4x32-10; Salmon et al., "Parallel random
 * numbers: as easy as 1, 2, 3", 2011): the draw of a position depends on the seed and the position
 * only, whatever was drawn before or beside it.
 */
#ifndef TENSORPORT_INFER_ENGINE_SAMPLER_H
#define TENSORPORT_INFER_ENGINE_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

struct tp_sampling {
    double temperature;        /* 0: the likeliest token, the first of equals */
    size_t top_k;              /* 0: all */
    double top_p;              /* 1: all; the fewest of the likeliest that reach this sum */
    double min_p;              /* 0: all; at least so much of the likeliest's probability */
    double repetition_penalty; /* 1: none; tokens seen before: logits divided, or multiplied below
                                  zero */
    uint64_t seed;
};

struct tp_sampler;

/* For a vocabulary of `n` tokens. -ENOMEM. */
int tp_sampler_new(const struct tp_sampling *sampling, size_t n, struct tp_sampler **ret_sampler);
void tp_sampler_free(struct tp_sampler *sampler);

/* A token is in the text now: the repetition penalty knows it. */
void tp_sampler_note(struct tp_sampler *sampler, uint32_t token);

/* The token for position `position`, from `logits` [n]. */
uint32_t tp_sampler_choose(struct tp_sampler *sampler, const float *logits, uint64_t position);

/* Uniform in [0, 1), 53 bits. */
double tp_random_uniform(uint64_t seed, uint64_t position);

#endif
