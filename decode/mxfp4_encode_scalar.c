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

enum { FRACTION_BITS = 23, EXPONENT_OF_E2M1 = 2, SIGN_CODE = 8, CODE_OF_6 = 7 };

static const uint32_t infinity = UINT32_C(255) << FRACTION_BITS;

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

/* The number of midpoints below `magnitude`, which the scale belongs to. At a midpoint the even
 * code wins: the upper one at the second, fourth and sixth. */
static uint8_t code_of(uint32_t magnitude, uint8_t scale)
{
    static const uint8_t midpoints[] = {1, 3, 5, 7, 10, 14, 20}; /* quarters */
    enum { N_MIDPOINTS = sizeof midpoints / sizeof midpoints[0] };

    if (magnitude == infinity)
        return CODE_OF_6;
    /* significand * 2^(field - 150) against midpoint * 2^(scale - 127 - 2) */
    int field = (int)(magnitude >> FRACTION_BITS);
    uint64_t significand = magnitude & ((UINT32_C(1) << FRACTION_BITS) - 1);
    if (field > 0)
        significand |= UINT32_C(1) << FRACTION_BITS;
    else
        field = 1;
    int shift = scale - 129 - (field - 150);
    if (shift > FRACTION_BITS)
        return 0; /* the significand is smaller than the least midpoint */

    uint8_t code = 0;
    for (uint8_t i = 0; i < N_MIDPOINTS; i++) {
        uint64_t midpoint = (uint64_t)midpoints[i] << shift;
        code += significand > midpoint || (significand == midpoint && i % 2 == 1);
    }
    return code;
}

static void encode_block(const uint32_t values[TP_MXFP4_BLOCK_ELEMENTS],
                         uint8_t block[TP_MXFP4_BLOCK_BYTES], uint8_t *ret_scale)
{
    uint8_t scale = scale_of(values);
    uint8_t codes[TP_MXFP4_BLOCK_ELEMENTS] = {0};

    for (size_t i = 0; i < TP_MXFP4_BLOCK_ELEMENTS && scale != TP_MXFP4_SCALE_OF_NAN; i++) {
        codes[i] = code_of(magnitude_of(values[i]), scale);
        if (values[i] > INT32_MAX)
            codes[i] |= SIGN_CODE;
    }
    for (size_t j = 0; j < TP_MXFP4_BLOCK_BYTES; j++)
        block[j] = (uint8_t)(codes[2 * j] | codes[2 * j + 1] << 4);
    *ret_scale = scale;
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
