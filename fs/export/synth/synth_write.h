/* Fills the files of a synthetic checkpoint with several threads, a tensor each at a time.
 *
 * Every tensor has its own stream of random numbers and its own place, so the bytes do not
 * depend on the number of threads or on their order. The one exception to independence is the
 * output head, which needs rows of the embedding: these are read back from the file. The
 * embedding is therefore made first, and the head as soon as it is complete.
 */
#ifndef TENSORPORT_FS_EXPORT_SYNTH_SYNTH_WRITE_H
#define TENSORPORT_FS_EXPORT_SYNTH_SYNTH_WRITE_H

#include <stdint.h>

#include "decode/error.h"
#include "fs/export/synth/synth_plan.h"
#include "fs/export/synth/synth_weights.h"

/* Called now and then by the thread that waits; `done` of `total` bytes are written. A
 * negative result ends the work, and is its result. */
typedef int tp_synth_report(void *context, uint64_t done, uint64_t total);

/* Writes headers and tensors; fds[i], open for reading and writing, is file i of the plan.
 * `report` may be NULL. 0 or a negative errno with a message that names file and tensor. */
int tp_synth_write(const struct tp_synth_weights *weights, const struct tp_synth_plan *plan,
                   const int *fds, uint64_t seed, tp_synth_report *report, void *report_context,
                   struct tp_error *error);

#endif
