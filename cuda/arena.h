/* Pieces of a device's memory: taken twice, without any to count them, and then of what was
 * allocated.
 */
#ifndef TENSORPORT_CUDA_ARENA_H
#define TENSORPORT_CUDA_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "cuda/kernels.h"

struct tp_arena {
    uint8_t *memory; /* NULL: only counts */
    uint64_t bytes;
};

/* Aligned to 256. */
void *tp_arena_take(struct tp_arena *arena, size_t n, size_t bytes);

/* Vectors whose padding the caller clears. */
struct tp_columns tp_arena_columns(struct tp_arena *arena, size_t n, size_t size, size_t n_parts);

#endif
