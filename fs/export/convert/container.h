/* What the formats have in common that keep many tensors in one file: a container for each shard
 * of the view, an index of them if they are several, manifest.json, and the checkpoint's other
 * files.
 *
 *     model.safetensors                          one shard
 *     model-00001-of-00003.safetensors ...       several,
 *     model.safetensors.index.json               and which tensor is where
 */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_CONTAINER_H
#define TENSORPORT_FS_EXPORT_CONVERT_CONTAINER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "fs/base/text.h"
#include "fs/export/convert/artifact.h"
#include "fs/view/manifest.h"
#include "fs/view/view.h"

/* One of them while it is planned: a format writes what goes between the data to text.stream,
 * and adds the data with the functions below. */
struct tp_container {
    const struct tp_view *view;
    struct tp_artifact *artifact;
    struct tp_text text;
    size_t n_files;                          /* tensors in it */
    const struct tp_view_file *const *files; /* [n_files], sorted as the format wants them */
    struct tp_manifest_place *places;        /* [n_tensors of the view] */
};

struct tp_container_format {
    const char *name;      /* "msgpack" */
    const char *stem;      /* "flax_model" */
    const char *extension; /* ".msgpack" */

    /* Order of two tensors in a container. */
    int (*compare)(const struct tp_view_file *a, const struct tp_view_file *b);
    /* Refuses what the format cannot hold; may be NULL. -EINVAL with a message. */
    int (*check)(const struct tp_view_file *file, struct tp_error *error);
    /* Writes everything. -ENOMEM, or another error with a message. */
    int (*fill)(struct tp_container *container, struct tp_error *error);
    /* The text that replaces an other file of the checkpoint, or NULL to leave it as it is; the
     * function may be NULL. The caller frees *ret_text. */
    int (*rewrite)(const struct tp_view *view, const struct tp_view_file *file, char **ret_text,
                   size_t *ret_length, struct tp_error *error);
};

/* Adds all artifacts to the plan. */
int tp_plan_containers(const struct tp_view *view, const struct tp_container_format *format,
                       struct tp_export_plan *plan, struct tp_error *error);

/* Adds data of a tensor, as the view has it, and notes its place: the bytes [offset,
 * offset + length) of the data, which follow what was added before. -ENOMEM. */
int tp_container_add_data(struct tp_container *container, const struct tp_view_file *file,
                          uint64_t offset, uint64_t length);

/* Adds all data of a decoded pair [..., rows, columns] as [..., columns, rows], likewise. */
int tp_container_add_transposed(struct tp_container *container, const struct tp_view_file *file);

/* Adds all blocks, or all scales, of a quantised tensor: `file` shows them. Likewise. */
int tp_container_add_quantized(struct tp_container *container, const struct tp_view_file *file,
                               enum tp_segment_kind kind, struct tp_quantized_tensor *quantized);

/* Orders by the bytes of the names. */
int tp_container_compare_names(const struct tp_view_file *a, const struct tp_view_file *b);

/* Refuses shapes that numpy cannot have. */
int tp_container_check_numpy(const struct tp_view_file *file, struct tp_error *error);

#endif
