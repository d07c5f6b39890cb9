/* What the handlers of this process share: the threads and the memory they work with.
 *
 * XLA calls handlers from several of its threads, each of which would like all processors. So one
 * call computes at a time, with a pool of our own: measured, it is faster than XLA's (see
 * process.c), and results do not depend on its number of threads.
 *
 * A child after fork() has none of its parent's threads, and perhaps a lock that nobody will open:
 * it starts anew.
 */
#ifndef TENSORPORT_INFER_JAX_PROCESS_H
#define TENSORPORT_INFER_JAX_PROCESS_H

#include "decode/error.h"
#include "infer/cpu/mixture.h"
#include "infer/cpu/workspace.h"

struct tp_process {
    struct tp_workspace workspace;
    struct tp_mixture mixture; /* of the shape that the last call had */
    /* Arguments as float32, results before they are rounded, and lists of work. */
    struct tp_scratch x, y, bias[2], lists[2];
};

/* Waits for its turn; tp_process_leave() must follow. -ENOMEM, or what threads cost, with a
 * message; nothing must follow then. */
int tp_process_enter(struct tp_process **ret_process, struct tp_error *error);
void tp_process_leave(void);

#endif
