/* Quantising to MXFP4, the reference that defines every result.
 *
 * All three types are exact in F32, so a block is 32 patterns of F32. A magnitude is compared
 * with the midpoints between the values of E2M1 as integers: no arithmetic in floating point
 * that could depend on the state of the processor.
 */
#include "decode/mxfp4_encode.h"

#include <string.h>

#include "decode/codec_tables.h"
#include "decode/mxfp4_encode_tables.h"

enum {
    FRACTION_BITS = 23,
    INFINITE_FIELD = 255,
    EXPONENT_OF_E2M1 = 2,
    SIGN_SHIFT = 3,
    CODE_OF_6 = 7,
};

static const uint32_t infinity = (uint32_t)INFINITE_FIELD << FRACTION_BITS;

static inline uint32_t magnitude_of(uint32_t bits)
{
    return bits & INT32_MAX;
}

static uint8_t scale_of(const uint32_t values[TP_MXFP4_BLOCK_ELEMENTS])
{
    uint32_t largest = 0;

    for (size_t i = 0; i < TP_MXFP4_BLOCK_ELEMENTS; i++) {
        if (largest < magnitude_of(values[i]))
            largest = magnitude_of(values[i]);
    }
    if (largest > infinity)
        return TP_MXFP4_SCALE_OF_NAN;
    uint32_t field = largest >> FRACTION_BITS;
    return field > EXPONENT_OF_E2M1 ? (uint8_t)(field - EXPONENT_OF_E2M1) : 0;
}

/* The pattern of quarters * 2^(scale - 127) / 4, which F32 holds, or its largest finite number. */
static uint32_t pattern_of(uint32_t quarters, uint8_t scale)
{
    int top = 31 - __builtin_clz(quarters);
    int field = top + scale - 2;

    if (field >= INFINITE_FIELD)
        return infinity - 1;
    if (field < 1) /* subnormal: in units of 2^-149 */
        return quarters << (scale + 20);
    uint32_t fraction = (quarters << (FRACTION_BITS - top)) & ((UINT32_C(1) << FRACTION_BITS) - 1);
    return (uint32_t)field << FRACTION_BITS | fraction;
}

/* The largest pattern below which each code but the last ends: the midpoint to the next one, which
 * at the midpoint itself wins if it is even. */
static void find_limits(uint8_t scale, uint32_t limits[CODE_OF_6])
{
    static const uint8_t midpoints[CODE_OF_6] = {1, 3, 5, 7, 10, 14, 20}; /* in quarters */

    for (uint32_t code = 0; code < CODE_OF_6; code++)
        limits[code] = pattern_of(midpoints[code], scale) - code % 2;
}

static void encode_block(const uint32_t values[TP_MXFP4_BLOCK_ELEMENTS],
                         uint8_t block[TP_MXFP4_BLOCK_BYTES], uint8_t *ret_scale)
{
    uint8_t scale = scale_of(values);
    uint32_t codes[TP_MXFP4_BLOCK_ELEMENTS], limits[CODE_OF_6];

    *ret_scale = scale;
    if (scale == TP_MXFP4_SCALE_OF_NAN) {
        memset(block, 0, TP_MXFP4_BLOCK_BYTES);
        return;
    }
    find_limits(scale, limits);
    for (size_t i = 0; i < TP_MXFP4_BLOCK_ELEMENTS; i++) {
        codes[i] = values[i] >> 31 << SIGN_SHIFT;
        for (size_t j = 0; j < CODE_OF_6; j++)
            codes[i] += (int32_t)magnitude_of(values[i]) > (int32_t)limits[j];
    }
    for (size_t j = 0; j < TP_MXFP4_BLOCK_BYTES; j++)
        block[j] = (uint8_t)(codes[2 * j] | codes[2 * j + 1] << 4);
}

/* Through `widen`, or as they are where it is NULL. */
static inline void encode(const void *values, size_t width, tp_convert_fn *widen, uint8_t *blocks,
                          uint8_t *scales, size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *from = (const uint8_t *)values + b * TP_MXFP4_BLOCK_ELEMENTS * width;
        uint32_t wide[TP_MXFP4_BLOCK_ELEMENTS];
        if (widen != NULL)
            widen(from, wide, TP_MXFP4_BLOCK_ELEMENTS);
        else
            memcpy(wide, from, sizeof wide);
        encode_block(wide, blocks + b * TP_MXFP4_BLOCK_BYTES, scales + b);
    }
}

void tp_mxfp4_encode_f32_scalar(const void *values, uint8_t *blocks, uint8_t *scales,
                                size_t n_blocks)
{
    encode(values, 4, NULL, blocks, scales, n_blocks);
}

void tp_mxfp4_encode_f16_scalar(const void *values, uint8_t *blocks, uint8_t *scales,
                                size_t n_blocks)
{
    encode(values, 2, tp_codecs_scalar.convert[TP_F16][TP_TARGET_F32], blocks, scales, n_blocks);
}

void tp_mxfp4_encode_bf16_scalar(const void *values, uint8_t *blocks, uint8_t *scales,
                                 size_t n_blocks)
{
    encode(values, 2, tp_codecs_scalar.convert[TP_BF16][TP_TARGET_F32], blocks, scales, n_blocks);
}
