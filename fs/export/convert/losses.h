/* What float16 loses: values too large for it become infinite, tiny ones zero. */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_LOSSES_H
#define TENSORPORT_FS_EXPORT_CONVERT_LOSSES_H

#include "fs/export/convert/artifact.h"

/* Adds the losses of the values whose first byte lies in [offset, offset + length) of the artifact.
 * `exact` is the same view as float32; `room` has space for length / 2 + 2 values. Ranges that
 * follow each other count each value once; which one is counted with which range is left open for
 * transposed tensors. -EIO. */
int tp_count_losses(const struct tp_artifact *artifact, uint64_t offset, size_t length,
                    const struct tp_view *exact, const struct tp_view *view, float *room,
                    uint64_t *overflowed, uint64_t *became_zero);

#endif
