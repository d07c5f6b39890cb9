/* What the two kinds of safetensors that convert writes have in common: of decoded models, and of
 * quantised ones. */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_FORMAT_SAFETENSORS_H
#define TENSORPORT_FS_EXPORT_CONVERT_FORMAT_SAFETENSORS_H

#include <stddef.h>

#include "decode/error.h"
#include "fs/export/convert/container.h"
#include "fs/export/convert/json_edit.h"

/* The order of tensors in a file: that of the official library. */
int tp_safetensors_compare(const struct tp_view_file *a, const struct tp_view_file *b);

/* Refuses what safetensors cannot hold. -EINVAL or -EFBIG with a message. */
int tp_safetensors_check(const struct tp_view_file *file, struct tp_error *error);

/* Writes the length field and the header. -ENOMEM, or -EFBIG with a message. */
int tp_safetensors_write_header(struct tp_container *container, struct tp_error *error);

/* Edits config.json; every other file is left as it is, and so is one that is no JSON object. For
 * `rewrite` of a format. */
typedef int tp_edit_config_fn(const struct tp_view *view, struct tp_json_text *config);
int tp_safetensors_rewrite(const struct tp_view *view, const struct tp_view_file *file,
                           tp_edit_config_fn *edit, char **ret_text, size_t *ret_length,
                           struct tp_error *error);

#endif
