/* Quantising to MXFP4 with AVX2 and F16C: a block is four registers of F32 patterns.
 *
 * From 1 on, in units of the scale, a code is the top of the pattern, exponent and one bit of
 * fraction, rounded as integers are; below there are two comparisons. Conversions from F16 keep
 * subnormals whatever MXCSR says, and nothing else is arithmetic in floating point.
 */
#include "decode/mxfp4_encode_tables.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 8, REGISTERS = TP_MXFP4_BLOCK_ELEMENTS / LANES };

typedef __m256i load_fn(const uint8_t *values);

INLINE __m256i load_f32(const uint8_t *values)
{
    return _mm256_loadu_si256((const __m256i *)values);
}

INLINE __m256i load_f16(const uint8_t *values)
{
    return _mm256_castps_si256(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)values)));
}

INLINE __m256i load_bf16(const uint8_t *values)
{
    __m128i words = _mm_loadu_si128((const __m128i *)values);
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16);
}

INLINE __m256i magnitudes_of(__m256i values)
{
    return _mm256_and_si256(values, _mm256_set1_epi32(INT32_MAX));
}

INLINE uint32_t largest_of(const __m256i values[REGISTERS])
{
    __m256i low = _mm256_max_epu32(magnitudes_of(values[0]), magnitudes_of(values[1]));
    __m256i high = _mm256_max_epu32(magnitudes_of(values[2]), magnitudes_of(values[3]));
    __m256i eight = _mm256_max_epu32(low, high);
    __m128i largest =
        _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    largest = _mm_max_epu32(largest, _mm_shuffle_epi32(largest, _MM_SHUFFLE(1, 0, 3, 2)));
    largest = _mm_max_epu32(largest, _mm_shuffle_epi32(largest, _MM_SHUFFLE(2, 3, 0, 1)));
    return (uint32_t)_mm_cvtsi128_si32(largest);
}

/* Eight codes in 32 bits each. `one` is the pattern of the scale. */
INLINE __m256i encode_lanes(__m256i values, __m256i one)
{
    __m256i magnitudes = magnitudes_of(values);
    /* Half of what is dropped, less one where the last bit kept is even. */
    __m256i last = _mm256_and_si256(_mm256_srli_epi32(magnitudes, 22), _mm256_set1_epi32(1));
    __m256i half = _mm256_add_epi32(last, _mm256_set1_epi32(0x1fffff));
    __m256i rounded = _mm256_add_epi32(_mm256_sub_epi32(magnitudes, one), half);
    __m256i normal = _mm256_add_epi32(_mm256_srli_epi32(rounded, 22), _mm256_set1_epi32(2));
    normal = _mm256_min_epi32(normal, _mm256_set1_epi32(7));

    /* Comparisons give -1 where they hold. */
    __m256i quarter = _mm256_sub_epi32(one, _mm256_set1_epi32(2 << 23));
    __m256i three_quarters = _mm256_sub_epi32(one, _mm256_set1_epi32(1 << 22));
    __m256i above_quarter = _mm256_cmpgt_epi32(magnitudes, quarter);
    __m256i below_three_quarters = _mm256_cmpgt_epi32(three_quarters, magnitudes);
    __m256i below_one = _mm256_cmpgt_epi32(one, magnitudes);
    __m256i small = _mm256_sub_epi32(_mm256_add_epi32(below_three_quarters, _mm256_set1_epi32(1)),
                                     above_quarter);
    __m256i codes = _mm256_blendv_epi8(normal, small, below_one);

    __m256i signs = _mm256_and_si256(_mm256_srli_epi32(values, 28), _mm256_set1_epi32(8));
    return _mm256_or_si256(codes, signs);
}

INLINE __m128i encode_block(const __m256i values[REGISTERS], uint8_t scale)
{
    __m256i one = _mm256_set1_epi32(scale << 23);
    __m256i low = _mm256_packus_epi32(encode_lanes(values[0], one), encode_lanes(values[1], one));
    __m256i high = _mm256_packus_epi32(encode_lanes(values[2], one), encode_lanes(values[3], one));
    /* Packing works on each half of a register: put groups of four codes in order again. */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i codes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
    /* The even code of each pair plus sixteen times the odd one. */
    __m256i pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x1001));
    return _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
}

INLINE void encode(const void *values, size_t width, load_fn *load, uint8_t *blocks,
                   uint8_t *scales, size_t n_blocks, tp_mxfp4_encode_fn *scalar)
{
    const uint8_t *from = values;

    for (size_t b = 0; b < n_blocks; b++) {
        __m256i block[REGISTERS];
        for (size_t i = 0; i < REGISTERS; i++)
            block[i] = load(from + i * LANES * width);
        uint32_t field = largest_of(block) >> 23;
        if (field >= TP_MXFP4_LEAST_FIELD && field <= TP_MXFP4_GREATEST_FIELD) {
            uint8_t scale = (uint8_t)(field - 2);
            _mm_storeu_si128((__m128i *)blocks, encode_block(block, scale));
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
    void tp_mxfp4_encode_##from##_avx2(const void *values, uint8_t *blocks, uint8_t *scales,       \
                                       size_t n_blocks)                                            \
    {                                                                                              \
        encode(values, width, load_##from, blocks, scales, n_blocks,                               \
               tp_mxfp4_encode_##from##_scalar);                                                   \
    }

ENCODER(f32, 4)
ENCODER(f16, 2)
ENCODER(bf16, 2)
