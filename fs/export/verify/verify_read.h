/* Reads files from end to end and checks what they hold: npy headers, checksums, and every byte
 * against what the checkpoint gives. */
#ifndef TENSORPORT_FS_EXPORT_VERIFY_VERIFY_READ_H
#define TENSORPORT_FS_EXPORT_VERIFY_VERIFY_READ_H

#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "fs/base/progress.h"
#include "fs/export/verify/faults.h"
#include "fs/export/verify/inventory.h"

/* Reads the regular files of the inventory in `folder`, which have the right size, by several
 * threads, each of which takes a file and, when none is left, helps with the largest. Each piece is
 * looked at in all ways while it is in the processor's cache. Memory: half a MiB for each worker.
 * What is wrong goes to `faults`. -ENOMEM. */
int tp_verify_read(const struct tp_inventory *inventory, int folder, size_t n_workers,
                   struct tp_progress *progress, struct tp_faults *faults);

/* The files and bytes that will be read. */
void tp_verify_read_totals(const struct tp_inventory *inventory, size_t *ret_n_files,
                           uint64_t *ret_bytes);

#endif
