#include "infer/engine/sampler.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
    uint32_t token;
    float logit;
    double probability; /* not divided by the sum */
};

struct tp_sampler {
    struct tp_sampling sampling;
    size_t n;
    bool *seen;                   /* [n] */
    float *penalised;             /* [n]; NULL without a penalty */
    struct candidate *candidates; /* [n] */
};

int tp_sampler_new(const struct tp_sampling *sampling, size_t n, struct tp_sampler **ret_sampler)
{
    struct tp_sampler *sampler = calloc(1, sizeof *sampler);
    if (sampler == NULL)
        return -ENOMEM;
    *sampler = (struct tp_sampler){.sampling = *sampling,
                                   .n = n,
                                   .seen = calloc(n, sizeof *sampler->seen),
                                   .candidates = calloc(n, sizeof *sampler->candidates)};
    if (sampling->repetition_penalty != 1)
        sampler->penalised = calloc(n, sizeof *sampler->penalised);
    if (sampler->seen == NULL || sampler->candidates == NULL ||
        (sampling->repetition_penalty != 1 && sampler->penalised == NULL)) {
        tp_sampler_free(sampler);
        return -ENOMEM;
    }
    *ret_sampler = sampler;
    return 0;
}

void tp_sampler_free(struct tp_sampler *sampler)
{
    if (sampler == NULL)
        return;
    free(sampler->seen);
    free(sampler->penalised);
    free(sampler->candidates);
    free(sampler);
}

void tp_sampler_note(struct tp_sampler *sampler, uint32_t token)
{
    if (token < sampler->n)
        sampler->seen[token] = true;
}

/* ---- random numbers ---- */

struct counter {
    uint32_t words[4];
};

static struct counter philox_round(struct counter c, uint32_t key0, uint32_t key1)
{
    uint64_t a = (uint64_t)0xD2511F53 * c.words[0], b = (uint64_t)0xCD9E8D57 * c.words[2];
    return (struct counter){{(uint32_t)(b >> 32) ^ c.words[1] ^ key0, (uint32_t)b,
                             (uint32_t)(a >> 32) ^ c.words[3] ^ key1, (uint32_t)a}};
}

double tp_random_uniform(uint64_t seed, uint64_t position)
{
    enum { ROUNDS = 10 };
    struct counter c = {{(uint32_t)position, (uint32_t)(position >> 32), 0, 0}};
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    for (int i = 0; i < ROUNDS; i++) {
        c = philox_round(c, key0, key1);
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
    uint64_t bits = (uint64_t)c.words[0] << 32 | c.words[1];
    return (double)(bits >> 11) * 0x1p-53;
}

/* ---- choosing ---- */

/* The logits with the penalty; where they are depends on whether there is one. */
static const float *penalise(struct tp_sampler *sampler, const float *logits)
{
    double penalty = sampler->sampling.repetition_penalty;
    if (sampler->penalised == NULL)
        return logits;
    memcpy(sampler->penalised, logits, sampler->n * sizeof *logits);
    for (size_t i = 0; i < sampler->n; i++) {
        if (sampler->seen[i])
            sampler->penalised[i] =
                (float)(logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty);
    }
    return sampler->penalised;
}

/* NaN never is the largest. */
static uint32_t find_largest(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        if (logits[i] > logits[best] || (isnan(logits[best]) && !isnan(logits[i])))
            best = i;
    }
    return (uint32_t)best;
}

/* Largest first; the lower token among equals. */
static int compare(const void *a, const void *b)
{
    const struct candidate *left = a, *right = b;
    if (left->logit != right->logit)
        return left->logit > right->logit ? -1 : 1;
    return left->token < right->token ? -1 : 1;
}

/* Those that have any probability to speak of, likeliest first. */
static size_t collect(struct tp_sampler *sampler, const float *logits, double largest)
{
    /* exp(-60) of the likeliest: all of a vocabulary together is below one draw in 2^53. */
    double lowest = largest - 60 * sampler->sampling.temperature;
    size_t n = 0;
    for (size_t i = 0; i < sampler->n; i++) {
        if (logits[i] >= lowest)
            sampler->candidates[n++] = (struct candidate){
                (uint32_t)i, logits[i], exp((logits[i] - largest) / sampler->sampling.temperature)};
    }
    qsort(sampler->candidates, n, sizeof *sampler->candidates, compare);
    return n;
}

static size_t cut(const struct tp_sampler *sampler, size_t n, double *ret_sum)
{
    const struct tp_sampling *sampling = &sampler->sampling;
    const struct candidate *candidates = sampler->candidates;
    double sum = 0, kept = 0;
    size_t n_kept = 0;
    if (sampling->top_k > 0 && sampling->top_k < n)
        n = sampling->top_k;
    for (size_t i = 0; i < n; i++)
        sum += candidates[i].probability;
    while (n_kept < n && (n_kept == 0 || kept < sampling->top_p * sum) &&
           candidates[n_kept].probability >= sampling->min_p * candidates[0].probability)
        kept += candidates[n_kept++].probability;
    *ret_sum = kept;
    return n_kept;
}

uint32_t tp_sampler_choose(struct tp_sampler *sampler, const float *logits, uint64_t position)
{
    double sum;
    logits = penalise(sampler, logits);
    uint32_t likeliest = find_largest(logits, sampler->n);
    if (!(sampler->sampling.temperature > 0) || !isfinite(logits[likeliest]))
        return likeliest;
    size_t n = cut(sampler, collect(sampler, logits, logits[likeliest]), &sum);
    double left = tp_random_uniform(sampler->sampling.seed, position) * sum;
    for (size_t i = 0; i < n; i++) {
        left -= sampler->candidates[i].probability;
        if (left < 0)
            return sampler->candidates[i].token;
    }
    return sampler->candidates[n - 1].token;
}
