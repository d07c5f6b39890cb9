/* The codecs for AArch64. Untested on hardware and in continuous integration, which has none;
 * the unit tests passed under qemu-aarch64.
 *
 * The same design as codec_avx2.c: every source but F64 is exact in F32, so a conversion is a
 * load that widens eight elements to F32 and a store that narrows them, with the last elements
 * left to the scalar codec; and F64 altogether. FCVT between F16 and F32 keeps subnormals
 * whatever FPCR says, but rounds as FPCR says: unlike on x86, a thread that leaves the default
 * rounding gets other results to F16.
 */
#include "decode/bitshuffle_tables.h"
#include "decode/codec_tables.h"
#include "decode/mxfp4_encode_tables.h"

#include <arm_neon.h>

enum {
    LANES = 8,
    /* Scales for which all sixteen values are zero or normal in F32: 0.5 * 2^(2 - 127) is the
     * smallest normal number, and 6 * 2^(253 - 127) would be infinite. */
    MXFP4_SCALE_MIN = 2,
    MXFP4_SCALE_MAX = 252,
};

/* Loads: eight elements as F32. Memory is read as bytes, for it may have any alignment. */

static inline float32x4x2_t widen_f16(uint16x8_t bits)
{
    float16x8_t halves = vreinterpretq_f16_u16(bits);
    return (float32x4x2_t){{vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)}};
}

/* E4M3 has the layout of an F16 with a shorter fraction and a bias smaller by 8: shifted into
 * place it is an F16 of 2^-8 times the value. NaN, all ones below the sign, lacks the top bit
 * of the exponent to be an F16 NaN; it is the only one from which adding 1 carries there. */
static inline float32x4x2_t load_f8_e4m3(const uint8_t *source)
{
    int16x8_t words = vshll_n_s8(vreinterpret_s8_u8(vld1_u8(source)), 7);
    uint16x8_t scaled = vandq_u16(vreinterpretq_u16_s16(words), vdupq_n_u16(0xbf80));
    uint16x8_t carry = vaddq_u16(scaled, vdupq_n_u16(0x0080));
    uint16x8_t nan = vandq_u16(carry, vdupq_n_u16(0x4000));
    float32x4x2_t values = widen_f16(vorrq_u16(scaled, nan));
    return (float32x4x2_t){
        {vmulq_n_f32(values.val[0], 256.0F), vmulq_n_f32(values.val[1], 256.0F)}};
}

/* E5M2 is the upper half of an F16. NaN is made quiet here and not left to the conversion, for
 * GCC takes F16 to F32 and back as nothing to do. */
static inline float32x4x2_t load_f8_e5m2(const uint8_t *source)
{
    uint16x8_t bits = vshll_n_u8(vld1_u8(source), 8);
    uint16x8_t magnitude = vandq_u16(bits, vdupq_n_u16(0x7fff));
    uint16x8_t nan = vcgtq_u16(magnitude, vdupq_n_u16(0x7c00));
    return widen_f16(vorrq_u16(bits, vandq_u16(nan, vdupq_n_u16(0x0200))));
}

/* E8M0 is the exponent field of an F32, but 0 is the subnormal 2^-127 and 255 is NaN: both
 * need the top bit of the fraction. */
static inline float32x4_t widen_e8m0(uint16x4_t codes)
{
    uint32x4_t wide = vmovl_u16(codes);
    uint32x4_t outer = vorrq_u32(vceqzq_u32(wide), vceqq_u32(wide, vdupq_n_u32(255)));
    uint32x4_t fraction = vandq_u32(outer, vdupq_n_u32(0x00400000));
    return vreinterpretq_f32_u32(vorrq_u32(vshlq_n_u32(wide, 23), fraction));
}

static inline float32x4x2_t load_f8_e8m0(const uint8_t *source)
{
    uint16x8_t codes = vmovl_u8(vld1_u8(source));
    return (float32x4x2_t){{widen_e8m0(vget_low_u16(codes)), widen_e8m0(vget_high_u16(codes))}};
}

static inline float32x4x2_t load_f16(const uint8_t *source)
{
    return widen_f16(vreinterpretq_u16_u8(vld1q_u8(source)));
}

static inline float32x4x2_t load_bf16(const uint8_t *source)
{
    uint16x8_t words = vreinterpretq_u16_u8(vld1q_u8(source));
    return (float32x4x2_t){{vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(words), 16)),
                            vreinterpretq_f32_u32(vshll_high_n_u16(words, 16))}};
}

static inline float32x4x2_t load_f32(const uint8_t *source)
{
    return (float32x4x2_t){
        {vreinterpretq_f32_u8(vld1q_u8(source)), vreinterpretq_f32_u8(vld1q_u8(source + 16))}};
}

