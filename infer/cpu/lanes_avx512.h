/* Vectors of 16 floats: what the shared texts (*.inc) are written in, for AVX-512 F, BW, DQ, VL. */
#ifndef TENSORPORT_INFER_CPU_LANES_AVX512_H
#define TENSORPORT_INFER_CPU_LANES_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "infer/cpu/mxfp4_tables.h"

enum { LANES = 16, PARTS = 32 / LANES };

typedef __m512 floats;
typedef int32_t integers __attribute__((vector_size(64)));

static inline floats load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void store(float *p, floats x)
{
    _mm512_storeu_ps(p, x);
}

static inline floats broadcast(float x)
{
    return _mm512_set1_ps(x);
}

static inline floats multiply_add(floats a, floats b, floats c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* The second where either is NaN. */
static inline floats maximum(floats a, floats b)
{
    return _mm512_max_ps(a, b);
}

static inline floats minimum(floats a, floats b)
{
    return _mm512_min_ps(a, b);
}

/* ((q0 + q2) + (q1 + q3)) of the quarters, then the same of their lanes. */
static inline float sum(floats x)
{
    __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 quarters = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
    __m128 pairs = _mm_add_ps(quarters, _mm_movehl_ps(quarters, quarters));
    return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)));
}

/* Even and odd ones of the 2 x LANES numbers a, b. */
static inline void part_pairs(floats a, floats b, floats *even, floats *odd)
{
    const __m512i evens =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *even = _mm512_permutex2var_ps(a, evens, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), b);
}

/* BF16 [LANES]. */
static inline floats load_bf16(const uint16_t *p)
{
    __m256i bits = _mm256_loadu_si256((const __m256i *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

/* The next five give 32 columns: for each 2 x LANES of them the even ones, then the odd ones. */

static inline void expand_f32(const float *p, floats w[PARTS])
{
    part_pairs(load(p), load(p + 16), &w[0], &w[1]);
}

static inline void expand_f16(const uint16_t *p, floats w[PARTS])
{
    part_pairs(_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)),
               _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p + 16))), &w[0], &w[1]);
}

static inline void expand_bf16(const uint16_t *p, floats w[PARTS])
{
    __m512i bits = _mm512_loadu_si512(p);
    w[0] = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
    w[1] = _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000)));
}

/* The lookup heeds the low four bits of an index only. */
static inline void expand_mxfp4(const uint8_t *codes, uint8_t scale, floats w[PARTS])
{
    __m512 numbers = _mm512_load_ps(tp_mxfp4_f32[scale]);
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
    w[0] = _mm512_permutexvar_ps(bytes, numbers);
    w[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), numbers);
}

/* A scale is BF16, the upper half of a float32; what stands before it is always there. */
static inline floats load_scale(const uint8_t *scale)
{
    int32_t bits;
    memcpy(&bits, scale - 2, sizeof bits);
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_set1_epi32(bits), _mm512_set1_epi32((int)0xffff0000)));
}

static inline void expand_int8(const uint8_t *bytes, const uint8_t *scale, floats w[PARTS])
{
    floats factor = load_scale(scale);
#pragma GCC unroll 8
    for (size_t i = 0; i < PARTS; i++) {
        __m128i part = _mm_loadu_si128((const __m128i *)(bytes + i * LANES));
        w[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(part)), factor);
    }
}

/* The low byte of each lane. */
static inline void store_bytes(uint8_t *p, integers x)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)x));
}

#endif
