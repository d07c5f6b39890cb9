#include "infer/cpu/workspace.h"

#include <stdint.h>
#include <stdlib.h>

int tp_workspace_init(struct tp_workspace *workspace, const struct tp_kernels *kernels,
                      size_t n_threads, bool pin, struct tp_error *error)
{
    struct tp_pool *pool;
    int rc = tp_pool_new(n_threads, pin, &pool, error);
    if (rc == 0)
        *workspace = (struct tp_workspace){.kernels = kernels, .pool = pool};
    return rc;
}

void tp_workspace_fini(struct tp_workspace *workspace)
{
    free(workspace->packed[0].memory);
    free(workspace->packed[1].memory);
    free(workspace->vectors.memory);
    free(workspace->pieces.memory);
    free(workspace->scratch.memory);
    tp_pool_free(workspace->pool);
}

size_t tp_workspace_bytes(const struct tp_workspace *workspace)
{
    return workspace->packed[0].bytes + workspace->packed[1].bytes + workspace->vectors.bytes +
           workspace->pieces.bytes + workspace->scratch.bytes;
}

void *tp_scratch_reserve(struct tp_scratch *buffer, size_t n, size_t bytes)
{
    enum { ALIGNMENT = 64 };
    if (bytes > 0 && n > (SIZE_MAX - ALIGNMENT) / bytes)
        return NULL;
    size_t needed = (n * bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    if (needed > buffer->bytes) {
        void *memory = aligned_alloc(ALIGNMENT, needed);
        if (memory == NULL)
            return NULL;
        free(buffer->memory);
        *buffer = (struct tp_scratch){memory, needed};
    }
    return buffer->memory;
}