/* Stores. */

static inline uint16x8_t to_f16(float32x4x2_t values)
{
    return vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(values.val[0]), values.val[1]));
}

/* For values that have no bits beyond those of BF16, quiet NaN among them. */
static inline uint16x8_t to_exact_bf16(float32x4x2_t values)
{
    return vuzp2q_u16(vreinterpretq_u16_f32(values.val[0]), vreinterpretq_u16_f32(values.val[1]));
}

/* Adds just under half a unit of the result, and the last bit kept to break ties to even. */
static inline float32x4_t round_to_bf16(float32x4_t values)
{
    uint32x4_t bits = vreinterpretq_u32_f32(values);
    uint32x4_t last = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(last, vdupq_n_u32(0x7fff)));
    uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x00400000));
    uint32x4_t number = vceqq_f32(values, values);
    return vreinterpretq_f32_u32(vbslq_u32(number, rounded, quiet));
}

static inline void store_f32(uint8_t *target, float32x4x2_t values)
{
    vst1q_u8(target, vreinterpretq_u8_f32(values.val[0]));
    vst1q_u8(target + 16, vreinterpretq_u8_f32(values.val[1]));
}

static inline void store_f16(uint8_t *target, float32x4x2_t values)
{
    vst1q_u8(target, vreinterpretq_u8_u16(to_f16(values)));
}

static inline void store_bf16(uint8_t *target, float32x4x2_t values)
{
    float32x4x2_t rounded = {{round_to_bf16(values.val[0]), round_to_bf16(values.val[1])}};
    vst1q_u8(target, vreinterpretq_u8_u16(to_exact_bf16(rounded)));
}

