#include "infer/weights/manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"
#include "fs/base/bytes.h"

enum { FORMAT_VERSION = 1 };

static int compare_tensors(const void *a, const void *b)
{
    const struct tp_manifest_tensor *left = a, *right = b;
    return tp_bytes_compare(left->name, left->name_length, right->name, right->name_length);
}

/* True for a relative path that stays below the folder it starts in. */
static bool stays_inside(const char *path)
{
    if (path[0] == '/' || path[0] == '\0')
        return false;
    for (const char *part = path; part != NULL; part = strchr(part, '/')) {
        part += *part == '/';
        if (strcspn(part, "/") == 2 && memcmp(part, "..", 2) == 0)
            return false;
    }
    return true;
}

/* ---- values ---- */

/* Takes the next string, NUL-terminated, for the caller to free. */
static int take_string(struct tp_json *json, char **ret_text, size_t *ret_length)
{
    struct tp_json_string string;
    int rc = tp_json_string(json, &string);
    if (rc < 0)
        return rc;
    char *text = malloc(string.length + 1);
    if (text == NULL)
        return tp_error_set(json->error, -ENOMEM, "out of memory");
    tp_json_string_copy(&string, text);
    text[string.length] = '\0';
    *ret_text = text;
    *ret_length = string.length;
    return 0;
}

static int take_file(struct tp_json *json, struct tp_manifest_tensor *tensor)
{
    size_t length;
    int rc = take_string(json, &tensor->file, &length);
    if (rc == 0 && (strlen(tensor->file) != length || !stays_inside(tensor->file)))
        return tp_error_set(json->error, -EINVAL,
                            "expected the name of a file in the view, found \"%.*s\"",
                            tp_bytes_shown(tensor->file, strlen(tensor->file)), tensor->file);
    return rc;
}

static int take_dtype(struct tp_json *json, struct tp_manifest_tensor *tensor)
{
    struct tp_json_string name;
    int rc = tp_json_string(json, &name);
    if (rc < 0)
        return rc;
    for (size_t dtype = 0; dtype < TP_N_DTYPES; dtype++) {
        if (tp_json_string_equals(&name, tp_dtype_numpy_name((enum tp_dtype)dtype))) {
            tensor->dtype = (enum tp_dtype)dtype;
            return 0;
        }
    }
    return tp_error_set(json->error, -EINVAL, "expected a type such as bfloat16, found \"%.*s\"",
                        tp_bytes_shown(name.raw, name.raw_length), name.raw);
}

static int take_shape(struct tp_json *json, struct tp_manifest_tensor *tensor)
{
    bool first = true, more;
    size_t room = 0;
    int rc = tp_json_enter_array(json);
    while (rc == 0 && (rc = tp_json_array_next(json, &first, &more)) == 0 && more) {
        if (tensor->rank == room) {
            room = room == 0 ? 4 : 2 * room;
            uint64_t *shape = realloc(tensor->shape, room * sizeof *shape);
            if (shape == NULL)
                return tp_error_set(json->error, -ENOMEM, "out of memory");
            tensor->shape = shape;
        }
        rc = tp_json_unsigned(json, &tensor->shape[tensor->rank]);
        tensor->rank += rc == 0;
    }
    return rc;
}

/* ---- a tensor ---- */

enum field { NAME, TENSOR_FILE, SHAPE, DTYPE, NBYTES, N_FIELDS };
static const char *const field_names[] = {"name", "file", "shape", "dtype", "nbytes"};

static int take_field(struct tp_json *json, enum field field, struct tp_manifest_tensor *tensor)
{
    switch (field) {
    case NAME:
        return take_string(json, &tensor->name, &tensor->name_length);
    case TENSOR_FILE:
        return take_file(json, tensor);
    case SHAPE:
        return take_shape(json, tensor);
    case DTYPE:
        return take_dtype(json, tensor);
    default:
        return tp_json_unsigned(json, &tensor->nbytes);
    }
}

/* Puts the tensor's name, as far as it is known, in front of what is wrong with it. */
static int blame(const struct tp_manifest_tensor *tensor, size_t i, int rc, struct tp_error *error)
{
    if (tensor->name == NULL)
        return tp_error_prefix(error, rc, "tensor %zu", i);
    return tp_error_prefix(error, rc, "tensor \"%.*s\"",
                           tp_bytes_shown(tensor->name, tensor->name_length), tensor->name);
}

static int check_size(const struct tp_manifest_tensor *tensor, struct tp_error *error)
{
    uint64_t nbytes;
    if (!tp_shape_bytes(tensor->shape, tensor->rank, tensor->dtype, &nbytes))
        return tp_error_set(error, -EINVAL, "shape: its size overflows 64 bits");
    if (nbytes != tensor->nbytes)
        return tp_error_set(error, -EINVAL,
                            "nbytes: expected %" PRIu64 " by shape and dtype, found %" PRIu64,
                            nbytes, tensor->nbytes);
    return 0;
}

/* What stands in a container has a place there, and no file of its own. */
static bool says_container(const struct tp_json_string *key)
{
    return tp_json_string_equals(key, "offset") || tp_json_string_equals(key, "chunks");
}

/* `source` is nothing to a reader, and other fields are for later versions to add: format_version
 * says when they matter. */
