/* The codecs with AVX2, F16C, FMA and BMI2.
 *
 * Every source but F64 is exact in F32, so a conversion is a load that widens eight elements
 * to F32 and a store that narrows them. Nothing here depends on MXCSR: VCVTPH2PS and VCVTPS2PH
 * keep subnormals whatever FTZ and DAZ say and carry their rounding mode in the instruction;
 * bit patterns are moved and rounded as integers; the two multiplications are exact and have
 * normal operands and results. The last elements of an array are left to the scalar codec.
 *
 * F64 is rounded to its target in one integer step while the result is zero or normal. Groups
 * of four with any other element, and MXFP4 blocks whose scale could leave the normal F32
 * numbers, are left to the scalar codec as well.
 */
#include "decode/bitshuffle_tables.h"
#include "decode/codec_tables.h"
#include "decode/mxfp4_encode_tables.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum {
    LANES = 8,
    /* Scales for which all sixteen values are zero or normal in F32: 0.5 * 2^(2 - 127) is the
     * smallest normal number, and 6 * 2^(253 - 127) would be infinite. */
    MXFP4_SCALE_MIN = 2,
    MXFP4_SCALE_MAX = 252,
};

/* Loads: eight elements as F32. */

typedef __m256 load_fn(const uint8_t *source);

/* E4M3 has the layout of an F16 with a shorter fraction and a bias smaller by 8: shifted into
 * place it is an F16 of 2^-8 times the value. NaN, all ones below the sign, lacks the top bit
 * of the exponent to be an F16 NaN; it is the only one from which adding 1 carries there. */
INLINE __m256 load_f8_e4m3(const uint8_t *source)
{
    __m128i words = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)source));
    __m128i scaled = _mm_and_si128(_mm_slli_epi16(words, 7), _mm_set1_epi16((short)0xbf80));
    __m128i carry = _mm_add_epi16(scaled, _mm_set1_epi16(0x0080));
    __m128i nan = _mm_and_si128(carry, _mm_set1_epi16(0x4000));
    __m256 value = _mm256_cvtph_ps(_mm_or_si128(scaled, nan));
    return _mm256_mul_ps(value, _mm256_set1_ps(256.0F));
}

/* E5M2 is the upper half of an F16. */
INLINE __m256 load_f8_e5m2(const uint8_t *source)
{
    __m128i bytes = _mm_loadl_epi64((const __m128i *)source);
    return _mm256_cvtph_ps(_mm_unpacklo_epi8(_mm_setzero_si128(), bytes));
}

/* E8M0 is the exponent field of an F32, but 0 is the subnormal 2^-127 and 255 is NaN: both
 * need the top bit of the fraction. */
INLINE __m256 load_f8_e8m0(const uint8_t *source)
{
    __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)source));
    __m256i outer = _mm256_or_si256(_mm256_cmpeq_epi32(bytes, _mm256_setzero_si256()),
                                    _mm256_cmpeq_epi32(bytes, _mm256_set1_epi32(255)));
    outer = _mm256_and_si256(outer, _mm256_set1_epi32(0x00400000));
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_slli_epi32(bytes, 23), outer));
}

INLINE __m256 load_f16(const uint8_t *source)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)source));
}

INLINE __m256 load_bf16(const uint8_t *source)
{
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)source));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

INLINE __m256 load_f32(const uint8_t *source)
{
    return _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)source));
}

/* Stores. */

typedef void store_fn(uint8_t *target, __m256 values);

INLINE __m128i to_f16(__m256 values)
{
    return _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT);
}

/* For values that have no bits beyond those of BF16, quiet NaN among them. */
INLINE __m128i to_exact_bf16(__m256 values)
{
    __m256i halves = _mm256_srli_epi32(_mm256_castps_si256(values), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

/* Adds just under half a unit of the result, and the last bit kept to break ties to even. */
INLINE __m128i to_bf16(__m256 values)
{
    __m256i bits = _mm256_castps_si256(values);
    __m256i last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i half = _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff));
    __m256 rounded = _mm256_castsi256_ps(_mm256_add_epi32(bits, half));
    __m256 quiet = _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32(0x00400000)));
    __m256 nan = _mm256_cmp_ps(values, values, _CMP_UNORD_Q);
    return to_exact_bf16(_mm256_blendv_ps(rounded, quiet, nan));
}

