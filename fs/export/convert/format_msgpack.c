/* What flax.serialization.msgpack_serialize() writes for a dict from tensor names to arrays, and
 * what msgpack_restore() reads.
 *
 * Source: flax/serialization.py, and the msgpack specification. An array is an extension of type
 * 1 whose payload is itself msgpack: (shape, name of the dtype, bytes). One above 2^30 bytes is a
 * map of flat pieces. Keys are sorted, for JAX sorts those of a dict before flax writes them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/bytes.h"
#include "fs/export/convert/container.h"
#include "fs/export/convert/formats.h"

#define CHUNK_BYTES (UINT64_C(1) << 30) /* flax's MAX_CHUNK_SIZE */

static const char chunked_key[] = "__msgpack_chunked_array__";

enum { EXT_NDARRAY = 1 };

static void put_byte(FILE *stream, unsigned byte)
{
    putc_unlocked((int)byte, stream);
}

/* The last `n` bytes of `value`, most significant first. */
static void put_number(FILE *stream, uint64_t value, unsigned n)
{
    while (n-- > 0)
        put_byte(stream, (unsigned)(value >> (8 * n)) & 0xFF);
}

static void put_unsigned(FILE *stream, uint64_t value)
{
    unsigned log = value <= 0xFF ? 0 : value <= 0xFFFF ? 1 : value <= 0xFFFFFFFF ? 2 : 3;
    if (value >= 0x80)
        put_byte(stream, 0xCC + log);
    put_number(stream, value, value < 0x80 ? 1 : 1U << log);
}

/* A length that fits the code itself (below `fix`), or 8 (if there is a code for it), 16 or 32
 * bits behind one. */
static void put_length(FILE *stream, uint64_t length, uint64_t fix, unsigned fix_code,
                       unsigned code_8, unsigned code_16)
{
    if (length < fix) {
        put_byte(stream, fix_code | (unsigned)length);
    } else if (code_8 != 0 && length <= 0xFF) {
        put_byte(stream, code_8);
        put_number(stream, length, 1);
    } else if (length <= 0xFFFF) {
        put_byte(stream, code_16);
        put_number(stream, length, 2);
    } else {
        put_byte(stream, code_16 + 1);
        put_number(stream, length, 4);
    }
}

static void put_map(FILE *stream, uint64_t n)
{
    put_length(stream, n, 16, 0x80, 0, 0xDE);
}

static void put_array(FILE *stream, uint64_t n)
{
    put_length(stream, n, 16, 0x90, 0, 0xDC);
}

static void put_bytes_length(FILE *stream, uint64_t length)
{
    put_length(stream, length, 0, 0, 0xC4, 0xC5);
}

static void put_string(FILE *stream, const char *text, size_t length)
{
    put_length(stream, length, 32, 0xA0, 0xD9, 0xDA);
    fwrite(text, 1, length, stream);
}

static void put_index(FILE *stream, size_t i)
{
    char text[24];
    put_string(stream, text, (size_t)snprintf(text, sizeof text, "%zu", i));
}

static void put_extension(FILE *stream, uint64_t length, unsigned type)
{
    enum { FIXED_MAX = 16 };
    if (length <= FIXED_MAX && (length & (length - 1)) == 0)
        put_byte(stream, 0xD4 + (unsigned)__builtin_ctz((unsigned)length));
    else
        put_length(stream, length, 0, 0, 0xC7, 0xC8);
    put_byte(stream, type);
}

/* The extension, up to its data. */
static int put_head(FILE *stream, const struct tp_view_tensor *tensor, const uint64_t *shape,
                    size_t rank, uint64_t nbytes)
{
    struct tp_text payload;
    char *bytes;
    size_t length;
    int rc = tp_text_open(&payload);
    if (rc < 0)
        return rc;
    put_array(payload.stream, 3);
    put_array(payload.stream, rank);
    for (size_t i = 0; i < rank; i++)
        put_unsigned(payload.stream, shape[i]);
    put_string(payload.stream, tensor->dtype_name, strlen(tensor->dtype_name));
    put_bytes_length(payload.stream, nbytes);
    rc = tp_text_close(&payload, 0, &bytes, &length);
    if (rc < 0)
        return rc;
    put_extension(stream, length + nbytes, EXT_NDARRAY);
    fwrite(bytes, 1, length, stream);
    free(bytes);
    return 0;
}

static int add_whole(struct tp_container *container, const struct tp_view_file *file)
{
    const struct tp_view_tensor *tensor = file->tensor;
    uint64_t nbytes = file->content.data_length;
    int rc = put_head(container->text.stream, tensor, tensor->shape, tensor->rank, nbytes);
    return rc < 0 ? rc : tp_container_add_data(container, file, 0, nbytes);
}

static int add_chunked(struct tp_container *container, const struct tp_view_file *file)
{
    const struct tp_view_tensor *tensor = file->tensor;
    uint64_t nbytes = file->content.data_length;
    FILE *stream = container->text.stream;
    put_map(stream, 3);
    put_string(stream, chunked_key, strlen(chunked_key));
    put_byte(stream, 0xC3); /* true */
    put_string(stream, "shape", strlen("shape"));
    put_map(stream, tensor->rank);
    for (size_t i = 0; i < tensor->rank; i++) {
        put_index(stream, i);
        put_unsigned(stream, tensor->shape[i]);
    }
    put_string(stream, "chunks", strlen("chunks"));
    put_map(stream, (nbytes + CHUNK_BYTES - 1) / CHUNK_BYTES);
    for (uint64_t at = 0, i = 0; at < nbytes; at += CHUNK_BYTES, i++) {
        uint64_t length = nbytes - at < CHUNK_BYTES ? nbytes - at : CHUNK_BYTES;
        uint64_t elements = length / tp_dtype_size(tensor->dtype);
        put_index(container->text.stream, i);
        int rc = put_head(container->text.stream, tensor, &elements, 1, length);
        if (rc == 0)
            rc = tp_container_add_data(container, file, at, length);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int fill(struct tp_container *container, struct tp_error *error)
{
    (void)error;
    put_map(container->text.stream, container->n_files);
    for (size_t i = 0; i < container->n_files; i++) {
        const struct tp_view_file *file = container->files[i];
        put_string(container->text.stream, file->tensor->name, file->tensor->name_length);
        int rc = file->content.data_length > CHUNK_BYTES ? add_chunked(container, file)
                                                         : add_whole(container, file);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* flax takes a dict with this key for a chunked array. */
static int check(const struct tp_view_file *file, struct tp_error *error)
{
    const struct tp_view_tensor *tensor = file->tensor;
    if (tp_bytes_compare(tensor->name, tensor->name_length, chunked_key, strlen(chunked_key)) == 0)
        return tp_error_set(error, -EINVAL,
                            "tensor \"%s\": flax gives this name a meaning of its own; leave it "
                            "out with --exclude",
                            chunked_key);
    return tp_container_check_numpy(file, error);
}

int tp_plan_msgpack(const struct tp_view *view, struct tp_export_plan *plan, struct tp_error *error)
{
    static const struct tp_container_format format = {
        .name = "msgpack",
        .stem = "flax_model",
        .extension = ".msgpack",
        .compare = tp_container_compare_names,
        .check = check,
        .fill = fill,
    };
    return tp_plan_containers(view, &format, plan, error);
}
