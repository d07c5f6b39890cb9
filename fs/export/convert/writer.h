/* Writes the artifacts of a plan into a folder, so that each appears whole or not at all.
 *
 * A file is made under a number in the folder `state`, flushed to the disk, and renamed to its
 * place. Several workers take a file each; when none is left they help with the one of which most
 * is to be done. A file that is there already is made again in memory and compared: what differs
 * is written anew.
 */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_WRITER_H
#define TENSORPORT_FS_EXPORT_CONVERT_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "fs/base/progress.h"
#include "fs/base/stop.h"
#include "fs/export/common/hashes.h"
#include "fs/export/convert/artifact.h"

struct tp_write_options {
    const struct tp_export_plan *plan;
    const char *output; /* the folder's name, for messages */
    int folder;
    int state;  /* on the same file system as `folder` */
    bool check; /* files may be there already */
    bool xxh3;  /* checksums to compute; without any, the kernel copies what is not decoded */
    bool sha256;
    size_t n_workers;
    const struct tp_view
        *exact; /* the same tensors as float32: count what float16 loses; or NULL */
    struct tp_progress *progress;
    const struct tp_stop *stop;
};

/* What became of an artifact. */
struct tp_written {
    struct tp_digests digests;
    bool was_there; /* and was right */
};

struct tp_write_totals {
    uint64_t overflowed;  /* values that float16 made infinite */
    uint64_t became_zero; /* values that it made zero */
    uint64_t cloned;      /* bytes shared with the checkpoint by the file system */
    size_t n_kept;        /* files that were there */
    size_t n_redone;      /* files that were there and were not right */
};

/* Writes all artifacts; `ret_written` has room for one entry each. On failure what is in place
 * stays, and nothing is left in `state`. -EINTR when `stop` wants it; -EIO without a message when
 * the checkpoint's log has said already which source is at fault. */
int tp_write_artifacts(const struct tp_write_options *options, struct tp_written *ret_written,
                       struct tp_write_totals *ret_totals, struct tp_error *error);

#endif
