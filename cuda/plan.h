/* What a model and its sequences take of a device's memory, counted before anything is copied. */
#ifndef TENSORPORT_CUDA_PLAN_H
#define TENSORPORT_CUDA_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "cuda/sequence.h"
#include "decode/error.h"

struct tp_memory_plan {
    const char *device; /* its name */
    uint64_t available, weights;
    const struct tp_cache_plan *cache;
    size_t context, n_sequences; /* that there must be room for */

    /* Bytes of the workspace for sequences of so many tokens. */
    uint64_t (*workspace_bytes)(const void *owner, size_t context);
    const void *owner;
};

/* -ENOMEM when it does not fit, with a message that has the figures and the largest context that
 * would fit. */
int tp_memory_plan_check(const struct tp_memory_plan *plan, struct tp_error *error);

#endif
