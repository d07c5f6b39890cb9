/* What the operations of the CPU backend share: threads, kernels, and memory that grows to what
 * the largest of them needed. One operation at a time. */
#ifndef TENSORPORT_INFER_CPU_WORKSPACE_H
#define TENSORPORT_INFER_CPU_WORKSPACE_H

#include <stddef.h>

#include "decode/error.h"
#include "infer/cpu/kernels.h"
#include "infer/cpu/pool.h"

struct tp_scratch {
    void *memory; /* aligned to 64 */
    size_t bytes;
};

struct tp_workspace {
    const struct tp_kernels *kernels;
    struct tp_pool *pool;
    struct tp_scratch packed[2]; /* activations, as float32 and as pairs of BF16 */
    struct tp_scratch vectors;   /* pointers to them and to results */
    struct tp_scratch pieces;    /* of an operation's work */
    struct tp_scratch scratch;   /* of the threads */
};

/* `n_threads` and `pin` as tp_pool_new() has them. */
int tp_workspace_init(struct tp_workspace *workspace, const struct tp_kernels *kernels,
                      size_t n_threads, bool pin, struct tp_error *error);
void tp_workspace_fini(struct tp_workspace *workspace);

/* Bytes held; they stay until tp_workspace_fini(). */
size_t tp_workspace_bytes(const struct tp_workspace *workspace);

/* At least n * bytes of memory in `buffer`, whose content is lost if it grows; NULL if there is
 * none. */
void *tp_scratch_reserve(struct tp_scratch *buffer, size_t n, size_t bytes);

#endif
