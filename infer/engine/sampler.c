#include "infer/engine/sampler.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
    uint32_t token;
    float logit;
    uint64_t mass;
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

const bool *tp_sampler_seen(const struct tp_sampler *sampler)
{
    return sampler->seen;
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

/* ---- likeliest first ----
 *
 * Of 200,000 tokens a draw seldom needs more than a few hundred of the likeliest, and sorting all
 * of them would take longer than a small model does. So they are a heap, from which the likeliest
 * is taken as often as needed. What was taken lies behind the heap, the first at the very end. */

static bool is_likelier(const struct candidate *a, const struct candidate *b)
{
    return a->logit != b->logit ? a->logit > b->logit : a->token < b->token;
}

/* Puts `candidate` where it belongs below the place `at` of a heap of `n`. */
static void sink(struct candidate *heap, size_t n, size_t at, struct candidate candidate)
{
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && is_likelier(&heap[child + 1], &heap[child]))
            child++;
        if (!is_likelier(&heap[child], &candidate))
            break;
        heap[at] = heap[child];
    }
    heap[at] = candidate;
}

static void make_heap(struct candidate *candidates, size_t n)
{
    for (size_t i = n / 2; i-- > 0;)
        sink(candidates, n, i, candidates[i]);
}

/* The likeliest of those left; `*n` > 0 of them. */
static const struct candidate *take_likeliest(struct candidate *heap, size_t *n)
{
    struct candidate likeliest = heap[0];
    *n -= 1;
    sink(heap, *n, 0, heap[*n]);
    heap[*n] = likeliest;
    return &heap[*n];
}

/* Those that can be drawn, as a heap, and their sum. */
static size_t collect(struct tp_sampler *sampler, const float *logits, double largest,
                      uint64_t *ret_sum)
{
    const double one = (double)((uint64_t)1 << TP_MASS_BITS);
    double temperature = sampler->sampling.temperature;
    uint64_t sum = 0;
    size_t n = 0;
    for (size_t i = 0; i < sampler->n; i++) {
        double mass = rint(one * exp((logits[i] - largest) / temperature));
        if (!(mass >= 1))
            continue;
        sampler->candidates[n++] = (struct candidate){(uint32_t)i, logits[i], (uint64_t)mass};
        sum += (uint64_t)mass;
    }
    make_heap(sampler->candidates, n);
    *ret_sum = sum;
    return n;
}

/* Leaves the `n_taken` candidates that were taken from a heap that had `n`, as a heap. */
static size_t keep_taken(struct candidate *candidates, size_t n, size_t n_taken)
{
    memmove(candidates, candidates + (n - n_taken), n_taken * sizeof *candidates);
    make_heap(candidates, n_taken);
    return n_taken;
}

/* Top-k: gives how many of `n` candidates are left, and their sum. */
static size_t cut_to_k(struct candidate *candidates, size_t n, size_t k, uint64_t *sum)
{
    if (k == 0 || k >= n)
        return n;
    *sum = 0;
    for (size_t left = n; left > n - k;)
        *sum += take_likeliest(candidates, &left)->mass;
    return keep_taken(candidates, n, k);
}

/* Top-p and min-p: the same. The likeliest always stays. */
static size_t cut_to_p(struct candidate *candidates, size_t n, double top_p, double min_p,
                       uint64_t *sum)
{
    uint64_t kept = 0, wanted = tp_sampling_top_mass(top_p, *sum);
    uint64_t least = tp_sampling_least_mass(min_p);
    size_t left = n;
    if (top_p >= 1 && min_p <= 0)
        return n;
    while (left == n || (left > 0 && kept < wanted && candidates[0].mass >= least))
        kept += take_likeliest(candidates, &left)->mass;
    *sum = kept;
    return keep_taken(candidates, n, n - left);
}

/* floor(u * sum). */
static uint64_t scale(uint64_t u, uint64_t sum)
{
    return (uint64_t)((unsigned __int128)u * sum >> 64);
}

uint32_t tp_sampler_choose(struct tp_sampler *sampler, const float *logits, uint64_t position)
{
    logits = penalise(sampler, logits);
    const struct tp_sampling *sampling = &sampler->sampling;
    struct candidate *candidates = sampler->candidates;
    uint32_t likeliest = find_largest(logits, sampler->n);
    if (!(sampling->temperature > 0) || !isfinite(logits[likeliest]))
        return likeliest;
    uint64_t sum;
    size_t n = collect(sampler, logits, logits[likeliest], &sum);
    n = cut_to_k(candidates, n, sampling->top_k, &sum);
    n = cut_to_p(candidates, n, sampling->top_p, sampling->min_p, &sum);
    uint64_t draw = scale(tp_random_bits(sampling->seed, position), sum), before = 0;
    uint32_t token = likeliest;
    for (size_t left = n; left > 0 && before <= draw;) {
        const struct candidate *next = take_likeliest(candidates, &left);
        before += next->mass;
        token = next->token;
    }
    return token;
}
