/* How the next token is chosen from logits, to the bit: every backend that chooses, and the host,
 * choose alike.
 *
 * In this order: the repetition penalty, temperature, top-k, top-p, min-p, then a draw. Tokens are
 * taken likeliest first, the smaller number first among equal logits, and NaN last. Each has a
 * mass,
 *
 *     round(2^TP_MASS_BITS * exp((logit - largest) / temperature))
 *
 * which is a whole number, so that sums are the same in any order. What top-k, top-p and min-p
 * leave is the beginning of that order, with the sum `kept`; the draw takes the first token at
 * which the sum so far exceeds floor(u * kept). A token whose mass is 0 is never drawn: all of a
 * vocabulary's together would be less than one draw in 2^20.
 */
#ifndef TENSORPORT_INFER_MODEL_SAMPLING_H
#define TENSORPORT_INFER_MODEL_SAMPLING_H

#include <stddef.h>
#include <stdint.h>

enum {
    TP_MASS_BITS = 42,
    TP_VOCABULARY_MAX = 1 << (63 - TP_MASS_BITS), /* so that sums fit 64 bits */
};

struct tp_sampling {
    double temperature;        /* 0: the likeliest token, the first of equals */
    size_t top_k;              /* 0: all */
    double top_p;              /* 1: all; the fewest of the likeliest that reach this sum */
    double min_p;              /* 0: all; at least so much of the likeliest's probability */
    double repetition_penalty; /* 1: none; tokens seen before: logits divided, or multiplied below
                                  zero */
    uint64_t seed;
};

/* u of the draw for a position, uniform in [0, 1): a multiple of 2^-53, times 2^64. By a
 * counter-based generator (Philox 4x32-10; Salmon et al., "Parallel random numbers: as easy as 1,
 * 2, 3", 2011): it depends on the seed and the position only, whatever was drawn before or beside
 * it. */
uint64_t tp_random_bits(uint64_t seed, uint64_t position);

/* The sum that top-p wants of `mass`, and the mass that min-p wants of a token; each at least 1. */
uint64_t tp_sampling_top_mass(double top_p, uint64_t mass);
uint64_t tp_sampling_least_mass(double min_p);

#endif
