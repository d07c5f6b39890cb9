/* Vectors of 4 floats in the notation that gcc and clang share, for any machine: what the shared
 * texts (*.inc) are written in where no other table fits. */
#ifndef TENSORPORT_INFER_CPU_LANES_SCALAR_H
#define TENSORPORT_INFER_CPU_LANES_SCALAR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "infer/cpu/mxfp4_tables.h"

enum { LANES = 4, PARTS = 32 / LANES };

typedef float floats __attribute__((vector_size(16)));
typedef int32_t integers __attribute__((vector_size(16)));

static inline floats load(const float *p)
{
    floats x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline void store(float *p, floats x)
{
    memcpy(p, &x, sizeof x);
}

static inline floats broadcast(float x)
{
    return (floats){x, x, x, x};
}

/* Rounded twice: the file is compiled without contraction into fused operations. */
static inline floats multiply_add(floats a, floats b, floats c)
{
    return a * b + c;
}

static inline floats choose(integers mask, floats yes, floats no)
{
    return (floats)((mask & (integers)yes) | (~mask & (integers)no));
}

/* The second where either is NaN. */
static inline floats maximum(floats a, floats b)
{
    return choose(a > b, a, b);
}

static inline floats minimum(floats a, floats b)
{
    return choose(a < b, a, b);
}

static inline float sum(floats x)
{
    return (x[0] + x[2]) + (x[1] + x[3]);
}

/* Even and odd ones of the 2 x LANES numbers a, b. */
static inline void part_pairs(floats a, floats b, floats *even, floats *odd)
{
    *even = (floats){a[0], a[2], b[0], b[2]};
    *odd = (floats){a[1], a[3], b[1], b[3]};
}

static inline float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* BF16 [LANES]. */
static inline floats load_bf16(const uint16_t *p)
{
    return (floats){from_bits((uint32_t)p[0] << 16), from_bits((uint32_t)p[1] << 16),
                    from_bits((uint32_t)p[2] << 16), from_bits((uint32_t)p[3] << 16)};
}

/* Subnormals by a product that is exact; infinity and NaN by their exponent. */
static inline float from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fff;
    float x = from_bits(magnitude << 13) * 0x1p112f;
    if (magnitude >= 0x7c00)
        x = from_bits(magnitude << 13 | 0x7f800000);
    return sign != 0 ? -x : x;
}

/* The next five give 32 columns: for each 2 x LANES of them the even ones, then the odd ones. */

static inline void expand_f32(const float *p, floats w[PARTS])
{
    for (size_t i = 0; i < PARTS; i += 2)
        part_pairs(load(p + i * LANES), load(p + (i + 1) * LANES), &w[i], &w[i + 1]);
}

static inline void expand_f16(const uint16_t *p, floats w[PARTS])
{
    float numbers[32];
    for (size_t i = 0; i < 32; i++)
        numbers[i] = from_f16(p[i]);
    expand_f32(numbers, w);
}

static inline void expand_bf16(const uint16_t *p, floats w[PARTS])
{
    for (size_t i = 0; i < PARTS; i += 2)
        part_pairs(load_bf16(p + i * LANES), load_bf16(p + (i + 1) * LANES), &w[i], &w[i + 1]);
}

static inline void expand_mxfp4(const uint8_t *codes, uint8_t scale, floats w[PARTS])
{
    float numbers[32];
    for (size_t i = 0; i < 16; i++) {
        numbers[2 * i] = from_bits(tp_mxfp4_f32[scale][codes[i] & 15]);
        numbers[2 * i + 1] = from_bits(tp_mxfp4_f32[scale][codes[i] >> 4]);
    }
    expand_f32(numbers, w);
}

/* All even columns come before the odd ones; a part is 4 of either. */
static inline void expand_int8(const uint8_t *bytes, const uint8_t *scale, floats w[PARTS])
{
    const int8_t *numbers = (const int8_t *)bytes;
    uint16_t bits;
    memcpy(&bits, scale, sizeof bits);
#pragma GCC unroll 8
    for (size_t i = 0; i < PARTS; i++) {
        const int8_t *at = numbers + i % 2 * 16 + i / 2 * LANES;
        w[i] = (floats){at[0], at[1], at[2], at[3]} * broadcast(from_bits((uint32_t)bits << 16));
    }
}

/* The low byte of each lane. */
static inline void store_bytes(uint8_t *p, integers x)
{
    for (size_t lane = 0; lane < LANES; lane++)
        p[lane] = (uint8_t)x[lane];
}

#endif
