/* A strip is what 32 stored columns, one block of each row, become: 32 rows of the result, which
 * lie one after the other in it. Strips are decoded whole, into memory that stays in the second
 * cache, and ranges are copied out of it: decoding straight to where the range is wanted writes
 * to 32 places at a time that no cache holds, and was half as fast (gpt-oss-20b's experts to
 * bfloat16, 8 MiB at a time: 2.1 instead of 4.3 GB/s).
 *
 *      stored, by rows                 result
 *      ......[panel]..........         [strip 0: 32 rows of `rows` elements]
 *      ......[0|1|2]..........   ->    [strip 1]
 *      ......[ | | ]..........         ...
 *
 * Strips cross all rows, so the blocks of many of them are held, as stored, at 4.25 bits an
 * element: a panel. It is the whole matrix, read at once, unless that is huge. */
#include "fs/export/convert/transpose.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fs/export/convert/tile.h"

enum {
    PANEL_MAX = 16 << 20, /* bytes of blocks, unless the scratch says otherwise */
    TILE_ROWS = 32,       /* decoded at a time: with their transpose they stay in the first cache */
    BLOCK_ELEMENTS = TP_MXFP4_BLOCK_ELEMENTS,
    BLOCK_BYTES = TP_MXFP4_BLOCK_BYTES,
};

_Static_assert((int)BLOCK_ELEMENTS == (int)TP_TILE_COLUMNS, "a tile is as wide as a block");

