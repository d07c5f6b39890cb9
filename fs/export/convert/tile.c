/* Squares of 8 x 8 or 4 x 4 elements are turned in registers of 16 bytes, which every machine of
 * interest has: the compiler's vector types make the same code serve them all. A row that is
 * interleaved with the one half a square below it moves one bit of the row's number into the
 * column's, so doing that log2(side) times exchanges them. */
#include "fs/export/convert/tile.h"

#include <stdint.h>
#include <string.h>

enum { SIDE_16 = 8, SIDE_32 = 4 };

typedef uint16_t row_16 __attribute__((vector_size(16)));
typedef uint32_t row_32 __attribute__((vector_size(16)));

static inline void interleave_16(const row_16 from[SIDE_16], row_16 to[SIDE_16])
{
    for (size_t i = 0; i < SIDE_16 / 2; i++) {
        row_16 upper = from[i], lower = from[i + SIDE_16 / 2];
        to[2 * i] = __builtin_shufflevector(upper, lower, 0, 8, 1, 9, 2, 10, 3, 11);
        to[2 * i + 1] = __builtin_shufflevector(upper, lower, 4, 12, 5, 13, 6, 14, 7, 15);
    }
}

static inline void interleave_32(const row_32 from[SIDE_32], row_32 to[SIDE_32])
{
    for (size_t i = 0; i < SIDE_32 / 2; i++) {
        row_32 upper = from[i], lower = from[i + SIDE_32 / 2];
        to[2 * i] = __builtin_shufflevector(upper, lower, 0, 4, 1, 5);
        to[2 * i + 1] = __builtin_shufflevector(upper, lower, 2, 6, 3, 7);
    }
}

static inline void square_16(const uint8_t *source, uint8_t *target, size_t stride)
{
    row_16 a[SIDE_16], b[SIDE_16];
    for (size_t i = 0; i < SIDE_16; i++)
        memcpy(&a[i], source + i * TP_TILE_COLUMNS * sizeof(uint16_t), sizeof a[i]);
    interleave_16(a, b);
    interleave_16(b, a);
    interleave_16(a, b);
    for (size_t i = 0; i < SIDE_16; i++)
        memcpy(target + i * stride, &b[i], sizeof b[i]);
}

static inline void square_32(const uint8_t *source, uint8_t *target, size_t stride)
{
    row_32 a[SIDE_32], b[SIDE_32];
    for (size_t i = 0; i < SIDE_32; i++)
        memcpy(&a[i], source + i * TP_TILE_COLUMNS * sizeof(uint32_t), sizeof a[i]);
    interleave_32(a, b);
    interleave_32(b, a);
    for (size_t i = 0; i < SIDE_32; i++)
        memcpy(target + i * stride, &a[i], sizeof a[i]);
}

/* Rows from `first` on, one element at a time. */
static void transpose_rest(const uint8_t *tile, size_t first, size_t n_rows, uint8_t *target,
                           size_t stride, size_t width)
{
    for (size_t column = 0; column < TP_TILE_COLUMNS; column++)
        for (size_t row = first; row < n_rows; row++)
            memcpy(target + column * stride + row * width,
                   tile + (row * TP_TILE_COLUMNS + column) * width, width);
}

/* Columns outside, rows inside: a cache line of the target is finished before the next is begun. */
void tp_tile_transpose_16(const void *tile, size_t n_rows, void *target, size_t stride)
{
    const uint8_t *from = tile;
    uint8_t *to = target;
    size_t whole = n_rows - n_rows % SIDE_16;
    for (size_t column = 0; column < TP_TILE_COLUMNS; column += SIDE_16)
        for (size_t row = 0; row < whole; row += SIDE_16)
            square_16(from + (row * TP_TILE_COLUMNS + column) * sizeof(uint16_t),
                      to + column * stride + row * sizeof(uint16_t), stride);
    transpose_rest(from, whole, n_rows, to, stride, sizeof(uint16_t));
}

void tp_tile_transpose_32(const void *tile, size_t n_rows, void *target, size_t stride)
{
    const uint8_t *from = tile;
    uint8_t *to = target;
    size_t whole = n_rows - n_rows % SIDE_32;
    for (size_t column = 0; column < TP_TILE_COLUMNS; column += SIDE_32)
        for (size_t row = 0; row < whole; row += SIDE_32)
            square_32(from + (row * TP_TILE_COLUMNS + column) * sizeof(uint32_t),
                      to + column * stride + row * sizeof(uint32_t), stride);
    transpose_rest(from, whole, n_rows, to, stride, sizeof(uint32_t));
}
