/* Straight tensors are quantised as they are read, in pieces that stay in the second cache.
 *
 * Turned ones are read by groups of 32 stored rows, which hold one block of each wanted row, and
 * turned tile by tile:
 *
 *      stored                           result
 *      [32 columns][ the rows wanted ]  ->  block 0 of each row
 *      [32 columns][                 ]  ->  block 1 of each row
 *
 * Scales are made by quantising once more: they lie apart from the blocks, and there is no bound on
 * how many there are to keep. That reads the tensor twice, the second time from the page cache
 * unless the tensor is larger than that. */
#include "fs/export/convert/quantize.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode/codec.h"
#include "decode/mxfp4_encode.h"
#include "fs/base/bytes.h"
#include "fs/export/convert/tile.h"

enum {
    BLOCK_ELEMENTS = TP_MXFP4_BLOCK_ELEMENTS,
    BLOCK_BYTES = TP_MXFP4_BLOCK_BYTES,
    PIECE_BLOCKS = 1024,    /* read and quantised at a time: 128 KiB of F32 */
    SUMMED_BLOCKS = 64,     /* whose values as float32, both kinds, stay in the first cache */
    TURNED_BYTES = 1 << 20, /* of stored rows at a time, unless one group has more */
    WIDTH_MAX = sizeof(float),
    LANES = 8,
};

_Static_assert((int)BLOCK_ELEMENTS == (int)TP_TILE_COLUMNS, "a tile is as wide as a block");

/* What quantising a range needs at hand. */
struct work {
    const struct tp_quantized_tensor *tensor;
    const struct tp_content *content;
    enum tp_dtype dtype;
    size_t width; /* bytes of a stored value */
    tp_mxfp4_encode_fn *encode;
    bool summed;
    struct tp_artifact_scratch *scratch;
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

/* ---- what is lost ---- */

void tp_quantize_sums_add(struct tp_quantize_sums *sums, const struct tp_quantize_sums *more)
{
    sums->signal += more->signal;
    sums->noise += more->noise;
    sums->largest = fmax(sums->largest, more->largest);
    sums->largest_error = fmax(sums->largest_error, more->largest_error);
}

/* Lanes, for the compiler to keep them in vectors; added up in one order. */
static void sum_up(const float *values, const float *decoded, size_t n,
                   struct tp_quantize_sums *sums)
{
    double signal[LANES] = {0}, noise[LANES] = {0};
    float largest[LANES] = {0}, largest_error[LANES] = {0};