struct matrix {
    const struct tp_content *content;
    uint64_t index;
    uint64_t rows, strips; /* strips = blocks in a row */
    uint64_t panel_strips; /* strips in a panel; the last may have fewer */
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

static size_t strips_in_panel(const struct matrix *matrix, uint64_t panel)
{
    uint64_t left = matrix->strips - panel * matrix->panel_strips;
    return (size_t)(left < matrix->panel_strips ? left : matrix->panel_strips);
}

/* Blocks [first, first + n) of the tensor and their scales. */
static int read_source(const struct tp_content *content, uint64_t first, size_t n, uint8_t *blocks,
                       uint8_t *scales)
{
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

/* Reads a panel: [rows][strips in it] blocks and scales. */
static int hold_panel(const struct matrix *matrix, uint64_t panel,
                      struct tp_artifact_scratch *scratch)
{
    const struct tp_content *content = matrix->content;
    size_t width = strips_in_panel(matrix, panel), rows = (size_t)matrix->rows;
    uint64_t first = matrix->index * rows * matrix->strips + panel * matrix->panel_strips;
    int rc = grow(&scratch->blocks, &scratch->block_capacity, rows * width * BLOCK_BYTES);
    if (rc == 0)
        rc = grow(&scratch->scales, &scratch->scale_capacity, rows * width);
    if (rc < 0)
        return rc;
    if (width == matrix->strips)
        rc = read_source(content, first, rows * width, scratch->blocks, scratch->scales);
    for (size_t row = 0; rc == 0 && width < matrix->strips && row < rows; row++)
        rc =
            read_source(content, first + row * matrix->strips, width,
                        scratch->blocks + row * width * BLOCK_BYTES, scratch->scales + row * width);
    return rc < 0 ? rc : verify(content);
}

/* Makes sure that the panel with `strip` is held. */
static int want_panel(const struct tp_segment *segment, const struct matrix *matrix, uint64_t strip,
                      struct tp_artifact_scratch *scratch)
{
    uint64_t panel = strip / matrix->panel_strips;
    if (scratch->segment == segment && scratch->matrix == matrix->index && scratch->panel == panel)
        return 0;
    scratch->segment = NULL;
    scratch->has_strip = false;
    int rc = hold_panel(matrix, panel, scratch);
    if (rc < 0)
        return rc;
    scratch->segment = segment;
    scratch->matrix = matrix->index;
    scratch->panel = panel;
    return 0;
}

/* Decodes the first TILE_ROWS, or all, of `n` rows. Their blocks lie a panel's width apart: the
 * codec takes them in one piece, and what the next tile needs is asked for, as no processor
 * foresees it. */
static void decode_tile(const struct tp_content *content, const uint8_t *blocks,
                        const uint8_t *scales, size_t width, size_t n, void *tile)
{
    uint8_t near_blocks[TILE_ROWS * BLOCK_BYTES], near_scales[TILE_ROWS];
    size_t now = n < TILE_ROWS ? n : TILE_ROWS;
    for (size_t i = 0; i < now; i++) {
        memcpy(near_blocks + i * BLOCK_BYTES, blocks + i * width * BLOCK_BYTES, BLOCK_BYTES);
        near_scales[i] = scales[i * width];
        if (i + TILE_ROWS < n) {
            __builtin_prefetch(blocks + (i + TILE_ROWS) * width * BLOCK_BYTES);
            __builtin_prefetch(scales + (i + TILE_ROWS) * width);
        }
    }
    content->mxfp4(near_blocks, near_scales, tile, now);
}

/* Decodes a strip of the panel that is held to `target`. */
static void decode_strip(const struct matrix *matrix, uint64_t strip,
                         const struct tp_artifact_scratch *scratch, uint8_t *target)
{
    const struct tp_content *content = matrix->content;
    size_t element = content->target_width, rows = (size_t)matrix->rows;
    size_t width = strips_in_panel(matrix, scratch->panel);
    size_t first = (size_t)(strip % matrix->panel_strips);
    for (size_t row = 0; row < rows; row += TILE_ROWS) {
        _Alignas(64) uint32_t tile[TILE_ROWS * BLOCK_ELEMENTS];
        size_t n = rows - row < TILE_ROWS ? rows - row : TILE_ROWS;
        size_t block = row * width + first;
        decode_tile(content, scratch->blocks + block * BLOCK_BYTES, scratch->scales + block, width,
                    rows - row, tile);
        if (element == sizeof(uint16_t))
            tp_tile_transpose_16(tile, n, target + row * element, rows * element);
        else
            tp_tile_transpose_32(tile, n, target + row * element, rows * element);
    }
}

/* The bytes [skip, skip + length) of a strip, whose panel is held. */
static int copy_of_strip(const struct matrix *matrix, uint64_t strip, uint64_t skip, size_t length,
                         uint8_t *target, struct tp_artifact_scratch *scratch)
{
    size_t bytes = (size_t)matrix->rows * BLOCK_ELEMENTS * matrix->content->target_width;
    if (!scratch->has_strip || scratch->strip != strip) {
        scratch->has_strip = false;
        int rc = grow(&scratch->strip_bytes, &scratch->strip_capacity, bytes);
        if (rc < 0)
            return rc;
        decode_strip(matrix, strip, scratch, scratch->strip_bytes);
        scratch->strip = strip;
        scratch->has_strip = true;
    }
    memcpy(target, scratch->strip_bytes + skip, length);
    return 0;
}

static struct matrix describe(const struct tp_segment *segment,
                              const struct tp_artifact_scratch *scratch)
{
    struct matrix matrix = {.content = segment->content,
                            .rows = segment->rows,
                            .strips = segment->columns / BLOCK_ELEMENTS};
    uint64_t most = scratch->panel_max > 0 ? scratch->panel_max : PANEL_MAX;
    matrix.panel_strips = most / (matrix.rows * BLOCK_BYTES);
    if (matrix.panel_strips == 0)
        matrix.panel_strips = 1;
    if (matrix.panel_strips > matrix.strips)
        matrix.panel_strips = matrix.strips;
    return matrix;
}

int tp_transpose_read(const struct tp_segment *segment, uint64_t offset, size_t length,
                      void *target, struct tp_artifact_scratch *scratch)
{
    uint8_t *at = target;
    struct matrix matrix = describe(segment, scratch);
    uint64_t strip_bytes = matrix.rows * BLOCK_ELEMENTS * segment->content->target_width;
    uint64_t matrix_bytes = matrix.strips * strip_bytes;
    assert(length == 0 || matrix_bytes > 0); /* empty ones have no segment */
    while (length > 0) {
        matrix.index = offset / matrix_bytes;
        uint64_t inside = offset % matrix_bytes, strip = inside / strip_bytes,
                 skip = inside % strip_bytes;
        size_t now = strip_bytes - skip < length ? (size_t)(strip_bytes - skip) : length;
        int rc = want_panel(segment, &matrix, strip, scratch);
        if (rc == 0)
            rc = copy_of_strip(&matrix, strip, skip, now, at, scratch);
        if (rc < 0)
            return rc;
        offset += now;
        at += now;
        length -= now;
    }
    return 0;
}
