/* Choosing the next token from logits, as infer/model/sampling.h says. */
#ifndef TENSORPORT_INFER_ENGINE_SAMPLER_H
#define TENSORPORT_INFER_ENGINE_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infer/model/sampling.h"

struct tp_sampler;

/* For a vocabulary of `n` tokens. -ENOMEM. */
int tp_sampler_new(const struct tp_sampling *sampling, size_t n, struct tp_sampler **ret_sampler);
void tp_sampler_free(struct tp_sampler *sampler);

/* A token is in the text now: the repetition penalty knows it. */
void tp_sampler_note(struct tp_sampler *sampler, uint32_t token);

/* Which tokens are: [n], the sampler's. */
const bool *tp_sampler_seen(const struct tp_sampler *sampler);

/* The token for position `position`, from `logits` [n]. */
uint32_t tp_sampler_choose(struct tp_sampler *sampler, const float *logits, uint64_t position);

#endif
