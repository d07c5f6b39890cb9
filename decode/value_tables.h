/* The tables of loops behind value_statistics.h, one for each instruction set. */
#ifndef TENSORPORT_DECODE_VALUE_TABLES_H
#define TENSORPORT_DECODE_VALUE_TABLES_H

#include <stdint.h>

#include "decode/value_statistics.h"

/* What a chunk of floats holds. */
struct tp_value_classes {
    uint64_t zeros, nans, infinities, float16_overflows, float16_zeros;
    int32_t least, greatest; /* keys of the finite values: see value_kernels.inc */
};

struct tp_value_kernels {
    void (*classify)(const float values[TP_VALUE_CHUNK], struct tp_value_classes *ret_classes);
    /* Sums of value - shift and of its square; all values are finite. */
    void (*sum)(const float values[TP_VALUE_CHUNK], double shift, double *ret_sum,
                double *ret_squares);
    void (*count_losses)(const float values[TP_VALUE_CHUNK], uint64_t *overflowed,
                         uint64_t *became_zero);
};

extern const struct tp_value_kernels tp_value_kernels_base;
extern const struct tp_value_kernels tp_value_kernels_avx2;
extern const struct tp_value_kernels tp_value_kernels_avx512;

#endif