static int take_tensor(struct tp_json *json, struct tp_manifest_tensor *tensor)
{
    bool first = true, more, seen[N_FIELDS] = {false};
    struct tp_json_string key;
    int rc = tp_json_enter_object(json);
    while (rc == 0 && (rc = tp_json_object_next(json, &first, &key, &more)) == 0 && more) {
        size_t field = 0;
        while (field < N_FIELDS && !tp_json_string_equals(&key, field_names[field]))
            field++;
        if (says_container(&key))
            return tp_error_set(json->error, -EINVAL,
                                "expected a .npy file of its own, found a place in a container; "
                                "convert with --format numpy-direct, or mount the checkpoint");
        if (field == N_FIELDS) {
            rc = tp_json_skip(json);
            continue;
        }
        if (seen[field])
            return tp_error_set(json->error, -EINVAL, "%s appears twice", field_names[field]);
        seen[field] = true;
        rc = take_field(json, (enum field)field, tensor);
        if (rc < 0)
            tp_error_prefix(json->error, rc, "%s", field_names[field]);
    }
    for (size_t field = 0; rc == 0 && field < N_FIELDS; field++) {
        if (!seen[field])
            return tp_error_set(json->error, -EINVAL, "expected a field \"%s\", found none",
                                field_names[field]);
    }
    return rc < 0 ? rc : check_size(tensor, json->error);
}

static int take_tensors(struct tp_json *json, struct tp_manifest *manifest)
{
    bool first = true, more;
    size_t room = 0;
    int rc = tp_json_enter_array(json);
    while (rc == 0 && (rc = tp_json_array_next(json, &first, &more)) == 0 && more) {
        if (manifest->n_tensors == room) {
            room = room == 0 ? 64 : 2 * room;
            struct tp_manifest_tensor *tensors = realloc(manifest->tensors, room * sizeof *tensors);
            if (tensors == NULL)
                return tp_error_set(json->error, -ENOMEM, "out of memory");
            manifest->tensors = tensors;
        }
        size_t i = manifest->n_tensors++;
        manifest->tensors[i] = (struct tp_manifest_tensor){0};
        rc = take_tensor(json, &manifest->tensors[i]);
        if (rc < 0)
            blame(&manifest->tensors[i], i, rc, json->error);
    }
    return rc;
}

/* ---- the manifest ---- */

static int take_version(struct tp_json *json)
{
    uint64_t version;
    int rc = tp_json_unsigned(json, &version);
    if (rc < 0)
        return tp_error_prefix(json->error, rc, "format_version");
    if (version != FORMAT_VERSION)
        return tp_error_set(json->error, -EINVAL,
                            "format_version: expected %d, found %" PRIu64
                            "; a newer tensorport wrote it",
                            FORMAT_VERSION, version);
    return 0;
}

static int take_manifest(struct tp_json *json, struct tp_manifest *manifest)
{
    bool first = true, more, version = false, tensors = false;
    struct tp_json_string key;
    int rc = tp_json_enter_object(json);
    while (rc == 0 && (rc = tp_json_object_next(json, &first, &key, &more)) == 0 && more) {
        if (tp_json_string_equals(&key, "format_version")) {
            version = true;
            rc = take_version(json);
        } else if (tp_json_string_equals(&key, "tensors")) {
            if (tensors)
                return tp_error_set(json->error, -EINVAL, "tensors appears twice");
            tensors = true;
            rc = take_tensors(json, manifest);
        } else {
            rc = tp_json_skip(json);
        }
    }
    if (rc == 0)
        rc = tp_json_end(json);
    if (rc == 0 && (!version || !tensors))
        return tp_error_set(json->error, -EINVAL, "expected a field \"%s\", found none",
                            version ? "tensors" : "format_version");
    return rc;
}

static int sort_and_check(struct tp_manifest *manifest, struct tp_error *error)
{
    if (manifest->n_tensors > 0)
        qsort(manifest->tensors, manifest->n_tensors, sizeof *manifest->tensors, compare_tensors);
    for (size_t i = 1; i < manifest->n_tensors; i++) {
        const struct tp_manifest_tensor *tensor = &manifest->tensors[i];
        if (compare_tensors(tensor - 1, tensor) == 0)
            return tp_error_set(error, -EINVAL, "tensor \"%.*s\" appears twice",
                                tp_bytes_shown(tensor->name, tensor->name_length), tensor->name);
    }
    return 0;
}

int tp_manifest_parse(const char *text, size_t length, struct tp_manifest *ret_manifest,
                      struct tp_error *error)
{
    struct tp_manifest manifest = {0};
    struct tp_json json;
    tp_json_init(&json, text, length, error);
    int rc = take_manifest(&json, &manifest);
    if (rc == 0)
        rc = sort_and_check(&manifest, error);
    if (rc < 0) {
        tp_manifest_clear(&manifest);
        return rc;
    }
    *ret_manifest = manifest;
    return 0;
}

void tp_manifest_clear(struct tp_manifest *manifest)
{
    for (size_t i = 0; i < manifest->n_tensors; i++) {
        free(manifest->tensors[i].name);
        free(manifest->tensors[i].file);
        free(manifest->tensors[i].shape);
    }
    free(manifest->tensors);
    *manifest = (struct tp_manifest){0};
}

ptrdiff_t tp_manifest_find(const struct tp_manifest *manifest, const char *name, size_t name_length)
{
    size_t low = 0, high = manifest->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct tp_manifest_tensor *tensor = &manifest->tensors[middle];
        int order = tp_bytes_compare(name, name_length, tensor->name, tensor->name_length);
        if (order == 0)
            return (ptrdiff_t)middle;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}