    for (size_t i = 0; i < n; i += LANES) {
        for (size_t lane = 0; lane < LANES; lane++) {
            double value = values[i + lane], error = value - (double)decoded[i + lane];
            float size = fabsf(values[i + lane]), error_size = fabsf((float)error);
            signal[lane] += value * value;
            noise[lane] += error * error;
            largest[lane] = largest[lane] > size ? largest[lane] : size;
            largest_error[lane] =
                largest_error[lane] > error_size ? largest_error[lane] : error_size;
        }
    }
    for (size_t lane = 0; lane < LANES; lane++) {
        struct tp_quantize_sums more = {signal[lane], noise[lane], (double)largest[lane],
                                        (double)largest_error[lane]};
        tp_quantize_sums_add(sums, &more);
    }
}

static void sum_blocks(const struct work *work, const uint8_t *values, const uint8_t *blocks,
                       const uint8_t *scales, size_t n_blocks)
{
    float wide[SUMMED_BLOCKS * BLOCK_ELEMENTS], decoded[SUMMED_BLOCKS * BLOCK_ELEMENTS];
    tp_convert_fn *widen = tp_codecs()->convert[work->dtype][TP_TARGET_F32];
    for (size_t now; n_blocks > 0; n_blocks -= now) {
        now = n_blocks < SUMMED_BLOCKS ? n_blocks : SUMMED_BLOCKS;
        size_t elements = now * BLOCK_ELEMENTS;
        if (widen != NULL)
            widen(values, wide, elements);
        else
            memcpy(wide, values, elements * sizeof *wide);
        tp_codecs()->mxfp4[TP_TARGET_F32](blocks, scales, decoded, now);
        sum_up(wide, decoded, elements, &work->scratch->sums);
        values += elements * work->width;
        blocks += now * BLOCK_BYTES;
        scales += now;
    }
}

/* ---- quantising what has been read ---- */

static bool is_finite(const struct work *work, const uint8_t *value)
{
    uint32_t bits = 0;
    memcpy(&bits, value, work->width);
    uint32_t exponent = work->dtype == TP_F32    ? 0x7f800000
                        : work->dtype == TP_BF16 ? 0x7f80
                                                 : 0x7c00;
    return (bits & exponent) != exponent;
}

/* The index of the first value among `n_blocks` blocks that is not finite; their number of values
 * if all are. */
static size_t find_unfit(const struct work *work, const uint8_t *values, const uint8_t *scales,
                         size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++) {
        if (scales[b] < TP_MXFP4_SCALE_OF_INFINITY)
            continue;
        for (size_t i = b * BLOCK_ELEMENTS; i < (b + 1) * BLOCK_ELEMENTS; i++) {
            if (!is_finite(work, values + i * work->width))
                return i;
        }
    }
    return n_blocks * BLOCK_ELEMENTS;
}

/* ---- straight ---- */

/* Blocks [first, first + n) of the tensor; n is at most PIECE_BLOCKS. */
static int make_straight(const struct work *work, uint64_t first, size_t n, uint8_t *blocks,
                         uint8_t *scales)
{
    uint8_t values[PIECE_BLOCKS * BLOCK_ELEMENTS * WIDTH_MAX];
    size_t bytes = BLOCK_ELEMENTS * work->width;
    int rc = tp_content_read(work->content, work->content->head_length + first * bytes, n * bytes,
                             values);
    if (rc < 0)
        return rc;
    work->encode(values, blocks, scales, n);
    size_t unfit = find_unfit(work, values, scales, n);
    if (unfit < n * BLOCK_ELEMENTS) {
        work->scratch->unfit = first * BLOCK_ELEMENTS + unfit;
        return -EDOM;
    }
    if (work->summed)
        sum_blocks(work, values, blocks, scales, n);
    return 0;
}

/* `unit` is the bytes of a block in the range that is wanted: BLOCK_BYTES, or 1 for scales. */
static int read_straight(const struct work *work, uint64_t offset, size_t length, size_t unit,
                         uint8_t *target)
{
    uint8_t blocks[PIECE_BLOCKS * BLOCK_BYTES], scales[PIECE_BLOCKS];
    const uint8_t *made = unit == 1 ? scales : blocks;
    while (length > 0) {
        uint64_t first = offset / unit;
        size_t skip = (size_t)(offset % unit);
        size_t n = (skip + length - 1) / unit + 1;
        if (n > PIECE_BLOCKS)
            n = PIECE_BLOCKS;
        size_t now = n * unit - skip < length ? n * unit - skip : length;
        int rc = make_straight(work, first, n, blocks, scales);
        if (rc < 0)
            return rc;
        memcpy(target, made + skip, now);
        offset += now;
        target += now;
        length -= now;
    }
    return 0;
}

/* ---- turned ---- */

/* Rows [first, first + n) of a matrix. */
struct strip {
    uint64_t matrix, first;
    size_t n;
    size_t groups;            /* blocks of a row */
    uint8_t *blocks, *scales; /* [n][groups] */
};

