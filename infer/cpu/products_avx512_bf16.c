/* Products of BF16 pairs (vdpbf16ps): lane i adds columns 2i and 2i + 1 of each block. */
#include <immintrin.h>

#include "infer/cpu/kernel_tables.h"
#include "infer/cpu/lanes_avx512.h"
#include "infer/cpu/mxfp4_tables.h"

#define PRODUCT_PARTS     1
#define PANEL_BLOCKS      48
#define TILE_ROWS         6
#define TILE_VECTORS      4
#define FEW_ROWS(n)       4
#define FEW_MXFP4_ROWS(n) ((n) <= 2 ? 6 : 4)
typedef __m512i product_vector;

/* The lookup heeds the low five bits of an index; the table has each code twice, so that the bit
 * above a code does not matter. */
static inline __m512i look_up(const uint8_t *codes, uint8_t scale)
{
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
    __m512i indices = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
    return _mm512_permutexvar_epi16(indices, _mm512_load_si512(tp_mxfp4_bf16[scale]));
}

/* byte * scale has up to 15 bits and is rounded to the nearest BF16; the even columns, then the odd
 * ones, are put in turns. */
static inline __m512i round_int8(const uint8_t *bytes, const uint8_t *scale)
{
    const __m512i turns =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    floats parts[PARTS];
    expand_int8(bytes, scale, parts);
    return _mm512_permutexvar_epi16(turns, (__m512i)_mm512_cvtne2ps_pbh(parts[1], parts[0]));
}

static inline __attribute__((always_inline)) void
expand_block(enum tp_matrix_type type, const uint8_t *values, const uint8_t *scale, __m512i w[1])
{
    if (type == TP_MATRIX_MXFP4)
        w[0] = look_up(values, *scale);
    else
        w[0] = type == TP_MATRIX_INT8 ? round_int8(values, scale) : _mm512_loadu_si512(values);
}

static inline floats product(__m512i w, __m512i x, floats before)
{
    return _mm512_dpbf16_ps(before, (__m512bh)w, (__m512bh)x);
}

#include "infer/cpu/products.inc"

#define PRODUCT_TYPES X(TP_MATRIX_BF16) X(TP_MATRIX_MXFP4) X(TP_MATRIX_INT8)
#include "infer/cpu/products_tables.inc"

static void pack(const float *x, size_t columns, void *packed)
{
    for (size_t column = 0; column < columns; column += TP_BLOCK_COLUMNS) {
        float padded[TP_BLOCK_COLUMNS] = {0};
        const float *block = x + column;
        if (columns - column < TP_BLOCK_COLUMNS)
            block = memcpy(padded, block, (columns - column) * sizeof *block);
        __m512bh pairs = _mm512_cvtne2ps_pbh(load(block + LANES), load(block));
        memcpy((uint16_t *)packed + column, &pairs, sizeof pairs);
    }
}

const struct tp_product_kernels tp_products_avx512_bf16 = {64, 16, 32, pack, few, many};
