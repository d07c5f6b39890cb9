/* manifest.json of a view, as its reader takes it: tensorport-manifest(5). Untrusted: a copy of a
 * view may come from anywhere. */
#ifndef TENSORPORT_INFER_WEIGHTS_MANIFEST_H
#define TENSORPORT_INFER_WEIGHTS_MANIFEST_H

#include <stddef.h>
#include <stdint.h>

#include "decode/dtype.h"
#include "decode/error.h"

/* One tensor. Strings and shape belong to the manifest. */
struct tp_manifest_tensor {
    char *name; /* the true name: UTF-8, may contain NUL; NUL-terminated too */
    size_t name_length;
    char *file; /* relative, stays inside the view's folder */
    enum tp_dtype dtype;
    size_t rank;
    uint64_t *shape; /* [rank] */
    uint64_t nbytes; /* what shape and dtype give: checked */
};

struct tp_manifest {
    size_t n_tensors;
    struct tp_manifest_tensor *tensors; /* sorted by name; names are unique */
};

/* Parses and checks the text. Memory in proportion to `length`. -EINVAL with a message that names
 * tensor and field, -ENOMEM. */
int tp_manifest_parse(const char *text, size_t length, struct tp_manifest *ret_manifest,
                      struct tp_error *error);

void tp_manifest_clear(struct tp_manifest *manifest);

/* The tensor's index, or -1. */
ptrdiff_t tp_manifest_find(const struct tp_manifest *manifest, const char *name,
                           size_t name_length);

#endif
