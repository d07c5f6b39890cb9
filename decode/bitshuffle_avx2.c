/* 32 elements at a time. Their bytes are sorted by place into one vector each (deinterleave); then
 * the mask of all top bits is four bytes of a row, and doubling moves the next bit up. Back: four
 * bytes of eight rows each are four matrices of 8 x 8 bits, which are transposed at once. */
#include "decode/bitshuffle_tables.h"

#include <immintrin.h>
#include <string.h>

#define UNROLL _Pragma("GCC unroll 8")
#define INLINE static inline __attribute__((always_inline))

typedef __m256i vector;

enum { LANES = 32, WIDTH_MAX = 8 };

/* Packing and unpacking work within 128 bits: this puts the quarters in order, and out of it. The
 * permutation is its own inverse. */
INLINE __m256i reorder(__m256i x)
{
    return _mm256_permute4x64_epi64(x, 0xd8);
}

INLINE void split(size_t unit, __m256i *a, __m256i *b)
{
    __m256i low, high;
    if (unit == 8) {
        __m256 first = _mm256_castsi256_ps(*a), second = _mm256_castsi256_ps(*b);
        low = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x88));
        high = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xdd));
    } else if (unit == 4) {
        __m256i mask = _mm256_set1_epi32(0xffff);
        low = _mm256_packus_epi32(_mm256_and_si256(*a, mask), _mm256_and_si256(*b, mask));
        high = _mm256_packus_epi32(_mm256_srli_epi32(*a, 16), _mm256_srli_epi32(*b, 16));
    } else {
        __m256i mask = _mm256_set1_epi16(0xff);
        low = _mm256_packus_epi16(_mm256_and_si256(*a, mask), _mm256_and_si256(*b, mask));
        high = _mm256_packus_epi16(_mm256_srli_epi16(*a, 8), _mm256_srli_epi16(*b, 8));
    }
    *a = reorder(low);
    *b = reorder(high);
}

INLINE void join(size_t unit, __m256i *a, __m256i *b)
{
    __m256i low = reorder(*a), high = reorder(*b);
    if (unit == 8) {
        *a = _mm256_unpacklo_epi32(low, high);
        *b = _mm256_unpackhi_epi32(low, high);
    } else if (unit == 4) {
        *a = _mm256_unpacklo_epi16(low, high);
        *b = _mm256_unpackhi_epi16(low, high);
    } else {
        *a = _mm256_unpacklo_epi8(low, high);
        *b = _mm256_unpackhi_epi8(low, high);
    }
}

#include "decode/bitshuffle_network.inc"

/* One step of the scalar file's transpose_8x8(), on four matrices. */
INLINE __m256i exchange(__m256i x, int distance, uint64_t mask)
{
    __m256i t = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, distance)),
                                 _mm256_set1_epi64x((long long)mask));
    return _mm256_xor_si256(_mm256_xor_si256(x, t), _mm256_slli_epi64(t, distance));
}

INLINE int32_t load_4(const uint8_t *bytes)
{
    int32_t number;
    memcpy(&number, bytes, sizeof number);
    return number;
}

/* Four bytes of eight rows: one byte of 32 elements. */
INLINE __m256i read_rows(const uint8_t *rows, size_t row)
{
    __m256i x =
        _mm256_setr_epi32(load_4(rows), load_4(rows + row), load_4(rows + 2 * row),
                          load_4(rows + 3 * row), load_4(rows + 4 * row), load_4(rows + 5 * row),
                          load_4(rows + 6 * row), load_4(rows + 7 * row));
    /* Byte i of each row together: the matrix of elements 8 * i to 8 * i + 7. */
    const __m256i by_place = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
                                              0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    x = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x, by_place),
                                    _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    x = exchange(x, 7, UINT64_C(0x00aa00aa00aa00aa));
    x = exchange(x, 14, UINT64_C(0x0000cccc0000cccc));
    return exchange(x, 28, UINT64_C(0x00000000f0f0f0f0));
}

/* LANES elements to LANES / 8 bytes of each row; rows begin `step` bytes apart. */
INLINE void write_rows(const uint8_t *source, uint8_t *rows, size_t step, size_t width)
{
    vector v[WIDTH_MAX];
    UNROLL for (size_t j = 0; j < width; j++) v[j] =
        _mm256_loadu_si256((const __m256i *)(source + j * LANES));
    deinterleave(v, width);
    UNROLL for (size_t j = 0; j < width; j++)
    {
        UNROLL for (size_t k = 8; k-- > 0;)
        {
            int bits = _mm256_movemask_epi8(v[j]);
            memcpy(rows + (8 * j + k) * step, &bits, sizeof bits);
            v[j] = _mm256_add_epi8(v[j], v[j]);
        }
    }
}

INLINE void write_elements(const uint8_t *rows, size_t step, uint8_t *target, size_t width)
{
    vector v[WIDTH_MAX];
    UNROLL for (size_t j = 0; j < width; j++) v[j] = read_rows(rows + 8 * j * step, step);
    interleave(v, width);
    UNROLL for (size_t j = 0; j < width; j++)
        _mm256_storeu_si256((__m256i *)(target + j * LANES), v[j]);
}

#include "decode/bitshuffle_loops.inc"

void tp_bitshuffle_avx2(const uint8_t *source, uint8_t *target, size_t n, size_t width)
{
    shuffle_any(source, target, n, width);
}

void tp_bitunshuffle_avx2(const uint8_t *source, uint8_t *target, size_t n, size_t width)
{
    unshuffle_any(source, target, n, width);
}
