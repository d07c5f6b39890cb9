/* The checkpoint that a folder is compared with: opened as the manifest says that it was shown. */
#ifndef TENSORPORT_FS_EXPORT_VERIFY_VERIFY_SOURCE_H
#define TENSORPORT_FS_EXPORT_VERIFY_VERIFY_SOURCE_H

#include <stddef.h>

#include "decode/error.h"
#include "fs/base/log.h"
#include "fs/export/convert/artifact.h"
#include "fs/export/verify/inventory.h"
#include "fs/export/verify/manifest_read.h"

struct tp_verify_source {
    struct tp_checkpoint *checkpoint;
    struct tp_view *whole; /* all tensors */
    struct tp_view *view;  /* those that the manifest has; may be `whole` */
    const char **patterns; /* of the view; private */
    struct tp_export_plan plan;
    size_t n_absent; /* tensors that the manifest does not have, of `whole` */
    const struct tp_view_tensor **absent;
};

/* Opens `path` and plans what it gives under the manifest's options. Tensors that the manifest has
 * and the checkpoint has not, or not so, go to `faults`. `log` must outlive the source. The name of
 * the checkpoint may have changed since: the manifest's is taken for true. */
int tp_verify_source_open(const char *path, const struct tp_manifest *manifest,
                          const struct tp_log *log, struct tp_faults *faults,
                          struct tp_verify_source *ret_source, struct tp_error *error);

/* Says which artifact each file should be: .npy files by the name of their tensor. -ENOMEM. */
int tp_verify_source_add(const struct tp_verify_source *source, const struct tp_manifest *manifest,
                         struct tp_inventory *inventory);

void tp_verify_source_close(struct tp_verify_source *source);

#endif
