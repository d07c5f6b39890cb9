#include "infer/weights/view.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decode/npy.h"
#include "fs/base/bytes.h"
#include "fs/base/io.h"

enum {
    MANIFEST_BYTES_MAX = 100000000,
    HEADER_BYTES_USUAL = 4096,
    HEADER_BYTES_MAX = 1 << 17, /* more than version 1.0 can have, and any shape we can use */
    ALIGNMENT = 16,             /* what struct tp_matrix promises; npy files have 64 */
};

#define PACKED_VIEW ".tensorport/views/packed"

/* ---- a file ---- */

/* Reads and parses the header of a file of `size` bytes. */
static int read_header(int fd, uint64_t size, struct tp_npy_header *ret_header,
                       struct tp_error *error)
{
    for (size_t room = HEADER_BYTES_USUAL;; room = HEADER_BYTES_MAX) {
        char *text = malloc(room);
        size_t length = 0;
        if (text == NULL)
            return tp_error_set(error, -ENOMEM, "out of memory");
        int rc = tp_read_at(fd, text, room, 0, &length);
        if (rc < 0)
            tp_error_set(error, rc, "cannot read: %s", strerror(-rc));
        else
            rc = tp_npy_header_parse(text, length, ret_header, error);
        free(text);
        if (rc != -EINVAL || room == HEADER_BYTES_MAX || size <= room)
            return rc;
    }
}

static void format_shape(const uint64_t *shape, size_t rank, char text[256])
{
    size_t at = (size_t)snprintf(text, 256, "[");
    for (size_t i = 0; i < rank && at < 256; i++)
        at += (size_t)snprintf(text + at, 256 - at, "%s%" PRIu64, i > 0 ? ", " : "", shape[i]);
    if (at < 256)
        snprintf(text + at, 256 - at, "]");
}

static bool same_shape(const struct tp_npy_header *header, const struct tp_manifest_tensor *tensor)
{
    if (header->rank != tensor->rank)
        return false;
    for (size_t i = 0; i < tensor->rank; i++) {
        if (header->shape[i] != tensor->shape[i])
            return false;
    }
    return true;
}

/* The header says what the manifest says; the file ends where the data does. */
static int compare_header(const struct tp_npy_header *header,
                          const struct tp_manifest_tensor *tensor, uint64_t size,
                          struct tp_error *error)
{
    char expected[256], found[256];
    format_shape(tensor->shape, tensor->rank, expected);
    format_shape(header->shape, header->rank, found);
    if (!same_shape(header, tensor))
        return tp_error_set(error, -EINVAL, "expected shape %s as in manifest.json, found %s",
                            expected, found);
    if (strcmp(tp_dtype_descr(header->dtype), tp_dtype_descr(tensor->dtype)) != 0)
        return tp_error_set(error, -EINVAL, "expected type %s as in manifest.json, found %s",
                            tp_dtype_numpy_name(tensor->dtype), tp_dtype_numpy_name(header->dtype));
    if (header->fortran_order && tensor->rank > 1)
        return tp_error_set(error, -EINVAL, "expected rows first (C order), found Fortran order");
    if (header->data_bytes > UINT64_MAX - header->data_offset ||
        size != header->data_offset + header->data_bytes)
        return tp_error_set(error, -EINVAL,
                            "expected %" PRIu64 " bytes behind a header of %" PRIu64
                            ", found a file of %" PRIu64 "; it was truncated or is no whole copy",
                            header->data_bytes, header->data_offset, size);
    if (header->data_offset % ALIGNMENT != 0)
        return tp_error_set(error, -EINVAL,
                            "expected data at a multiple of %d bytes, found at %" PRIu64, ALIGNMENT,
                            header->data_offset);
    return 0;
}

static int map_file(const struct tp_weights_view *view, int fd, struct tp_weights_array *array,
                    struct tp_error *error)
{
    struct tp_npy_header header;
    struct stat status;
    char *path = NULL;
    if (fstat(fd, &status) < 0)
        return tp_error_set(error, -errno, "%s", strerror(errno));
    if (!S_ISREG(status.st_mode))
        return tp_error_set(error, -EINVAL, "expected a regular file");
    uint64_t size = (uint64_t)status.st_size;
    int rc = read_header(fd, size, &header, error);
    if (rc < 0)
        return rc;
    rc = compare_header(&header, array->tensor, size, error);
    array->data_offset = header.data_offset;
    tp_npy_header_clear(&header);
    if (rc < 0)
        return rc;
    if (asprintf(&path, "%s/%s", view->path, array->tensor->file) < 0)
        return tp_error_set(error, -ENOMEM, "out of memory");
    rc = tp_mapping_new(fd, size, path, array->tensor->name, array->tensor->name_length,
                        &array->mapping);
    free(path);
    if (rc < 0)
        return tp_error_set(error, rc, "cannot map: %s", strerror(-rc));
    array->data = array->mapping->bytes + array->data_offset;
    return 0;
}