/* Stored rows [32 group, 32 group + 32), of which the wanted part. */
static int read_group(const struct work *work, const struct strip *strip, size_t group,
                      uint8_t *values)
{
    const struct tp_content *content = work->content;
    uint64_t rows = work->tensor->rows;
    uint64_t at =
        (strip->matrix * work->tensor->columns + (uint64_t)group * BLOCK_ELEMENTS) * rows +
        strip->first;
    size_t bytes = strip->n * work->width;
    if (strip->n == rows)
        return tp_source_read_unverified(content->source, values, bytes * BLOCK_ELEMENTS,
                                         content->offset + at * work->width);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < BLOCK_ELEMENTS; i++)
        rc = tp_source_read_unverified(content->source, values + i * bytes, bytes,
                                       content->offset + (at + i * rows) * work->width);
    return rc;
}

/* Where a value of a turned block lies in the tensor as stored. */
static void note_unfit(const struct work *work, const struct strip *strip, size_t group, size_t row,
                       size_t unfit)
{
    const struct tp_quantized_tensor *tensor = work->tensor;
    uint64_t column = (uint64_t)group * BLOCK_ELEMENTS + unfit % BLOCK_ELEMENTS;
    work->scratch->unfit = (strip->matrix * tensor->columns + column) * tensor->rows +
                           strip->first + row + unfit / BLOCK_ELEMENTS;
}

/* The blocks of rows [row, row + n) in a group, n at most 32. */
static int make_tile(const struct work *work, const struct strip *strip, const uint8_t *values,
                     size_t group, size_t row, size_t n)
{
    _Alignas(64) uint8_t tile[BLOCK_ELEMENTS * BLOCK_ELEMENTS * WIDTH_MAX] = {0};
    _Alignas(64) uint8_t turned[BLOCK_ELEMENTS * BLOCK_ELEMENTS * WIDTH_MAX];
    uint8_t blocks[BLOCK_ELEMENTS * BLOCK_BYTES], scales[BLOCK_ELEMENTS];
    size_t width = work->width, line = BLOCK_ELEMENTS * width;
    for (size_t i = 0; i < BLOCK_ELEMENTS; i++)
        memcpy(tile + i * line, values + (i * strip->n + row) * width, n * width);
    if (width == sizeof(uint16_t))
        tp_tile_transpose_16(tile, BLOCK_ELEMENTS, turned, line);
    else
        tp_tile_transpose_32(tile, BLOCK_ELEMENTS, turned, line);
    work->encode(turned, blocks, scales, n);
    size_t unfit = find_unfit(work, turned, scales, n);
    if (unfit < n * BLOCK_ELEMENTS) {
        note_unfit(work, strip, group, row, unfit);
        return -EDOM;
    }
    if (work->summed)
        sum_blocks(work, turned, blocks, scales, n);
    for (size_t i = 0; i < n; i++) {
        size_t at = (row + i) * strip->groups + group;
        memcpy(strip->blocks + at * BLOCK_BYTES, blocks + i * BLOCK_BYTES, BLOCK_BYTES);
        strip->scales[at] = scales[i];
    }
    return 0;
}

static int make_strip(const struct work *work, const struct strip *strip)
{
    struct tp_artifact_scratch *scratch = work->scratch;
    int rc = grow(&scratch->strip_bytes, &scratch->strip_capacity,
                  strip->n * BLOCK_ELEMENTS * work->width);
    for (size_t group = 0; rc == 0 && group < strip->groups; group++) {
        rc = read_group(work, strip, group, scratch->strip_bytes);
        for (size_t row = 0; rc == 0 && row < strip->n; row += BLOCK_ELEMENTS) {
            size_t left = strip->n - row;
            rc = make_tile(work, strip, scratch->strip_bytes, group, row,
                           left < BLOCK_ELEMENTS ? left : BLOCK_ELEMENTS);
        }
    }
    int changed = tp_source_verify(work->content->source);
    return changed < 0 ? changed : rc;
}

/* The strip of rows with the wanted bytes, as far as one matrix has them, but not so many that the
 * stored rows take too much memory. */
