/* Running a grid on the CPU: the other side of harness.h. */
#ifndef TENSORPORT_TESTS_CUDA_GRID_H
#define TENSORPORT_TESTS_CUDA_GRID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "decode/error.h"

typedef void tp_grid_kernel_fn(const void *arguments);

struct tp_grid {
    tp_grid_kernel_fn *kernel;
    const void *arguments;
    unsigned blocks[3];
    unsigned threads; /* of a block; a multiple of 32, at most 1024 */
    size_t shared_bytes;
    bool follows;  /* every thread must call tp_wait_for_previous() */
    uint64_t seed; /* of the order in which blocks and threads run */
};

/* -EPROTO when threads wait for others that do not come or break another rule, -ENOMEM; with a
 * message. */
int tp_grid_run(const struct tp_grid *grid, struct tp_error *error);

#ifdef __cplusplus
}
#endif

#endif
