/* manifest.json: every tensor of a view with its name, file, shape, types and source.
 * Schema: tensorport-manifest(5). */
#ifndef TENSORPORT_FS_VIEW_MANIFEST_H
#define TENSORPORT_FS_VIEW_MANIFEST_H

#include <stddef.h>

#include "fs/view/view.h"

/* Writes the text for a view whose tensors are planned; the caller frees it. -ENOMEM. */
int tp_manifest_write(const struct tp_view *view, char **ret_text, size_t *ret_length);

#endif