#define CONVERTER(from, from_width, FROM, to, to_width, TO)                                        \
    static void from##_to_##to(const void *source, void *target, size_t n)                         \
    {                                                                                              \
        const uint8_t *in = source;                                                                \
        uint8_t *out = target;                                                                     \
        for (; n >= LANES; n -= LANES, in += LANES * from_width, out += LANES * to_width)          \
            store_##to(out, load_##from(in));                                                      \
        tp_codecs_scalar.convert[TP_##FROM][TP_TARGET_##TO](in, out, n);                           \
    }

CONVERTER(f8_e4m3, 1, F8_E4M3, f32, 4, F32)
CONVERTER(f8_e4m3, 1, F8_E4M3, f16, 2, F16)
CONVERTER(f8_e4m3, 1, F8_E4M3, bf16, 2, BF16)
CONVERTER(f8_e5m2, 1, F8_E5M2, f32, 4, F32)
CONVERTER(f8_e5m2, 1, F8_E5M2, f16, 2, F16)
CONVERTER(f8_e5m2, 1, F8_E5M2, bf16, 2, BF16)
CONVERTER(f8_e8m0, 1, F8_E8M0, f32, 4, F32)
CONVERTER(f8_e8m0, 1, F8_E8M0, f16, 2, F16)
CONVERTER(f8_e8m0, 1, F8_E8M0, bf16, 2, BF16)
CONVERTER(f16, 2, F16, f32, 4, F32)
CONVERTER(f16, 2, F16, bf16, 2, BF16)
CONVERTER(bf16, 2, BF16, f32, 4, F32)
CONVERTER(bf16, 2, BF16, f16, 2, F16)
CONVERTER(f32, 4, F32, f16, 2, F16)
CONVERTER(f32, 4, F32, bf16, 2, BF16)

static void f64_to_f32(const void *source, void *target, size_t n)
{
    tp_codecs_scalar.convert[TP_F64][TP_TARGET_F32](source, target, n);
}

static void f64_to_f16(const void *source, void *target, size_t n)
{
    tp_codecs_scalar.convert[TP_F64][TP_TARGET_F16](source, target, n);
}

static void f64_to_bf16(const void *source, void *target, size_t n)
{
    tp_codecs_scalar.convert[TP_F64][TP_TARGET_BF16](source, target, n);
}

/* MXFP4: the sixteen values of a block as 16-bit numbers are two tables of bytes, which a
 * table lookup by the codes turns into the bytes of the result. */

static inline float32x4x2_t mxfp4_scaled(uint8_t scale)
{
    static const float unscaled[8] = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
    float32x4_t factor = vreinterpretq_f32_u32(vdupq_n_u32((uint32_t)scale << 23));
    return (float32x4x2_t){
        {vmulq_f32(vld1q_f32(unscaled), factor), vmulq_f32(vld1q_f32(unscaled + 4), factor)}};
}

/* Returns 32 results of 16 bits: low bytes of the first sixteen, then their high bytes, then
 * the same of the others. `values` are the eight without sign. */
static inline uint8x16x4_t mxfp4_lookup(const uint8_t *block, uint16x8_t values)
{
    uint16x8_t negated = vorrq_u16(values, vdupq_n_u16(0x8000));
    uint8x16_t low = vcombine_u8(vmovn_u16(values), vmovn_u16(negated));
    uint8x16_t high = vcombine_u8(vshrn_n_u16(values, 8), vshrn_n_u16(negated, 8));
    uint8x16_t bytes = vld1q_u8(block);
    uint8x16_t even = vandq_u8(bytes, vdupq_n_u8(15));
    uint8x16_t odd = vshrq_n_u8(bytes, 4);
    uint8x16_t first = vzip1q_u8(even, odd);
    uint8x16_t second = vzip2q_u8(even, odd);
    return (uint8x16x4_t){{vqtbl1q_u8(low, first), vqtbl1q_u8(high, first), vqtbl1q_u8(low, second),
                           vqtbl1q_u8(high, second)}};
}

static inline void mxfp4_block_16(const uint8_t *block, uint16x8_t values, uint8_t *target)
{
    uint8x16x4_t bytes = mxfp4_lookup(block, values);
    uint8x16x2_t first = {{bytes.val[0], bytes.val[1]}};
    uint8x16x2_t second = {{bytes.val[2], bytes.val[3]}};
    vst2q_u8(target, first);
    vst2q_u8(target + 32, second);
}

static inline void mxfp4_block_f16(const uint8_t *block, float32x4x2_t values, uint8_t *target)
{
    mxfp4_block_16(block, to_f16(values), target);
}

static inline void mxfp4_block_bf16(const uint8_t *block, float32x4x2_t values, uint8_t *target)
{
    mxfp4_block_16(block, to_exact_bf16(values), target);
}

/* BF16 with zeros below is F32. */
static inline void mxfp4_block_f32(const uint8_t *block, float32x4x2_t values, uint8_t *target)
{
    uint8x16x4_t bytes = mxfp4_lookup(block, to_exact_bf16(values));
    uint8x16_t zero = vdupq_n_u8(0);
    uint8x16x4_t first = {{zero, zero, bytes.val[0], bytes.val[1]}};
    uint8x16x4_t second = {{zero, zero, bytes.val[2], bytes.val[3]}};
    vst4q_u8(target, first);
    vst4q_u8(target + 64, second);
}

#define MXFP4_DECODER(to, to_width, TO)                                                            \
    static void mxfp4_to_##to(const uint8_t *blocks, const uint8_t *scales, void *target,          \
                              size_t n_blocks)                                                     \
    {                                                                                              \
        for (size_t b = 0; b < n_blocks; b++) {                                                    \
            const uint8_t *block = blocks + b * TP_MXFP4_BLOCK_BYTES;                              \
            uint8_t *decoded = (uint8_t *)target + b * TP_MXFP4_BLOCK_ELEMENTS * to_width;         \
            if (scales[b] >= MXFP4_SCALE_MIN && scales[b] <= MXFP4_SCALE_MAX)                      \
                mxfp4_block_##to(block, mxfp4_scaled(scales[b]), decoded);                         \
            else                                                                                   \
                tp_codecs_scalar.mxfp4[TP_TARGET_##TO](block, scales + b, decoded, 1);             \
        }                                                                                          \
    }

MXFP4_DECODER(f32, 4, F32)
MXFP4_DECODER(f16, 2, F16)
MXFP4_DECODER(bf16, 2, BF16)

const struct tp_codecs tp_codecs_neon = {
    .name = "neon",
    .convert =
        {
            [TP_F8_E4M3] = {f8_e4m3_to_f32, f8_e4m3_to_f16, f8_e4m3_to_bf16},
            [TP_F8_E5M2] = {f8_e5m2_to_f32, f8_e5m2_to_f16, f8_e5m2_to_bf16},
            [TP_F8_E8M0] = {f8_e8m0_to_f32, f8_e8m0_to_f16, f8_e8m0_to_bf16},
            [TP_F16] = {f16_to_f32, NULL, f16_to_bf16},
            [TP_BF16] = {bf16_to_f32, bf16_to_f16, NULL},
            [TP_F32] = {NULL, f32_to_f16, f32_to_bf16},
            [TP_F64] = {f64_to_f32, f64_to_f16, f64_to_bf16},
        },
    .mxfp4 = {mxfp4_to_f32, mxfp4_to_f16, mxfp4_to_bf16},
    .mxfp4_encode = {tp_mxfp4_encode_f32_neon, tp_mxfp4_encode_f16_neon, tp_mxfp4_encode_bf16_neon},
    .bitshuffle = tp_bitshuffle_scalar,
    .bitunshuffle = tp_bitunshuffle_scalar,
};
