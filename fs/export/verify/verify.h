/* Checks a folder that `tensorport convert` wrote, a copy of a mount, or a mount.
 *
 *     manifest.json ──┐
 *     XXH3SUMS ... ───┼──→ inventory: what should be there ──→ judged by names and sizes
 *     the checkpoint ─┘         ▲                         └──→ read: headers, checksums, values
 *     the folder ───────────────┘
 */
#ifndef TENSORPORT_FS_EXPORT_VERIFY_VERIFY_H
#define TENSORPORT_FS_EXPORT_VERIFY_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "fs/base/log.h"
#include "fs/base/progress.h"
#include "fs/export/verify/faults.h"
#include "fs/export/verify/manifest_read.h"
#include "fs/export/verify/sums_read.h"
#include "fs/export/verify/verify_source.h"

struct tp_verify_options {
    const char *folder;
    const char *source; /* the checkpoint to compare with; NULL for none */
    size_t n_workers;
    enum tp_progress_style progress;
    const struct tp_log *log;
};

struct tp_verified {
    struct tp_faults faults;
    struct tp_manifest manifest;
    bool has_xxh3, has_sha256;
    struct tp_sums xxh3, sha256;
    bool has_source;
    struct tp_verify_source source;
    size_t n_files;   /* read */
    uint64_t bytes;   /* in them */
    size_t n_unknown; /* files that nothing is known of */
};

/* Verifies; all is right if there are no faults. To be cleared if it succeeded. Fails when the
 * folder or the checkpoint cannot be opened. */
int tp_verify(const struct tp_verify_options *options, struct tp_verified *ret_verified,
              struct tp_error *error);

void tp_verified_clear(struct tp_verified *verified);

#endif