INLINE void store_f32(uint8_t *target, __m256 values)
{
    _mm256_storeu_si256((__m256i *)target, _mm256_castps_si256(values));
}

INLINE void store_f16(uint8_t *target, __m256 values)
{
    _mm_storeu_si128((__m128i *)target, to_f16(values));
}

INLINE void store_exact_bf16(uint8_t *target, __m256 values)
{
    _mm_storeu_si128((__m128i *)target, to_exact_bf16(values));
}

INLINE void store_bf16(uint8_t *target, __m256 values)
{
    _mm_storeu_si128((__m128i *)target, to_bf16(values));
}

INLINE void convert(const uint8_t *source, size_t source_width, load_fn *load, uint8_t *target,
                    size_t target_width, store_fn *store, size_t n, tp_convert_fn *scalar)
{
    for (; n >= LANES; n -= LANES) {
        store(target, load(source));
        source += LANES * source_width;
        target += LANES * target_width;
    }
    scalar(source, target, n);
}

#define CONVERTER(from, from_width, FROM, to, to_width, TO)                                        \
    static void from##_to_##to(const void *source, void *target, size_t n)                         \
    {                                                                                              \
        convert(source, from_width, load_##from, target, to_width, store_##to, n,                  \
                tp_codecs_scalar.convert[TP_##FROM][TP_TARGET_##TO]);                              \
    }

CONVERTER(f8_e4m3, 1, F8_E4M3, f32, 4, F32)
CONVERTER(f8_e4m3, 1, F8_E4M3, f16, 2, F16)
CONVERTER(f8_e4m3, 1, F8_E4M3, exact_bf16, 2, BF16)
CONVERTER(f8_e5m2, 1, F8_E5M2, f32, 4, F32)
CONVERTER(f8_e5m2, 1, F8_E5M2, f16, 2, F16)
CONVERTER(f8_e5m2, 1, F8_E5M2, exact_bf16, 2, BF16)
CONVERTER(f8_e8m0, 1, F8_E8M0, f32, 4, F32)
CONVERTER(f8_e8m0, 1, F8_E8M0, f16, 2, F16)
CONVERTER(f8_e8m0, 1, F8_E8M0, exact_bf16, 2, BF16)
CONVERTER(f16, 2, F16, f32, 4, F32)
CONVERTER(f16, 2, F16, bf16, 2, BF16)
CONVERTER(bf16, 2, BF16, f32, 4, F32)
CONVERTER(bf16, 2, BF16, f16, 2, F16)
CONVERTER(f32, 4, F32, f16, 2, F16)
CONVERTER(f32, 4, F32, bf16, 2, BF16)

/* A target type as the rounding of F64 sees it. */
struct narrow_format {
    int fraction_bits;
    int bias;
    int sign_bit;
    size_t width;
};

static const struct narrow_format f32_format = {23, 127, 31, 4};
static const struct narrow_format f16_format = {10, 15, 15, 2};
static const struct narrow_format bf16_format = {7, 127, 15, 2};

/* Whether round_f64() can do all lanes: zero, and what is in the range of normal numbers. */
INLINE int f64_in_range(__m256i magnitude, __m256i zero, struct narrow_format format)
{
    long long smallest = (long long)(1023 + 1 - format.bias) << 52;
    long long beyond = (long long)(1023 + format.bias + 1) << 52;
    __m256i below = _mm256_cmpgt_epi64(_mm256_set1_epi64x(smallest), magnitude);
    __m256i above = _mm256_cmpgt_epi64(magnitude, _mm256_set1_epi64x(beyond - 1));
    __m256i outside = _mm256_or_si256(_mm256_andnot_si256(zero, below), above);
    return _mm256_testz_si256(outside, outside);
}

/* The same rounding as in to_bf16(), then the change of bias; a carry out of the largest
 * exponent makes infinity. */
INLINE __m256i round_f64(__m256i bits, __m256i magnitude, __m256i zero, struct narrow_format format)
{
    int drop = 52 - format.fraction_bits;
    long long rebias = (long long)(1023 - format.bias) << format.fraction_bits;
    __m256i last = _mm256_and_si256(_mm256_srli_epi64(bits, drop), _mm256_set1_epi64x(1));
    __m256i half = _mm256_add_epi64(last, _mm256_set1_epi64x((1LL << (drop - 1)) - 1));
    __m256i rounded = _mm256_srli_epi64(_mm256_add_epi64(magnitude, half), drop);
    rounded = _mm256_andnot_si256(zero, _mm256_sub_epi64(rounded, _mm256_set1_epi64x(rebias)));
    __m256i sign = _mm256_slli_epi64(_mm256_srli_epi64(bits, 63), format.sign_bit);
    return _mm256_or_si256(rounded, sign);
}

/* Stores the low 32 or 16 bits of four lanes, the bits above being zero. */
INLINE void store_narrow(uint8_t *target, __m256i results, size_t width)
{
    __m256i even = _mm256_permutevar8x32_epi32(results, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    __m128i narrow = _mm256_castsi256_si128(even);
    if (width == 4)
        _mm_storeu_si128((__m128i *)target, narrow);
    else
        _mm_storel_epi64((__m128i *)target, _mm_packus_epi32(narrow, narrow));
}

INLINE void convert_f64(const uint8_t *source, uint8_t *target, size_t n,
                        struct narrow_format format, tp_convert_fn *scalar)
{
    for (; n >= 4; n -= 4) {
        __m256i bits = _mm256_loadu_si256((const __m256i *)source);
        __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi64x(INT64_MAX));
        __m256i zero = _mm256_cmpeq_epi64(magnitude, _mm256_setzero_si256());
        if (f64_in_range(magnitude, zero, format))
            store_narrow(target, round_f64(bits, magnitude, zero, format), format.width);
        else
            scalar(source, target, 4);
        source += 4 * sizeof(double);
        target += 4 * format.width;
    }
    scalar(source, target, n);
}

static void f64_to_f32(const void *source, void *target, size_t n)
{
    convert_f64(source, target, n, f32_format, tp_codecs_scalar.convert[TP_F64][TP_TARGET_F32]);
}

static void f64_to_f16(const void *source, void *target, size_t n)
{
    convert_f64(source, target, n, f16_format, tp_codecs_scalar.convert[TP_F64][TP_TARGET_F16]);
}

static void f64_to_bf16(const void *source, void *target, size_t n)
{
    convert_f64(source, target, n, bf16_format, tp_codecs_scalar.convert[TP_F64][TP_TARGET_BF16]);
}

/* MXFP4: the scaled values of a block are the table of a permute whose indices are the codes.
 * The eight values without sign fit one register for F32; as 16-bit numbers all sixteen do,
 * as two registers of bytes. */

typedef void mxfp4_block_fn(const uint8_t *block, __m256 values, uint8_t *target);

/* The permute looks at the low three bits of an index only, so nothing is masked: a byte is
 * widened to the two elements that it holds and shifted so that the low bits of the first are
 * its low nibble and those of the second its high one. */
INLINE void mxfp4_block_f32(const uint8_t *block, __m256 values, uint8_t *target)
{
    const __m256i sign_bit = _mm256_set1_epi32(INT32_MIN);
    for (int quarter = 0; quarter < 4; quarter++) {
        int four;
        memcpy(&four, block + 4 * quarter, sizeof four);
        __m256i bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
        __m256i codes = _mm256_or_si256(bytes, _mm256_slli_epi64(bytes, 28));
        __m256i sign = _mm256_and_si256(_mm256_slli_epi32(codes, 28), sign_bit);
        __m256i magnitude = _mm256_castps_si256(_mm256_permutevar8x32_ps(values, codes));
        _mm256_storeu_si256((__m256i *)(target + 32 * quarter), _mm256_or_si256(magnitude, sign));
    }
}

/* `values` are the eight values without sign. */
INLINE void mxfp4_block_16(const uint8_t *block, __m128i values, uint8_t *target)
{
    const __m128i negative = _mm_set1_epi16(INT16_MIN);
    __m128i negated = _mm_or_si128(values, negative);
    __m128i low_bytes = _mm_packus_epi16(_mm_and_si128(values, _mm_set1_epi16(0xff)),
                                         _mm_and_si128(negated, _mm_set1_epi16(0xff)));
    __m128i high_bytes = _mm_packus_epi16(_mm_srli_epi16(values, 8), _mm_srli_epi16(negated, 8));

    /* Every byte twice, once for each of its codes, in the order that makes the interleaving
     * of low and high bytes below, which works on each half of a register, come out right. */
    const __m256i order = _mm256_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 8, 8, 9, 9, 10, 10, 11, 11, //
                                           4, 4, 5, 5, 6, 6, 7, 7, 12, 12, 13, 13, 14, 14, 15, 15);
    __m128i block_bytes = _mm_loadu_si128((const __m128i *)block);
    __m256i bytes = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(block_bytes), order);
    __m256i even = _mm256_and_si256(bytes, _mm256_set1_epi16(0x000f));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi16(0x0f00));
    __m256i codes = _mm256_or_si256(even, odd);

    __m256i low = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(low_bytes), codes);
    __m256i high = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(high_bytes), codes);
    _mm256_storeu_si256((__m256i *)target, _mm256_unpacklo_epi8(low, high));
    _mm256_storeu_si256((__m256i *)(target + 32), _mm256_unpackhi_epi8(low, high));
}

