/* The codecs with AVX-512 (F, BW, VL, DQ).
 *
 * Every source but F64 is exact in F32, so a conversion is a load that widens sixteen elements
 * to F32 and a store that narrows them. Nothing here depends on MXCSR: VCVTPH2PS and VCVTPS2PH
 * keep subnormals whatever FTZ and DAZ say and carry their rounding mode in the instruction;
 * bit patterns are moved and rounded as integers; the two multiplications are exact and have
 * normal operands and results. Tails use masked loads and stores, which touch no byte outside
 * the mask.
 *
 * F64 is rounded to its target in one integer step while the result is zero or normal. Groups
 * of eight with any other element, and MXFP4 blocks whose scale could leave the normal F32
 * numbers, are left to the scalar codec.
 */
#include "decode/bitshuffle_tables.h"
#include "decode/codec_tables.h"
#include "decode/mxfp4_encode_tables.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum {
    LANES = 16,
    ALL_LANES = 0xffff,
    /* Scales for which all sixteen values are zero or normal in F32: 0.5 * 2^(2 - 127) is the
     * smallest normal number, and 6 * 2^(253 - 127) would be infinite. */
    MXFP4_SCALE_MIN = 2,
    MXFP4_SCALE_MAX = 252,
    TO_NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC,
};

/* Loads: sixteen elements, or those of the mask and zeros, as F32. */

typedef __m512 load_fn(const uint8_t *source, __mmask16 lanes);

/* E4M3 has the layout of an F16 with a shorter fraction and a bias smaller by 8: shifted into
 * place it is an F16 of 2^-8 times the value. NaN, all ones below the sign, lacks the top bit
 * of the exponent to be an F16 NaN; it is the only one from which adding 1 carries there. */
INLINE __m512 load_f8_e4m3(const uint8_t *source, __mmask16 lanes)
{
    __m256i words = _mm256_cvtepi8_epi16(_mm_maskz_loadu_epi8(lanes, source));
    __m256i scaled =
        _mm256_and_si256(_mm256_slli_epi16(words, 7), _mm256_set1_epi16((short)0xbf80));
    __m256i carry = _mm256_add_epi16(scaled, _mm256_set1_epi16(0x0080));
    __m256i nan = _mm256_and_si256(carry, _mm256_set1_epi16(0x4000));
    __m512 value = _mm512_cvtph_ps(_mm256_or_si256(scaled, nan));
    return _mm512_mul_ps(value, _mm512_set1_ps(256.0F));
}

/* E5M2 is the upper half of an F16. */
INLINE __m512 load_f8_e5m2(const uint8_t *source, __mmask16 lanes)
{
    __m256i words = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(lanes, source));
    return _mm512_cvtph_ps(_mm256_slli_epi16(words, 8));
}

/* E8M0 is the exponent field of an F32, but 0 is the subnormal 2^-127 and 255 is NaN: both
 * need the top bit of the fraction. */
INLINE __m512 load_f8_e8m0(const uint8_t *source, __mmask16 lanes)
{
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, source));
    __mmask16 outer = _mm512_cmpge_epu32_mask(_mm512_sub_epi32(bytes, _mm512_set1_epi32(1)),
                                              _mm512_set1_epi32(254));
    __m512i bits = _mm512_slli_epi32(bytes, 23);
    bits = _mm512_mask_or_epi32(bits, outer, bits, _mm512_set1_epi32(0x00400000));
    return _mm512_castsi512_ps(bits);
}

INLINE __m512 load_f16(const uint8_t *source, __mmask16 lanes)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, source));
}

INLINE __m512 load_bf16(const uint8_t *source, __mmask16 lanes)
{
    __m512i words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, source));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

INLINE __m512 load_f32(const uint8_t *source, __mmask16 lanes)
{
    return _mm512_maskz_loadu_ps(lanes, source);
}

/* Stores: the lanes of the mask. */

typedef void store_fn(uint8_t *target, __mmask16 lanes, __m512 values);

INLINE __m256i to_f16(__m512 values)
{
    return _mm512_cvtps_ph(values, TO_NEAREST);
}

/* For values that have no bits beyond those of BF16, quiet NaN among them. */
INLINE __m256i to_exact_bf16(__m512 values)
{
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(values), 16));
}

