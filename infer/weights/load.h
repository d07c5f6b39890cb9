/* Bringing the weights of a view into memory before they are used, and where to.
 *
 * TP_PLACEMENT_MAPPED leaves them in the page cache, which every process shares: loading maps the
 * pages that are there and reads those that are not. TP_PLACEMENT_HUGE_PAGES copies them into
 * private memory of 2 MiB pages, which takes that memory a second time and saves the processor's
 * walks through page tables. bench/weights measures both.
 */
#ifndef TENSORPORT_INFER_WEIGHTS_LOAD_H
#define TENSORPORT_INFER_WEIGHTS_LOAD_H

#include <stddef.h>
#include <stdint.h>

#include "fs/base/progress.h"
#include "infer/weights/view.h"

enum tp_placement { TP_PLACEMENT_MAPPED, TP_PLACEMENT_HUGE_PAGES };

/* The names of the placements, NULL at the end, in the order of the enum. */
extern const char *const tp_placement_names[];

/* How much of a mapped view the page cache has, from 0 to 1: a sample. 1 where the kernel does not
 * tell. */
double tp_weights_view_cached(const struct tp_weights_view *view);

struct tp_load_report {
    uint64_t bytes;         /* that were loaded */
    uint64_t private_bytes; /* memory that is this process's own */
    double seconds;
};

/* Loads every array with `n_workers` threads (at least 1). Call once, before the arrays' addresses
 * are handed on: a placement may move them. -EIO and the like with a message when a file fails. */
int tp_weights_view_load(struct tp_weights_view *view, enum tp_placement placement,
                         size_t n_workers, enum tp_progress_style progress,
                         struct tp_load_report *ret_report, struct tp_error *error);

#endif
