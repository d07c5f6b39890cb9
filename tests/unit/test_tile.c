/* Transposed tiles against the definition, for every number of rows, and at odd addresses. */
#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fs/export/convert/tile.h"

enum { ROWS_MAX = 70, SLACK = 3 /* elements between the rows of the target */, GUARD = 0xA5 };

typedef void transpose_fn(const void *tile, size_t n_rows, void *target, size_t stride);

static void check_rows(transpose_fn *transpose, size_t width, size_t n_rows, size_t misalignment)
{
    size_t tile_bytes = n_rows * TP_TILE_COLUMNS * width;
    size_t stride = (n_rows + SLACK) * width, target_bytes = TP_TILE_COLUMNS * stride;
    uint8_t *tile = malloc(tile_bytes + misalignment + 1);
    uint8_t *target = malloc(target_bytes + misalignment);
    for (size_t i = 0; i < tile_bytes; i++)
        tile[misalignment + i] = (uint8_t)(i * 167 + (i >> 8) * 31 + 1);
    memset(target, GUARD, target_bytes + misalignment);
    transpose(tile + misalignment, n_rows, target + misalignment, stride);
    for (size_t column = 0; column < TP_TILE_COLUMNS; column++) {
        const uint8_t *row_of_target = target + misalignment + column * stride;
        for (size_t row = 0; row < n_rows; row++)
            cr_assert_arr_eq(row_of_target + row * width,
                             tile + misalignment + (row * TP_TILE_COLUMNS + column) * width, width,
                             "width %zu, %zu rows: (%zu, %zu)", width, n_rows, row, column);
        for (size_t i = n_rows * width; i < stride; i++)
            cr_assert_eq(row_of_target[i], GUARD, "width %zu, %zu rows", width, n_rows);
    }
    free(tile);
    free(target);
}

static void check_all(transpose_fn *transpose, size_t width)
{
    for (size_t n_rows = 0; n_rows <= ROWS_MAX; n_rows++)
        for (size_t misalignment = 0; misalignment < 4; misalignment++)
            check_rows(transpose, width, n_rows, misalignment);
}

Test(tile, two_bytes)
{
    check_all(tp_tile_transpose_16, sizeof(uint16_t));
}

Test(tile, four_bytes)
{
    check_all(tp_tile_transpose_32, sizeof(uint32_t));
}
