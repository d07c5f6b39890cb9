/* Statistics of arrays of numbers: extremes, mean, deviation, and what is special among them.
 *
 * Values are taken in chunks of a fixed length, and what is known of two ranges is merged by the
 * formula of Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm for computing
 * sample variances", 1979). The mean is kept in two doubles, so that a huge mean does not swallow
 * a tiny deviation however many values there are. The same values, added and merged in the same
 * order, give the same bits on every machine and with every instruction set: sums run in eight
 * lanes, and nothing is contracted into fused multiply-adds.
 *
 * Extremes, mean and deviation are those of the finite values; NaN and infinities are counted.
 */
#ifndef TENSORPORT_DECODE_VALUE_STATISTICS_H
#define TENSORPORT_DECODE_VALUE_STATISTICS_H

#include <stddef.h>
#include <stdint.h>

#include "decode/dtype.h"

/* Values that are looked at together; adding a multiple of it at a time costs least. */
enum { TP_VALUE_CHUNK = 1024 };

/* Of values times 2^-scale, so that float64 neither overflows nor vanishes when it is squared. */
struct tp_value_moments {
    uint64_t n;
    int scale;
    double mean, mean_low; /* the mean is the sum of both */
    double squares;        /* sum of the squared distances from the mean */
};

/* All zero is "no values yet". */
struct tp_value_statistics {
    uint64_t n; /* values; a complex one counts as two */
    uint64_t zeros, nans, infinities;
    /* What float16, rounded to nearest even, makes infinite or zero of the finite values that are
     * not zero; of real floating-point values only. */
    uint64_t float16_overflows, float16_zeros;
    /* Of the finite values, valid when moments.n > 0. Integers of 64 bits are exact in the second
     * pair: signed ones are stored with their top bit flipped, so that both kinds order as
     * unsigned numbers do. */
    double minimum, maximum;
    uint64_t minimum_integer, maximum_integer;
    struct tp_value_moments moments;
};

/* Adds `n` values of one type: F32, F64, C64 (whose parts are values of their own), BOOL or an
 * integer. Any alignment. Other types have to be decoded to F32 first. */
void tp_value_statistics_add(struct tp_value_statistics *statistics, enum tp_dtype dtype,
                             const void *values, size_t n);

/* Adds what was found in the values that follow, of the same type. */
void tp_value_statistics_merge(struct tp_value_statistics *statistics,
                               const struct tp_value_statistics *next);

/* Mean, and the standard deviation of all values (numpy's ddof=0). NaN when moments.n is 0;
 * infinite when float64 cannot hold it. */
double tp_value_statistics_mean(const struct tp_value_statistics *statistics);
double tp_value_statistics_deviation(const struct tp_value_statistics *statistics);

/* How many of `n` finite values float16 would make infinite (|x| >= 65520) and how many that are
 * not zero it would make zero (|x| <= 2^-25), rounding to nearest even. NaN and infinities do not
 * count. Adds to both counters. Any alignment; at the speed of memory. */
void tp_count_float16_losses(const float *values, size_t n, uint64_t *overflowed,
                             uint64_t *became_zero);

#endif
