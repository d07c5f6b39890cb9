/* Turns a plan into a folder, whatever happens on the way.
 *
 *     OUTPUT/.tensorport-convert/journal    what is being converted to what
 *     OUTPUT/.tensorport-convert/17         a file that is being written
 *     OUTPUT/shard_000/x.npy                one that is complete and on the disk
 *
 * The hidden folder goes when all is done. Until then a conversion that was interrupted, killed or
 * cut off by a power failure can be resumed: what is in place is compared with what it should be,
 * byte for byte, and made again where it differs.
 */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_CONVERT_H
#define TENSORPORT_FS_EXPORT_CONVERT_CONVERT_H

#include <stdbool.h>
#include <stddef.h>

#include "decode/error.h"
#include "fs/base/log.h"
#include "fs/base/progress.h"
#include "fs/base/stop.h"
#include "fs/export/convert/artifact.h"
#include "fs/export/convert/writer.h"

#define TP_CONVERT_STATE ".tensorport-convert"

struct tp_convert_options {
    const struct tp_export_plan *plan;
    const char *output;
    const char *description; /* the options that decide the bytes, one line: "--format ..." */
    bool resume;
    bool xxh3;   /* write XXH3SUMS */
    bool sha256; /* write SHA256SUMS */
    size_t n_workers;
    const struct tp_view *exact; /* see tp_write_options */
    enum tp_progress_style progress;
    const struct tp_stop *stop;
    const struct tp_log *log; /* gets a warning when the disk has no room */
};

/* Converts. -EEXIST and the like when the folder holds something else, -EINTR when `stop` wants it,
 * otherwise what writing gives; see tp_write_artifacts(). */
int tp_convert(const struct tp_convert_options *options, struct tp_write_totals *ret_totals,
               struct tp_error *error);

#endif
