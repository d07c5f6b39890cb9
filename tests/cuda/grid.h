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

enum { TP_GRID_SHARED_MAX = 227 << 10 }; /* bytes of a block */

struct tp_grid {
    tp_grid_kernel_fn *kernel;
    const void *arguments;
    size_t argument_bytes;
    unsigned blocks[3];
    unsigned threads; /* of a block; a multiple of 32, at most 1024 */
    size_t shared_bytes;
    bool follows;  /* every thread must call tp_wait_for_previous() */
    uint64_t seed; /* of the order in which threads run */
};

/* -EINVAL for what no device launches; -EPROTO when threads break a rule of harness.h, such as to
 * wait for others that do not come; -ENOMEM. With a message, which says where. */
int tp_grid_run(const struct tp_grid *grid, struct tp_error *error);

#ifdef __cplusplus
}
#endif

#endif
