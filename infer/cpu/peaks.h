/* What the machine can do at most: reading memory, and multiplying in registers. What the backend
 * reaches is measured by it. */
#ifndef TENSORPORT_INFER_CPU_PEAKS_H
#define TENSORPORT_INFER_CPU_PEAKS_H

#include <stdbool.h>
#include <stddef.h>

#include "infer/backend.h"
#include "infer/cpu/workspace.h"

/* Reads all of it with the widest loads there are; `bytes` is a multiple of 512. */
void tp_peak_read(const void *memory, size_t bytes);

/* A fixed number of multiply-adds (lanes counted), which it returns, by the instructions that these
 * kernels multiply with: float32, or pairs of BF16. 0 if no loop here is of their kind. */
double tp_peak_multiply(const struct tp_kernels *kernels, bool bf16_pairs);

/* See struct tp_backend_kind. `bf16_pairs` as above. */
int tp_peaks_measure(struct tp_workspace *workspace, bool bf16_pairs, bool small_pages,
                     struct tp_backend_limits *ret_limits, struct tp_error *error);

#endif