static struct strip strip_at(const struct work *work, uint64_t offset, size_t length, size_t unit)
{
    const struct tp_quantized_tensor *tensor = work->tensor;
    struct strip strip = {.groups = (size_t)(tensor->columns / BLOCK_ELEMENTS)};
    uint64_t row_bytes = (uint64_t)strip.groups * unit, first = offset / row_bytes;
    uint64_t end = (offset + length - 1) / row_bytes + 1;
    uint64_t most = TURNED_BYTES / (BLOCK_ELEMENTS * work->width);
    strip.matrix = first / tensor->rows;
    strip.first = first % tensor->rows;
    uint64_t n = end - first, left = tensor->rows - strip.first;
    n = n < left ? n : left;
    strip.n = (size_t)(n < most ? n : most);
    return strip;
}

static int read_turned(const struct work *work, uint64_t offset, size_t length, size_t unit,
                       uint8_t *target)
{
    struct tp_artifact_scratch *scratch = work->scratch;
    while (length > 0) {
        struct strip strip = strip_at(work, offset, length, unit);
        size_t n_blocks = strip.n * strip.groups;
        int rc = grow(&scratch->blocks, &scratch->block_capacity, n_blocks * BLOCK_BYTES);
        if (rc == 0)
            rc = grow(&scratch->scales, &scratch->scale_capacity, n_blocks);
        if (rc < 0)
            return rc;
        strip.blocks = scratch->blocks;
        strip.scales = scratch->scales;
        rc = make_strip(work, &strip);
        if (rc < 0)
            return rc;
        size_t skip = (size_t)(offset % ((uint64_t)strip.groups * unit));
        size_t now = n_blocks * unit - skip < length ? n_blocks * unit - skip : length;
        memcpy(target, (unit == 1 ? strip.scales : strip.blocks) + skip, now);
        offset += now;
        target += now;
        length -= now;
    }
    return 0;
}

/* ---- both ---- */

int tp_quantize_read(const struct tp_segment *segment, uint64_t offset, size_t length, void *target,
                     struct tp_artifact_scratch *scratch)
{
    const struct tp_quantized_tensor *tensor = segment->quantized;
    enum tp_dtype dtype = tensor->file->tensor->dtype;
    bool is_blocks = segment->kind == TP_SEGMENT_BLOCKS;
    struct work work = {
        .tensor = tensor,
        .content = &tensor->file->content,
        .dtype = dtype,
        .width = tp_dtype_size(dtype),
        .encode = tp_mxfp4_encoder(tp_codecs(), dtype),
        .summed = is_blocks,
        .scratch = scratch,
    };
    size_t unit = is_blocks ? BLOCK_BYTES : 1;
    scratch->segment = NULL; /* its memory is used for something else */
    scratch->has_strip = false;
    scratch->sums = (struct tp_quantize_sums){0};
    return tensor->turned ? read_turned(&work, offset, length, unit, target)
                          : read_straight(&work, offset, length, unit, target);
}

int tp_quantize_blame(const struct tp_segment *segment, uint64_t unfit, struct tp_error *error)
{
    enum { PLACE_MAX = 128 };
    const struct tp_view_tensor *tensor = segment->quantized->file->tensor;
    char place[PLACE_MAX] = "";
    /* From the last dimension to the first. */
    for (size_t i = tensor->rank; i-- > 0; unfit /= tensor->shape[i]) {
        char rest[PLACE_MAX];
        memcpy(rest, place, sizeof rest);
        snprintf(place, sizeof place, "%" PRIu64 "%s%.100s", unfit % tensor->shape[i],
                 rest[0] != '\0' ? ", " : "", rest);
    }
    return tp_error_set(error, -EDOM,
                        "tensor \"%.*s\": expected finite values, found infinity or NaN at [%s]; "
                        "leave it as it is with --exclude",
                        tp_bytes_shown(tensor->name, tensor->name_length), tensor->name, place);
}
