/* Quantising to MXFP4 for AArch64: the same as mxfp4_encode_avx2.c, a block being eight registers
 * of F32 patterns. Untested on hardware, as codec_neon.c. Memory is read as bytes, for it may
 * have any alignment. */
#include "decode/mxfp4_encode_tables.h"

#include <arm_neon.h>

enum { PAIRS = 4 }; /* of registers in a block, eight values each */

typedef uint32x4x2_t load_fn(const uint8_t *values);

static inline uint32x4x2_t load_f32(const uint8_t *values)
{
    return (uint32x4x2_t){
        {vreinterpretq_u32_u8(vld1q_u8(values)), vreinterpretq_u32_u8(vld1q_u8(values + 16))}};
}

static inline uint32x4x2_t load_f16(const uint8_t *values)
{
    float16x8_t halves = vreinterpretq_f16_u8(vld1q_u8(values));
    return (uint32x4x2_t){{vreinterpretq_u32_f32(vcvt_f32_f16(vget_low_f16(halves))),
                           vreinterpretq_u32_f32(vcvt_high_f32_f16(halves))}};
}

static inline uint32x4x2_t load_bf16(const uint8_t *values)
{
    uint16x8_t words = vreinterpretq_u16_u8(vld1q_u8(values));
    return (uint32x4x2_t){{vshll_n_u16(vget_low_u16(words), 16), vshll_high_n_u16(words, 16)}};
}

static inline uint32x4_t magnitudes_of(uint32x4_t values)
{
    return vandq_u32(values, vdupq_n_u32(INT32_MAX));
}

static inline uint32_t largest_of(const uint32x4x2_t values[PAIRS])
{
    uint32x4_t largest = vdupq_n_u32(0);
    for (int i = 0; i < PAIRS; i++) {
        largest = vmaxq_u32(largest, magnitudes_of(values[i].val[0]));
        largest = vmaxq_u32(largest, magnitudes_of(values[i].val[1]));
    }
    return vmaxvq_u32(largest);
}

/* Four codes. `one` is the pattern of the scale. */
static inline uint16x4_t encode_lanes(uint32x4_t values, uint32x4_t one)
{
    uint32x4_t magnitudes = magnitudes_of(values);
    /* Half of what is dropped, less one where the last bit kept is even. */
    uint32x4_t last = vandq_u32(vshrq_n_u32(magnitudes, 22), vdupq_n_u32(1));
    uint32x4_t half = vaddq_u32(last, vdupq_n_u32(0x1fffff));
    uint32x4_t rounded = vaddq_u32(vsubq_u32(magnitudes, one), half);
    uint32x4_t normal = vaddq_u32(vshrq_n_u32(rounded, 22), vdupq_n_u32(2));
    normal = vminq_u32(normal, vdupq_n_u32(7));

    /* Comparisons give all ones where they hold, which is -1. */
    uint32x4_t above_quarter = vcgtq_u32(magnitudes, vsubq_u32(one, vdupq_n_u32(2 << 23)));
    uint32x4_t from_three_quarters = vcgeq_u32(magnitudes, vsubq_u32(one, vdupq_n_u32(1 << 22)));
    uint32x4_t small = vsubq_u32(vsubq_u32(vdupq_n_u32(0), above_quarter), from_three_quarters);
    uint32x4_t codes = vbslq_u32(vcgeq_u32(magnitudes, one), normal, small);

    uint32x4_t signs = vandq_u32(vshrq_n_u32(values, 28), vdupq_n_u32(8));
    return vmovn_u32(vorrq_u32(codes, signs));
}

/* Eight codes as bytes. */
static inline uint8x8_t encode_pair(uint32x4x2_t values, uint32x4_t one)
{
    return vmovn_u16(
        vcombine_u16(encode_lanes(values.val[0], one), encode_lanes(values.val[1], one)));
}

static inline uint8x16_t encode_block(const uint32x4x2_t values[PAIRS], uint8_t scale)
{
    uint32x4_t one = vdupq_n_u32((uint32_t)scale << 23);
    uint8x16_t first = vcombine_u8(encode_pair(values[0], one), encode_pair(values[1], one));
    uint8x16_t second = vcombine_u8(encode_pair(values[2], one), encode_pair(values[3], one));
    return vorrq_u8(vuzp1q_u8(first, second), vshlq_n_u8(vuzp2q_u8(first, second), 4));
}

static inline void encode(const void *values, size_t width, load_fn *load, uint8_t *blocks,
                          uint8_t *scales, size_t n_blocks, tp_mxfp4_encode_fn *scalar)
{
    const uint8_t *from = values;

    for (size_t b = 0; b < n_blocks; b++) {
        uint32x4x2_t block[PAIRS];
        for (size_t i = 0; i < PAIRS; i++)
            block[i] = load(from + i * 8 * width);
        uint32_t field = largest_of(block) >> 23;
        if (field >= TP_MXFP4_LEAST_FIELD && field <= TP_MXFP4_GREATEST_FIELD) {
            uint8_t scale = (uint8_t)(field - 2);
            vst1q_u8(blocks, encode_block(block, scale));
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
    void tp_mxfp4_encode_##from##_neon(const void *values, uint8_t *blocks, uint8_t *scales,       \
                                       size_t n_blocks)                                            \
    {                                                                                              \
        encode(values, width, load_##from, blocks, scales, n_blocks,                               \
               tp_mxfp4_encode_##from##_scalar);                                                   \
    }

ENCODER(f32, 4)
ENCODER(f16, 2)
ENCODER(bf16, 2)
