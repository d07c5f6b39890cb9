/* Decoding MXFP4 matrices with rows and columns exchanged: the checkpoint keeps experts as
 * [expert, out, in], `transformers` wants [expert, in, out]. */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_TRANSPOSE_H
#define TENSORPORT_FS_EXPORT_CONVERT_TRANSPOSE_H

#include "fs/export/convert/artifact.h"

/* Rows of a matrix that can be transposed: a decoded strip then has at most 64 MiB. */
#define TP_TRANSPOSE_ROWS_MAX (UINT64_C(1) << 19)

/* Makes the bytes [offset, offset + length) of a TP_SEGMENT_TRANSPOSED. -EIO, -ENOMEM. */
int tp_transpose_read(const struct tp_segment *segment, uint64_t offset, size_t length,
                      void *target, struct tp_artifact_scratch *scratch);

#endif
