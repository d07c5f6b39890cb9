/* 64 elements at a time. Their bytes are sorted by place into one vector each (deinterleave); then
 * the mask of all top bits is eight bytes of a row, and doubling moves the next bit up. Back: eight
 * masks add the values of their bits. */
#include "decode/bitshuffle_tables.h"

#include <immintrin.h>
#include <string.h>

#define UNROLL _Pragma("GCC unroll 8")
#define INLINE static inline __attribute__((always_inline))

typedef __m512i vector;

enum { LANES = 64, WIDTH_MAX = 8 };

/* Packing and unpacking work within 128 bits: this puts the quarters in order, and out of it. */
INLINE __m512i in_order(__m512i x)
{
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), x);
}

INLINE __m512i out_of_order(__m512i x)
{
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), x);
}

/* Two vectors of numbers of `unit` bytes, one behind the other, become the vector of their lower
 * halves and that of their upper halves; and back. */
INLINE void split(size_t unit, __m512i *a, __m512i *b)
{
    __m512i low, high;
    if (unit == 8) {
        __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        low = _mm512_permutex2var_epi32(*a, even, *b);
        high = _mm512_permutex2var_epi32(*a, odd, *b);
    } else if (unit == 4) {
        __m512i mask = _mm512_set1_epi32(0xffff);
        low = in_order(_mm512_packus_epi32(_mm512_and_si512(*a, mask), _mm512_and_si512(*b, mask)));
        high = in_order(_mm512_packus_epi32(_mm512_srli_epi32(*a, 16), _mm512_srli_epi32(*b, 16)));
    } else {
        __m512i mask = _mm512_set1_epi16(0xff);
        low = in_order(_mm512_packus_epi16(_mm512_and_si512(*a, mask), _mm512_and_si512(*b, mask)));
        high = in_order(_mm512_packus_epi16(_mm512_srli_epi16(*a, 8), _mm512_srli_epi16(*b, 8)));
    }
    *a = low;
    *b = high;
}

INLINE void join(size_t unit, __m512i *a, __m512i *b)
{
    __m512i low = out_of_order(*a), high = out_of_order(*b);
    if (unit == 8) {
        *a = _mm512_unpacklo_epi32(low, high);
        *b = _mm512_unpackhi_epi32(low, high);
    } else if (unit == 4) {
        *a = _mm512_unpacklo_epi16(low, high);
        *b = _mm512_unpackhi_epi16(low, high);
    } else {
        *a = _mm512_unpacklo_epi8(low, high);
        *b = _mm512_unpackhi_epi8(low, high);
    }
}

#include "decode/bitshuffle_network.inc"

/* LANES elements to LANES / 8 bytes of each row; rows begin `step` bytes apart. */
INLINE void write_rows(const uint8_t *source, uint8_t *rows, size_t step, size_t width)
{
    vector v[WIDTH_MAX];
    UNROLL for (size_t j = 0; j < width; j++) v[j] = _mm512_loadu_si512(source + j * LANES);
    deinterleave(v, width);
    UNROLL for (size_t j = 0; j < width; j++)
    {
        UNROLL for (size_t k = 8; k-- > 0;)
        {
            uint64_t bits = _mm512_movepi8_mask(v[j]);
            memcpy(rows + (8 * j + k) * step, &bits, sizeof bits);
            v[j] = _mm512_add_epi8(v[j], v[j]);
        }
    }
}

INLINE void write_elements(const uint8_t *rows, size_t step, uint8_t *target, size_t width)
{
    vector v[WIDTH_MAX];
    UNROLL for (size_t j = 0; j < width; j++)
    {
        v[j] = _mm512_setzero_si512();
        UNROLL for (size_t k = 0; k < 8; k++)
        {
            uint64_t bits;
            memcpy(&bits, rows + (8 * j + k) * step, sizeof bits);
            v[j] = _mm512_mask_add_epi8(v[j], bits, v[j], _mm512_set1_epi8((char)(1 << k)));
        }
    }
    interleave(v, width);
    UNROLL for (size_t j = 0; j < width; j++) _mm512_storeu_si512(target + j * LANES, v[j]);
}

#include "decode/bitshuffle_loops.inc"

void tp_bitshuffle_avx512(const uint8_t *source, uint8_t *target, size_t n, size_t width)
{
    shuffle_any(source, target, n, width);
}

void tp_bitunshuffle_avx512(const uint8_t *source, uint8_t *target, size_t n, size_t width)
{
    unshuffle_any(source, target, n, width);
}
