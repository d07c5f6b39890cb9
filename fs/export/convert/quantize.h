/* Weights of a checkpoint as MXFP4, made a range at a time: the blocks of a tensor, or its scales.
 *
 * A row of the result is one output of a linear layer, quantised along its inputs:
 *
 *     [..., rows, columns]   as stored, `turned` false       blocks [..., rows, columns / 32, 16]
 *     [..., columns, rows]   as stored, `turned` true        scales [..., rows, columns / 32]
 *
 * decode/mxfp4_encode.h says how. What that loses is summed up while the blocks are made. */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_QUANTIZE_H
#define TENSORPORT_FS_EXPORT_CONVERT_QUANTIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "fs/export/convert/artifact.h"
#include "fs/view/view.h"

/* A tensor that is quantised. Immutable but for the sums, which belong to the writer. */
struct tp_quantized_tensor {
    const struct tp_view_file *file; /* BF16, F16 or F32, shown as stored */
    uint64_t matrices, rows, columns;
    bool turned;
    struct tp_quantize_sums sums;
};

/* Blocks of a row: a piece that the writer makes has whole rows of turned tensors. */
#define TP_QUANTIZE_COLUMNS_MAX (UINT64_C(1) << 22)

/* Makes the bytes [offset, offset + length) of a TP_SEGMENT_BLOCKS or TP_SEGMENT_SCALES. Sets
 * scratch->sums to what is lost in a range of blocks; they are those of its values if the range
 * begins and ends with a block, of a turned tensor with a row. -EIO, -ENOMEM; -EDOM when a value
 * is not finite: scratch->unfit is its index in the tensor as stored. */
int tp_quantize_read(const struct tp_segment *segment, uint64_t offset, size_t length, void *target,
                     struct tp_artifact_scratch *scratch);

/* The message for -EDOM; returns that. */
int tp_quantize_blame(const struct tp_segment *segment, uint64_t unfit, struct tp_error *error);

void tp_quantize_sums_add(struct tp_quantize_sums *sums, const struct tp_quantize_sums *more);

#endif
