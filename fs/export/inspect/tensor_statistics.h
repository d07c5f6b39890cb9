/* The statistics of every tensor of a view, gathered by several threads. */
#ifndef TENSORPORT_FS_EXPORT_INSPECT_TENSOR_STATISTICS_H
#define TENSORPORT_FS_EXPORT_INSPECT_TENSOR_STATISTICS_H

#include <stddef.h>

#include "decode/error.h"
#include "decode/value_statistics.h"
#include "fs/base/progress.h"
#include "fs/view/view.h"

/* Bytes that tp_tensor_statistics() adds to the progress. */
uint64_t tp_tensor_statistics_bytes(const struct tp_view *view);

/* Reads every value of `view`, which is one of float32, and gives statistics for each of its
 * tensors, in their order; the caller frees them. Floats of 64 bits and integers are taken as they
 * are stored. Memory: half a megabyte for each worker, and some bytes for each four million values.
 * The result does not depend on the number of workers. -EIO, -ENOMEM. */
int tp_tensor_statistics(const struct tp_view *view, size_t n_workers, struct tp_progress *progress,
                         struct tp_value_statistics **ret_statistics, struct tp_error *error);

/* The type whose values the statistics are of: F32 for all floats but F64. */
enum tp_dtype tp_tensor_statistics_dtype(const struct tp_view_tensor *tensor);

#endif
