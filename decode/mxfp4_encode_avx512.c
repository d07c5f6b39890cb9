/* Quantising to MXFP4 with AVX-512 (F, BW, VL, DQ): a block is two registers of F32 patterns.
 *
 * From 1 on, in units of the scale, a code is the top of the pattern, exponent and one bit of
 * fraction, rounded as integers are; below there are two comparisons. Conversions from F16 keep
 * subnormals whatever MXCSR says, and nothing else is arithmetic in floating point.
 */
#include "decode/mxfp4_encode_tables.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

typedef __m512i load_fn(const uint8_t *values);

INLINE __m512i load_f32(const uint8_t *values)
{
    return _mm512_loadu_si512(values);
}

INLINE __m512i load_f16(const uint8_t *values)
{
    return _mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)values)));
}

INLINE __m512i load_bf16(const uint8_t *values)
{
    __m256i words = _mm256_loadu_si256((const __m256i *)values);
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16);
}

INLINE __m512i magnitudes_of(__m512i values)
{
    return _mm512_and_si512(values, _mm512_set1_epi32(INT32_MAX));
}

/* Sixteen codes as bytes. `one` is the pattern of the scale. */
INLINE __m128i encode_half(__m512i values, __m512i one)
{
    __m512i magnitudes = magnitudes_of(values);
    /* Half of what is dropped, less one where the last bit kept is even. */
    __m512i last = _mm512_and_si512(_mm512_srli_epi32(magnitudes, 22), _mm512_set1_epi32(1));
    __m512i half = _mm512_add_epi32(last, _mm512_set1_epi32(0x1fffff));
    __m512i rounded = _mm512_add_epi32(_mm512_sub_epi32(magnitudes, one), half);
    __m512i normal = _mm512_add_epi32(_mm512_srli_epi32(rounded, 22), _mm512_set1_epi32(2));

    __m512i quarter = _mm512_sub_epi32(one, _mm512_set1_epi32(2 << 23));
    __m512i three_quarters = _mm512_sub_epi32(one, _mm512_set1_epi32(1 << 22));
    __mmask16 above_quarter = _mm512_cmpgt_epi32_mask(magnitudes, quarter);
    __mmask16 from_three_quarters = _mm512_cmpge_epi32_mask(magnitudes, three_quarters);
    __mmask16 from_one = _mm512_cmpge_epi32_mask(magnitudes, one);
    __m512i codes = _mm512_maskz_set1_epi32(above_quarter, 1);
    codes = _mm512_mask_set1_epi32(codes, from_three_quarters, 2);
    codes = _mm512_mask_min_epi32(codes, from_one, normal, _mm512_set1_epi32(7));

    __m512i signs = _mm512_and_si512(_mm512_srli_epi32(values, 28), _mm512_set1_epi32(8));
    return _mm512_cvtepi32_epi8(_mm512_or_si512(codes, signs));
}

INLINE __m128i encode_block(__m512i first, __m512i second, uint8_t scale)
{
    __m512i one = _mm512_set1_epi32(scale << 23);
    __m256i codes = _mm256_set_m128i(encode_half(second, one), encode_half(first, one));
    /* The even code of each pair plus sixteen times the odd one. */
    __m256i pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x1001));
    return _mm256_cvtepi16_epi8(pairs);
}

INLINE void encode(const void *values, size_t width, load_fn *load, uint8_t *blocks,
                   uint8_t *scales, size_t n_blocks, tp_mxfp4_encode_fn *scalar)
{
    const uint8_t *from = values;

    for (size_t b = 0; b < n_blocks; b++) {
        __m512i first = load(from);
        __m512i second = load(from + 16 * width);
        uint32_t largest =
            _mm512_reduce_max_epu32(_mm512_max_epu32(magnitudes_of(first), magnitudes_of(second)));
        uint32_t field = largest >> 23;
        if (field >= TP_MXFP4_LEAST_FIELD && field <= TP_MXFP4_GREATEST_FIELD) {
            uint8_t scale = (uint8_t)(field - 2);
            _mm_storeu_si128((__m128i *)blocks, encode_block(first, second, scale));
            *scales = scale;
        } else {
            scalar(from, blocks, scales, 1);
        }
        from += TP_MXFP4_BLOCK_ELEMENTS * width;
        blocks += TP_MXFP4_BLOCK_BYTES;
        scales++;
    }
}

#define ENCODER(from, width)                                                                       \
    void tp_mxfp4_encode_##from##_avx512(const void *values, uint8_t *blocks, uint8_t *scales,     \
                                         size_t n_blocks)                                          \
    {                                                                                              \
        encode(values, width, load_##from, blocks, scales, n_blocks,                               \
               tp_mxfp4_encode_##from##_scalar);                                                   \
    }

ENCODER(f32, 4)
ENCODER(f16, 2)
ENCODER(bf16, 2)