/* Adds just under half a unit of the result, and the last bit kept to break ties to even. */
INLINE __m256i to_bf16(__m512 values)
{
    __m512i bits = _mm512_castps_si512(values);
    __m512i last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i half = _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff));
    __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    __m512i rounded = _mm512_add_epi32(bits, half);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x00400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

INLINE void store_f32(uint8_t *target, __mmask16 lanes, __m512 values)
{
    _mm512_mask_storeu_ps(target, lanes, values);
}

INLINE void store_f16(uint8_t *target, __mmask16 lanes, __m512 values)
{
    _mm256_mask_storeu_epi16(target, lanes, to_f16(values));
}

INLINE void store_exact_bf16(uint8_t *target, __mmask16 lanes, __m512 values)
{
    _mm256_mask_storeu_epi16(target, lanes, to_exact_bf16(values));
}

INLINE void store_bf16(uint8_t *target, __mmask16 lanes, __m512 values)
{
    _mm256_mask_storeu_epi16(target, lanes, to_bf16(values));
}

INLINE void convert(const uint8_t *source, size_t source_width, load_fn *load, uint8_t *target,
                    size_t target_width, store_fn *store, size_t n)
{
    for (; n >= LANES; n -= LANES) {
        store(target, ALL_LANES, load(source, ALL_LANES));
        source += LANES * source_width;
        target += LANES * target_width;
    }
    if (n > 0) {
        __mmask16 rest = (__mmask16)((1U << n) - 1);
        store(target, rest, load(source, rest));
    }
}

#define CONVERTER(from, from_width, to, to_width)                                                  \
    static void from##_to_##to(const void *source, void *target, size_t n)                         \
    {                                                                                              \
        convert(source, from_width, load_##from, target, to_width, store_##to, n);                 \
    }

CONVERTER(f8_e4m3, 1, f32, 4)
CONVERTER(f8_e4m3, 1, f16, 2)
CONVERTER(f8_e4m3, 1, exact_bf16, 2)
CONVERTER(f8_e5m2, 1, f32, 4)
CONVERTER(f8_e5m2, 1, f16, 2)
CONVERTER(f8_e5m2, 1, exact_bf16, 2)
CONVERTER(f8_e8m0, 1, f32, 4)
CONVERTER(f8_e8m0, 1, f16, 2)
CONVERTER(f8_e8m0, 1, exact_bf16, 2)
CONVERTER(f16, 2, f32, 4)
CONVERTER(f16, 2, bf16, 2)
CONVERTER(bf16, 2, f32, 4)
CONVERTER(bf16, 2, f16, 2)
CONVERTER(f32, 4, f16, 2)
CONVERTER(f32, 4, bf16, 2)

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

/* Lanes that round_f64() can do: zero, and what is in the range of normal numbers. */
INLINE __mmask8 f64_in_range(__m512i magnitude, struct narrow_format format)
{
    long long smallest = (long long)(1023 + 1 - format.bias) << 52;
    long long beyond = (long long)(1023 + format.bias + 1) << 52;
    __m512i offset = _mm512_sub_epi64(magnitude, _mm512_set1_epi64(smallest));
    __mmask8 normal = _mm512_cmplt_epu64_mask(offset, _mm512_set1_epi64(beyond - smallest));
    return normal | _mm512_testn_epi64_mask(magnitude, magnitude);
}

/* The same rounding as in to_bf16(), then the change of bias; a carry out of the largest
 * exponent makes infinity. */
INLINE __m512i round_f64(__m512i bits, __m512i magnitude, struct narrow_format format)
{
    int drop = 52 - format.fraction_bits;
    long long rebias = (long long)(1023 - format.bias) << format.fraction_bits;
    __m512i last = _mm512_and_si512(_mm512_srli_epi64(bits, drop), _mm512_set1_epi64(1));
    __m512i half = _mm512_add_epi64(last, _mm512_set1_epi64((1LL << (drop - 1)) - 1));
    __m512i rounded = _mm512_srli_epi64(_mm512_add_epi64(magnitude, half), drop);
    __mmask8 nonzero = _mm512_test_epi64_mask(magnitude, magnitude);
    rounded = _mm512_maskz_sub_epi64(nonzero, rounded, _mm512_set1_epi64(rebias));
    __m512i sign = _mm512_slli_epi64(_mm512_srli_epi64(bits, 63), format.sign_bit);
    return _mm512_or_si512(rounded, sign);
}

INLINE void store_narrow(uint8_t *target, __mmask8 lanes, __m512i results, size_t width)
{
    if (width == 4)
        _mm256_mask_storeu_epi32(target, lanes, _mm512_cvtepi64_epi32(results));
    else
        _mm_mask_storeu_epi16(target, lanes, _mm512_cvtepi64_epi16(results));
}

INLINE void convert_f64_lanes(const uint8_t *source, uint8_t *target, __mmask8 lanes,
                              struct narrow_format format, tp_convert_fn *scalar)
{
    __m512i bits = _mm512_maskz_loadu_epi64(lanes, source);
    __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi64(INT64_MAX));
    if (f64_in_range(magnitude, format) == 0xff)
        store_narrow(target, lanes, round_f64(bits, magnitude, format), format.width);
    else
        scalar(source, target, (size_t)__builtin_popcount(lanes));
}