static int open_array(const struct tp_weights_view *view, struct tp_weights_array *array,
                      struct tp_error *error)
{
    const struct tp_manifest_tensor *tensor = array->tensor;
    int fd = openat(view->directory, tensor->file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int rc = fd < 0 ? tp_error_set(error, -errno, "cannot open: %s", strerror(errno))
                    : map_file(view, fd, array, error);
    if (fd >= 0)
        close(fd);
    if (rc < 0)
        tp_error_prefix(error, rc, "%.*s: tensor \"%.*s\"",
                        tp_bytes_shown(tensor->file, strlen(tensor->file)), tensor->file,
                        tp_bytes_shown(tensor->name, tensor->name_length), tensor->name);
    return rc;
}

static int open_arrays(struct tp_weights_view *view, struct tp_error *error)
{
    view->arrays = calloc(view->manifest.n_tensors + 1, sizeof *view->arrays);
    if (view->arrays == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    for (size_t i = 0; i < view->manifest.n_tensors; i++) {
        view->arrays[i].tensor = &view->manifest.tensors[i];
        int rc = open_array(view, &view->arrays[i], error);
        if (rc < 0)
            return rc;
        if (__builtin_add_overflow(view->total_bytes, view->manifest.tensors[i].nbytes,
                                   &view->total_bytes))
            return tp_error_set(error, -EOVERFLOW, "the tensors exceed 64 bits of bytes");
    }
    return 0;
}

/* ---- the folder ---- */

static bool has(int directory, const char *name)
{
    return faccessat(directory, name, F_OK, 0) == 0;
}

/* A mount's packed view, or the folder itself. */
static int find_folder(const char *path, struct tp_weights_view *view, struct tp_error *error)
{
    view->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (view->directory < 0)
        return tp_error_set(error, -errno, "cannot open: %s", strerror(errno));
    int packed = openat(view->directory, PACKED_VIEW, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (packed >= 0) {
        close(view->directory);
        view->directory = packed;
    }
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    if (asprintf(&view->path, "%.*s%s", (int)length, path, packed >= 0 ? "/" PACKED_VIEW : "") <
        0) {
        view->path = NULL;
        return tp_error_set(error, -ENOMEM, "out of memory");
    }
    return 0;
}

static int read_manifest(struct tp_weights_view *view, struct tp_error *error)
{
    char *text;
    size_t length;
    if (!has(view->directory, "manifest.json"))
        return tp_error_set(
            error, -ENOENT,
            "expected a mounted checkpoint or a copy of one (manifest.json), found %s",
            has(view->directory, "model.safetensors") ||
                    has(view->directory, "model.safetensors.index.json")
                ? "a checkpoint; mount it first: tensorport-mount CHECKPOINT MOUNTPOINT"
                : "none");
    int rc = tp_bytes_read_file(view->directory, "manifest.json", MANIFEST_BYTES_MAX, &text,
                                &length, error);
    if (rc < 0)
        return rc;
    rc = tp_manifest_parse(text, length, &view->manifest, error);
    free(text);
    return rc < 0 ? tp_error_prefix(error, rc, "manifest.json") : 0;
}

int tp_weights_view_open(const char *path, struct tp_weights_view **ret_view,
                         struct tp_error *error)
{
    struct tp_weights_view *view = calloc(1, sizeof *view);
    if (view == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    view->directory = -1;
    int rc = find_folder(path, view, error);
    if (rc == 0)
        rc = read_manifest(view, error);
    if (rc == 0)
        rc = open_arrays(view, error);
    if (rc < 0) {
        tp_weights_view_close(view);
        return tp_error_prefix(error, rc, "%s", path);
    }
    *ret_view = view;
    return 0;
}

void tp_weights_view_close(struct tp_weights_view *view)
{
    if (view == NULL)
        return;
    for (size_t i = view->arrays == NULL ? 0 : view->manifest.n_tensors; i-- > 0;)
        tp_mapping_free(view->arrays[i].mapping);
    if (view->memory != NULL)
        munmap(view->memory, view->memory_length);
    if (view->directory >= 0)
        close(view->directory);
    tp_manifest_clear(&view->manifest);
    free(view->arrays);
    free(view->path);
    free(view);
}

const struct tp_weights_array *tp_weights_view_find(const struct tp_weights_view *view,
                                                    const char *name)
{
    ptrdiff_t i = tp_manifest_find(&view->manifest, name, strlen(name));
    return i < 0 ? NULL : &view->arrays[i];
}

int tp_weights_view_read_file(const struct tp_weights_view *view, const char *name, size_t maximum,
                              char **ret_text, size_t *ret_length, struct tp_error *error)
{
    int rc = tp_bytes_read_file(view->directory, name, maximum, ret_text, ret_length, error);
    return rc < 0 ? tp_error_prefix(error, rc, "%s", view->path) : 0;
}
