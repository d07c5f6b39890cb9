/* A view of a checkpoint, opened for reading: a mount of tensorport-mount, its packed view, or a
 * copy of either (`cp -r`, `tensorport convert`) in any precision.
 *
 *     VIEW/manifest.json    says which tensors there are
 *     VIEW/shard_000/x.npy  each is mapped where it lies, and checked against the manifest
 *     VIEW/config.json ...  the checkpoint's other files
 *
 * Of a mount the packed view is taken (.tensorport/views/packed): the bytes of the checkpoint, with
 * nothing to decode. The pages are those that the mount shares with every other process.
 *
 * Everything is checked here, once: afterwards names, shapes, types and sizes hold. Immutable then,
 * and good for any number of threads, but for tp_weights_view_load(), which comes first.
 */
#ifndef TENSORPORT_INFER_WEIGHTS_VIEW_H
#define TENSORPORT_INFER_WEIGHTS_VIEW_H

#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/weights/manifest.h"
#include "infer/weights/mapping.h"

/* A tensor as it lies in memory. */
struct tp_weights_array {
    const struct tp_manifest_tensor *tensor; /* name, dtype, shape, nbytes */
    const void *data;                        /* [shape], row major; aligned to 16 bytes at least */
    uint64_t data_offset;                    /* where it begins in its file */
    struct tp_mapping *mapping; /* of the whole file; NULL once loaded into memory of our own */
};

struct tp_weights_view {
    char *path;    /* the folder that is read */
    int directory; /* the same, open */
    struct tp_manifest manifest;
    struct tp_weights_array *arrays; /* [manifest.n_tensors], sorted by name */
    uint64_t total_bytes;            /* of all tensors */
    void *memory;                    /* private: where the arrays were loaded to, or NULL */
    size_t memory_length;            /* private */
};

/* Opens the folder `path`. Faults: a negative errno and a message with file, tensor, expected and
 * found. */
int tp_weights_view_open(const char *path, struct tp_weights_view **ret_view,
                         struct tp_error *error);
void tp_weights_view_close(struct tp_weights_view *view);

/* The tensor called `name`, or NULL. */
const struct tp_weights_array *tp_weights_view_find(const struct tp_weights_view *view,
                                                    const char *name);

/* Reads one of the other files at the top whole, NUL-terminated; the caller frees it. -ENOENT when
 * there is none such, -EFBIG beyond `maximum` bytes, always with a message. */
int tp_weights_view_read_file(const struct tp_weights_view *view, const char *name, size_t maximum,
                              char **ret_text, size_t *ret_length, struct tp_error *error);

#endif
