#include "infer/cli/token_ids.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decode/npy.h"
#include "fs/base/io.h"
#include "infer/cli/standard_input.h"

enum { HEADER_BYTES_MAX = 1 << 17 };

/* ---- a file ---- */

static bool is_integer(enum tp_dtype dtype, bool *ret_signed)
{
    *ret_signed = dtype == TP_I8 || dtype == TP_I16 || dtype == TP_I32 || dtype == TP_I64;
    return *ret_signed || dtype == TP_U8 || dtype == TP_U16 || dtype == TP_U32 || dtype == TP_U64;
}

/* Appends `n` little-endian integers of `width` bytes. */
static int append_integers(const uint8_t *data, size_t n, size_t width, bool is_signed,
                           struct tp_ids *ids, struct tp_error *error)
{
    unsigned unused = 64 - 8 * (unsigned)width;
    int rc = tp_ids_reserve(ids, n);
    if (rc < 0)
        return tp_error_set(error, rc, "out of memory");
    for (size_t i = 0; i < n; i++) {
        uint64_t value = 0;
        memcpy(&value, data + i * width, width);
        if (is_signed)
            value = (uint64_t)((int64_t)(value << unused) >> unused);
        if (is_signed && (int64_t)value < 0)
            return tp_error_set(error, -EINVAL,
                                "expected token ids, found %" PRId64 " at index %zu",
                                (int64_t)value, i);
        if (value >= UINT32_MAX)
            return tp_error_set(error, -EINVAL,
                                "expected token ids, found %" PRIu64 " at index %zu", value, i);
        ids->items[ids->n++] = (uint32_t)value;
    }
    return 0;
}

static int read_data(int fd, const struct tp_npy_header *header, bool is_signed, struct tp_ids *ids,
                     struct tp_error *error)
{
    size_t n = 0, wanted = (size_t)header->data_bytes;
    uint8_t *data = malloc(wanted + 1);
    if (data == NULL)
        return tp_error_set(error, -ENOMEM, "no memory for %zu bytes", wanted);
    int rc = tp_read_at(fd, data, wanted, header->data_offset, &n);
    if (rc < 0)
        tp_error_set(error, rc, "cannot read: %s", strerror(-rc));
    else if (n < wanted)
        rc = tp_error_set(error, -EINVAL, "expected %zu bytes of data, found %zu", wanted, n);
    else
        rc = append_integers(data, wanted / tp_dtype_size(header->dtype),
                             tp_dtype_size(header->dtype), is_signed, ids, error);
    free(data);
    return rc;
}

static int read_array(int fd, uint64_t size, struct tp_ids *ids, struct tp_error *error)
{
    struct tp_npy_header header;
    char *text = malloc(HEADER_BYTES_MAX);
    size_t length = 0;
    bool is_signed;
    if (text == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    int rc = tp_read_at(fd, text, HEADER_BYTES_MAX, 0, &length);
    if (rc < 0)
        tp_error_set(error, rc, "cannot read: %s", strerror(-rc));
    else
        rc = tp_npy_header_parse(text, length, &header, error);
    free(text);
    if (rc < 0)
        return rc;
    if (!is_integer(header.dtype, &is_signed))
        rc = tp_error_set(error, -EINVAL, "expected an array of integers, found %s",
                          tp_dtype_numpy_name(header.dtype));
    else if (header.rank != 1)
        rc = tp_error_set(error, -EINVAL, "expected an array of one dimension, found %zu",
                          header.rank);
    else if (header.data_bytes > size) /* before memory is taken for what a header claims */
        rc = tp_error_set(error, -EINVAL,
                          "expected %" PRIu64 " bytes of data, found a file of %" PRIu64,
                          header.data_bytes, size);
    else
        rc = read_data(fd, &header, is_signed, ids, error);
    tp_npy_header_clear(&header);
    return rc;
}

static int read_file(const char *path, struct tp_ids *ids, struct tp_error *error)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc;
    if (fd < 0)
        return tp_error_set(error, -errno, "%s: cannot open: %s", path, strerror(errno));
    if (fstat(fd, &status) < 0)
        rc = tp_error_set(error, -errno, "%s", strerror(errno));
    else if (!S_ISREG(status.st_mode))
        rc = tp_error_set(error, -EINVAL, "expected a regular file");
    else
        rc = read_array(fd, (uint64_t)status.st_size, ids, error);
    close(fd);
    return rc < 0 ? tp_error_prefix(error, rc, "%s", path) : 0;
}

/* ---- both ---- */

int tp_token_ids_read(const char *argument, struct tp_ids *ids, struct tp_error *error)
{
    if (argument[0] == '@')
        return read_file(argument + 1, ids, error);
    int rc = tp_parse_ids(argument, strlen(argument), ids, error);
    return rc == -ENOMEM ? tp_error_set(error, rc, "out of memory") : rc;
}

int tp_token_ids_check(const struct tp_ids *ids, size_t vocabulary, struct tp_error *error)
{
    if (ids->n == 0)
        return tp_error_set(error, -EINVAL, "expected at least one token id, found none");
    for (size_t i = 0; i < ids->n; i++) {
        if (ids->items[i] >= vocabulary)
            return tp_error_set(error, -EINVAL,
                                "expected ids below %zu, the size of the vocabulary, found %" PRIu32
                                " at index %zu",
                                vocabulary, ids->items[i], i);
    }
    return 0;
}