INLINE void mxfp4_block_f16(const uint8_t *block, __m256 values, uint8_t *target)
{
    mxfp4_block_16(block, to_f16(values), target);
}

INLINE void mxfp4_block_bf16(const uint8_t *block, __m256 values, uint8_t *target)
{
    mxfp4_block_16(block, to_exact_bf16(values), target);
}

INLINE void mxfp4(const uint8_t *blocks, const uint8_t *scales, uint8_t *target, size_t n_blocks,
                  size_t target_width, mxfp4_block_fn *decode, tp_mxfp4_fn *scalar)
{
    const __m256 unscaled = _mm256_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F);
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *block = blocks + b * TP_MXFP4_BLOCK_BYTES;
        uint8_t *decoded = target + b * TP_MXFP4_BLOCK_ELEMENTS * target_width;
        if (scales[b] >= MXFP4_SCALE_MIN && scales[b] <= MXFP4_SCALE_MAX) {
            __m256i scale = _mm256_set1_epi32(scales[b] << 23);
            decode(block, _mm256_mul_ps(unscaled, _mm256_castsi256_ps(scale)), decoded);
        } else {
            scalar(block, scales + b, decoded, 1);
        }
    }
}

static void mxfp4_to_f32(const uint8_t *blocks, const uint8_t *scales, void *target,
                         size_t n_blocks)
{
    mxfp4(blocks, scales, target, n_blocks, 4, mxfp4_block_f32,
          tp_codecs_scalar.mxfp4[TP_TARGET_F32]);
}