INLINE void convert_f64(const uint8_t *source, uint8_t *target, size_t n,
                        struct narrow_format format, tp_convert_fn *scalar)
{
    for (; n >= 8; n -= 8) {
        convert_f64_lanes(source, target, 0xff, format, scalar);
        source += 8 * sizeof(double);
        target += 8 * format.width;
    }
    if (n > 0)
        convert_f64_lanes(source, target, (__mmask8)((1U << n) - 1), format, scalar);
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

/* MXFP4: the sixteen values of a block, scaled, are the table of a permute whose indices are
 * the codes. Permutes look at the low bits of an index only, so the codes need not be masked:
 * a byte is widened to the two elements that it holds and shifted so that the low bits of the
 * first are its low nibble and those of the second its high one. */

typedef void mxfp4_block_fn(const uint8_t *block, __m512 values, uint8_t *target);

INLINE void mxfp4_block_f32(const uint8_t *block, __m512 values, uint8_t *target)
{
    for (int half = 0; half < 2; half++) {
        __m512i bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(block + 8 * half)));
        __m512i codes = _mm512_or_si512(bytes, _mm512_slli_epi64(bytes, 28));
        _mm512_storeu_ps(target + 64 * half, _mm512_permutexvar_ps(codes, values));
    }
}

/* The table has 32 entries of 16 bits, twice the sixteen: bit 4 of the indices is anything. */
INLINE void mxfp4_block_16(const uint8_t *block, __m256i values, uint8_t *target)
{
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)block));
    __m512i codes = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
    __m512i table = _mm512_broadcast_i64x4(values);
    _mm512_storeu_si512(target, _mm512_permutexvar_epi16(codes, table));
}

INLINE void mxfp4_block_f16(const uint8_t *block, __m512 values, uint8_t *target)
{
    mxfp4_block_16(block, to_f16(values), target);
}

INLINE void mxfp4_block_bf16(const uint8_t *block, __m512 values, uint8_t *target)
{
    mxfp4_block_16(block, to_exact_bf16(values), target);
}

INLINE void mxfp4(const uint8_t *blocks, const uint8_t *scales, uint8_t *target, size_t n_blocks,
                  size_t target_width, mxfp4_block_fn *decode, tp_mxfp4_fn *scalar)
{
    const __m512 unscaled = _mm512_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F, -0.0F,
                                           -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F);
    for (size_t b = 0; b < n_blocks; b++) {
        const uint8_t *block = blocks + b * TP_MXFP4_BLOCK_BYTES;
        uint8_t *decoded = target + b * TP_MXFP4_BLOCK_ELEMENTS * target_width;
        if (scales[b] >= MXFP4_SCALE_MIN && scales[b] <= MXFP4_SCALE_MAX) {
            __m512i scale = _mm512_set1_epi32(scales[b] << 23);
            decode(block, _mm512_mul_ps(unscaled, _mm512_castsi512_ps(scale)), decoded);
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

const struct tp_codecs tp_codecs_avx512 = {
    .name = "avx512",
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
    .mxfp4_encode = {tp_mxfp4_encode_f32_avx512, tp_mxfp4_encode_f16_avx512,
                     tp_mxfp4_encode_bf16_avx512},
    .bitshuffle = tp_bitshuffle_avx512,
    .bitunshuffle = tp_bitunshuffle_avx512,
};
