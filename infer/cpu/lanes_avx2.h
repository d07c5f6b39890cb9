/* Vectors of 8 floats: what the shared texts (*.inc) are written in, for AVX2, FMA and F16C. */
#ifndef TENSORPORT_INFER_CPU_LANES_AVX2_H
#define TENSORPORT_INFER_CPU_LANES_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "infer/cpu/mxfp4_tables.h"

enum { LANES = 8, PARTS = 32 / LANES };

typedef __m256 floats;
typedef int32_t integers __attribute__((vector_size(32)));

static inline floats load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void store(float *p, floats x)
{
    _mm256_storeu_ps(p, x);
}

static inline floats broadcast(float x)
{
    return _mm256_set1_ps(x);
}

static inline floats multiply_add(floats a, floats b, floats c)
{
    return _mm256_fmadd_ps(a, b, c);
}

/* The second where either is NaN. */
static inline floats maximum(floats a, floats b)
{
    return _mm256_max_ps(a, b);
}

static inline floats minimum(floats a, floats b)
{
    return _mm256_min_ps(a, b);
}

/* h0 + h1 of the halves, then ((l0 + l2) + (l1 + l3)) of their lanes. */
static inline float sum(floats x)
{
    __m128 halves = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
    return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)));
}

/* Even and odd ones of the 2 x LANES numbers a, b. */
static inline void part_pairs(floats a, floats b, floats *even, floats *odd)
{
    __m256d evens = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
    __m256d odds = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd));
    *even = _mm256_castpd_ps(_mm256_permute4x64_pd(evens, 0xd8));
    *odd = _mm256_castpd_ps(_mm256_permute4x64_pd(odds, 0xd8));
}

/* BF16 [LANES]. */
static inline floats load_bf16(const uint16_t *p)
{
    __m128i bits = _mm_loadu_si128((const __m128i *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

/* The next five give 32 columns: for each 2 x LANES of them the even ones, then the odd ones. */

static inline void expand_f32(const float *p, floats w[PARTS])
{
    part_pairs(load(p), load(p + 8), &w[0], &w[1]);
    part_pairs(load(p + 16), load(p + 24), &w[2], &w[3]);
}

static inline floats load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

static inline void expand_f16(const uint16_t *p, floats w[PARTS])
{
    part_pairs(load_f16(p), load_f16(p + 8), &w[0], &w[1]);
    part_pairs(load_f16(p + 16), load_f16(p + 24), &w[2], &w[3]);
}

static inline void expand_bf16(const uint16_t *p, floats w[PARTS])
{
    for (size_t i = 0; i < 2; i++) {
        __m256i bits = _mm256_loadu_si256((const __m256i *)(p + 16 * i));
        __m256i odd = _mm256_and_si256(bits, _mm256_set1_epi32((int)0xffff0000));
        w[2 * i] = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
        w[2 * i + 1] = _mm256_castsi256_ps(odd);
    }
}

/* The lookup heeds the low three bits of an index, the magnitude; bit 3 is the sign. */
static inline floats look_up(__m256 magnitudes, __m256i codes)
{
    __m256i sign = _mm256_and_si256(_mm256_slli_epi32(codes, 28), _mm256_set1_epi32(INT32_MIN));
    return _mm256_or_ps(_mm256_permutevar8x32_ps(magnitudes, codes), _mm256_castsi256_ps(sign));
}

static inline void expand_mxfp4(const uint8_t *codes, uint8_t scale, floats w[PARTS])
{
    __m256 magnitudes = _mm256_load_ps((const float *)tp_mxfp4_f32[scale]);
    for (size_t i = 0; i < 2; i++) {
        __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(codes + 8 * i)));
        w[2 * i] = look_up(magnitudes, bytes);
        w[2 * i + 1] = look_up(magnitudes, _mm256_srli_epi32(bytes, 4));
    }
}

/* A scale is BF16, the upper half of a float32; what stands before it is always there. */
static inline floats load_scale(const uint8_t *scale)
{
    int32_t bits;
    memcpy(&bits, scale - 2, sizeof bits);
    return _mm256_castsi256_ps(
        _mm256_and_si256(_mm256_set1_epi32(bits), _mm256_set1_epi32((int)0xffff0000)));
}

/* All even columns come before the odd ones; a part is 8 of either. */
static inline void expand_int8(const uint8_t *bytes, const uint8_t *scale, floats w[PARTS])
{
    floats factor = load_scale(scale);
#pragma GCC unroll 8
    for (size_t i = 0; i < PARTS; i++) {
        const uint8_t *at = bytes + i % 2 * 16 + i / 2 * LANES;
        __m256i part = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at));
        w[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(part), factor);
    }
}

/* The low byte of each lane. */
static inline void store_bytes(uint8_t *p, integers x)
{
    const __m256i lowest = _mm256_set1_epi64x(0x0c080400);
    __m256i bytes = _mm256_shuffle_epi8((__m256i)x, lowest);
    __m128i halves =
        _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storel_epi64((__m128i *)p, halves);
}

#endif