static void mxfp4_to_f16(const uint8_t *blocks, const uint8_t *scales, void *target,
                         size_t n_blocks)
{
    mxfp4(blocks, scales, target, n_blocks, 2, mxfp4_block_f16,
          tp_codecs_scalar.mxfp4[TP_TARGET_F16]);
}

static void mxfp4_to_bf16(const uint8_t *blocks, const uint8_t *scales, void *target,
                          size_t n_blocks)
{
    mxfp4(blocks, scales, target, n_blocks, 2, mxfp4_block_bf16,
          tp_codecs_scalar.mxfp4[TP_TARGET_BF16]);
}

const struct tp_codecs tp_codecs_avx2 = {
    .name = "avx2",
    .convert =
        {
            [TP_F8_E4M3] = {f8_e4m3_to_f32, f8_e4m3_to_f16, f8_e4m3_to_exact_bf16},
            [TP_F8_E5M2] = {f8_e5m2_to_f32, f8_e5m2_to_f16, f8_e5m2_to_exact_bf16},
            [TP_F8_E8M0] = {f8_e8m0_to_f32, f8_e8m0_to_f16, f8_e8m0_to_exact_bf16},
            [TP_F16] = {f16_to_f32, NULL, f16_to_bf16},
            [TP_BF16] = {bf16_to_f32, bf16_to_f16, NULL},
            [TP_F32] = {NULL, f32_to_f16, f32_to_bf16},
            [TP_F64] = {f64_to_f32, f64_to_f16, f64_to_bf16},
        },
    .mxfp4 = {mxfp4_to_f32, mxfp4_to_f16, mxfp4_to_bf16},
    .mxfp4_encode = {tp_mxfp4_encode_f32_avx2, tp_mxfp4_encode_f16_avx2, tp_mxfp4_encode_bf16_avx2},
    .bitshuffle = tp_bitshuffle_avx2,
    .bitunshuffle = tp_bitunshuffle_avx2,
};
