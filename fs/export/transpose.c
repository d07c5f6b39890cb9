/* A strip is what 32 stored columns, one block of each row, become: 32 rows of the result, which
 * lie one after the other in it. Strips are decoded whole, and a range is copied out of them.
 *
 * A matrix of ordinary size is held as stored, at 4.25 bits an element; of a huge one only the
 * blocks of the strip at hand are read, each by itself. */
#include "fs/export/transpose.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    HELD_MAX = 64 << 20, /* bytes of blocks of a matrix that is held */
    TILE_ROWS = 32,      /* decoded at a time: with their transpose they stay in the first cache */
    BLOCK_ELEMENTS = TP_MXFP4_BLOCK_ELEMENTS,
    BLOCK_BYTES = TP_MXFP4_BLOCK_BYTES,
};

struct matrix {
    const struct tp_content *content;
    uint64_t index;
    uint64_t rows, strips; /* strips = blocks in a row */
    bool is_held;
};

static int grow(uint8_t **memory, size_t *capacity, size_t wanted)
{
    if (*capacity >= wanted)
        return 0;
    uint8_t *more = malloc(wanted);
    if (more == NULL)
        return -ENOMEM;
    free(*memory);
    *memory = more;
    *capacity = wanted;
    return 0;
}

static int read_source(const struct matrix *matrix, uint64_t first, size_t n, uint8_t *blocks,
                       uint8_t *scales)
{
    const struct tp_content *content = matrix->content;
    int rc = tp_source_read_unverified(content->source, blocks, n * BLOCK_BYTES,
                                       content->offset + first * BLOCK_BYTES);
    return rc < 0 ? rc
                  : tp_source_read_unverified(content->scales_source, scales, n,
                                              content->scales_offset + first);
}

static int verify(const struct tp_content *content)
{
    int rc = tp_source_verify(content->source);
    return rc == 0 && content->scales_source != content->source
               ? tp_source_verify(content->scales_source)
               : rc;
}

static int hold_matrix(const struct matrix *matrix, struct tp_artifact_scratch *scratch)
{
    size_t n = (size_t)(matrix->rows * matrix->strips);
    int rc = grow(&scratch->blocks, &scratch->block_capacity, n * BLOCK_BYTES);
    if (rc == 0)
        rc = grow(&scratch->scales, &scratch->scale_capacity, n);
    if (rc == 0)
        rc = read_source(matrix, matrix->index * n, n, scratch->blocks, scratch->scales);
    return rc < 0 ? rc : verify(matrix->content);
}

/* One block of each row. */
static int hold_strip(const struct matrix *matrix, uint64_t strip,
                      struct tp_artifact_scratch *scratch)
{
    size_t rows = (size_t)matrix->rows;
    int rc = grow(&scratch->blocks, &scratch->block_capacity, rows * BLOCK_BYTES);
    if (rc == 0)
        rc = grow(&scratch->scales, &scratch->scale_capacity, rows);
    for (size_t row = 0; rc == 0 && row < rows; row++)
        rc = read_source(matrix, (matrix->index * rows + row) * matrix->strips + strip, 1,
                         scratch->blocks + row * BLOCK_BYTES, scratch->scales + row);
    return rc < 0 ? rc : verify(matrix->content);
}

/* `tile` [n][32] to 32 rows of `stride` elements at `target`. */
static void transpose_16(const uint16_t *tile, size_t n, uint16_t *target, size_t stride)
{
    for (size_t column = 0; column < BLOCK_ELEMENTS; column++)
        for (size_t row = 0; row < n; row++)
            target[column * stride + row] = tile[row * BLOCK_ELEMENTS + column];
}

static void transpose_32(const uint32_t *tile, size_t n, uint32_t *target, size_t stride)
{
    for (size_t column = 0; column < BLOCK_ELEMENTS; column++)
        for (size_t row = 0; row < n; row++)
            target[column * stride + row] = tile[row * BLOCK_ELEMENTS + column];
}

static int decode_strip(const struct matrix *matrix, uint64_t strip,
                        struct tp_artifact_scratch *scratch)
{
    const struct tp_content *content = matrix->content;
    size_t width = content->target_width, rows = (size_t)matrix->rows;
    size_t stride = matrix->is_held ? (size_t)matrix->strips : 1;
    size_t first = matrix->is_held ? (size_t)strip : 0;
    int rc = grow(&scratch->strip_bytes, &scratch->strip_capacity, rows * BLOCK_ELEMENTS * width);
    if (rc < 0)
        return rc;
    for (size_t row = 0; row < rows; row += TILE_ROWS) {
        _Alignas(64) uint32_t tile[TILE_ROWS * BLOCK_ELEMENTS];
        size_t n = rows - row < TILE_ROWS ? rows - row : TILE_ROWS;
        for (size_t i = 0; i < n; i++) {
            size_t block = (row + i) * stride + first;
            content->mxfp4(scratch->blocks + block * BLOCK_BYTES, scratch->scales + block,
                           (uint8_t *)tile + i * BLOCK_ELEMENTS * width, 1);
        }
        if (width == sizeof(uint16_t))
            transpose_16((const uint16_t *)tile, n, (uint16_t *)scratch->strip_bytes + row, rows);
        else
            transpose_32(tile, n, (uint32_t *)scratch->strip_bytes + row, rows);
    }
    scratch->strip = strip;
    return 0;
}

/* Leaves the strip in `scratch`. */
static int make_strip(const struct tp_segment *segment, const struct matrix *matrix, uint64_t strip,
                      struct tp_artifact_scratch *scratch)
{
    bool same = scratch->segment == segment && scratch->matrix == matrix->index;
    if (same && scratch->strip == strip)
        return 0;
    scratch->segment = NULL;
    int rc = 0;
    if (!matrix->is_held)
        rc = hold_strip(matrix, strip, scratch);
    else if (!same)
        rc = hold_matrix(matrix, scratch);
    if (rc == 0)
        rc = decode_strip(matrix, strip, scratch);
    if (rc < 0)
        return rc;
    scratch->segment = segment;
    scratch->matrix = matrix->index;
    return 0;
}

int tp_transpose_read(const struct tp_segment *segment, uint64_t offset, size_t length,
                      void *target, struct tp_artifact_scratch *scratch)
{
    uint8_t *at = target;
    struct matrix matrix = {.content = segment->content,
                            .rows = segment->rows,
                            .strips = segment->columns / BLOCK_ELEMENTS};
    uint64_t strip_bytes = matrix.rows * BLOCK_ELEMENTS * segment->content->target_width;
    uint64_t matrix_bytes = matrix.strips * strip_bytes;
    matrix.is_held = matrix.rows * matrix.strips <= HELD_MAX / BLOCK_BYTES;
    while (length > 0) {
        matrix.index = offset / matrix_bytes;
        uint64_t inside = offset % matrix_bytes, skip = inside % strip_bytes;
        size_t now = strip_bytes - skip < length ? (size_t)(strip_bytes - skip) : length;
        int rc = make_strip(segment, &matrix, inside / strip_bytes, scratch);
        if (rc < 0)
            return rc;
        memcpy(at, scratch->strip_bytes + skip, now);
        offset += now;
        at += now;
        length -= now;
    }
    return 0;
}
