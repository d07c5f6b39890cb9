/* manifest.json: every tensor of a view with its name, file, shape, types and source.
 * Schema: tensorport-manifest(5). */
#ifndef TENSORPORT_FS_VIEW_MANIFEST_H
#define TENSORPORT_FS_VIEW_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/view/view.h"

/* Where a tensor's data lies when it is not in a file of its own: one run of bytes after the
 * other. An empty tensor has one run of no bytes. */
struct tp_manifest_run {
    uint64_t offset, nbytes;
};

struct tp_manifest_place {
    const char *file; /* relative to the manifest */
    bool transposed;  /* the last two dimensions are exchanged */
    bool quantized;   /* MXFP4 blocks or scales of the stored tensor */
    size_t n_runs;
    struct tp_manifest_run *runs;
};

/* Writes the text for a view whose tensors are planned; the caller frees it. `format` and
 * `places` [n_tensors] describe containers; both are NULL for the view's own files. -ENOMEM. */
int tp_manifest_write(const struct tp_view *view, const char *format,
                      const struct tp_manifest_place *places, char **ret_text, size_t *ret_length);

#endif
