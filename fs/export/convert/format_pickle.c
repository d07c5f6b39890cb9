/* A pickled dict from tensor names to numpy arrays.
 *
 * Source: Python's Lib/pickletools.py, protocol 5. An array is numpy.ndarray(shape, dtype, buffer)
 * with a bytearray: names that every numpy has, nothing copied or converted while loading, and
 * writable. pickle reads a BYTEARRAY8 straight from the file to its place, of any length. The dtype
 * is the descr of the .npy files, "<V2" for bfloat16, so that only numpy is needed.
 *
 *     dict = {}; for each tensor: dict[name] = ndarray(shape, descr, bytearray)
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/export/convert/container.h"
#include "fs/export/convert/formats.h"

enum {
    PROTO = 0x80,
    PROTOCOL = 5,
    STOP = '.',
    POP = '0',
    MARK = '(',
    EMPTY_DICT = '}',
    SETITEM = 's',
    BININT1 = 'K',
    BININT2 = 'M',
    BININT = 'J',
    LONG1 = 0x8A,
    SHORT_BINUNICODE = 0x8C,
    BINUNICODE = 'X',
    BINUNICODE8 = 0x8D,
    BYTEARRAY8 = 0x96,
    EMPTY_TUPLE = ')',
    TUPLE1 = 0x85, /* TUPLE2 and TUPLE3 follow */
    TUPLE3 = 0x87,
    TUPLE = 't',
    STACK_GLOBAL = 0x93,
    REDUCE = 'R',
    MEMOIZE = 0x94,
    BINGET = 'h',
};

enum { MEMO_NDARRAY }; /* what the memo holds */

static void put(FILE *stream, unsigned byte)
{
    putc_unlocked((int)byte, stream);
}

/* The first `n` bytes of `value`, least significant first. */
static void put_number(FILE *stream, uint64_t value, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        put(stream, (unsigned)(value >> (8 * i)) & 0xFF);
}

static void put_string(FILE *stream, const char *text, size_t length)
{
    unsigned n = length <= 0xFF ? 1 : length <= 0xFFFFFFFF ? 4 : 8;
    put(stream, n == 1 ? SHORT_BINUNICODE : n == 4 ? BINUNICODE : BINUNICODE8);
    put_number(stream, length, n);
    fwrite(text, 1, length, stream);
}

static void put_integer(FILE *stream, uint64_t value)
{
    if (value <= 0xFF) {
        put(stream, BININT1);
        put_number(stream, value, 1);
    } else if (value <= 0xFFFF) {
        put(stream, BININT2);
        put_number(stream, value, 2);
    } else if (value <= INT32_MAX) {
        put(stream, BININT);
        put_number(stream, value, 4);
    } else { /* signed, so a byte more */
        put(stream, LONG1);
        put(stream, sizeof value + 1);
        put_number(stream, value, sizeof value);
        put(stream, 0);
    }
}

static void put_shape(FILE *stream, const uint64_t *shape, size_t rank)
{
    if (rank > 3)
        put(stream, MARK);
    for (size_t i = 0; i < rank; i++)
        put_integer(stream, shape[i]);
    put(stream, rank == 0 ? EMPTY_TUPLE : rank > 3 ? TUPLE : TUPLE1 + (unsigned)rank - 1);
}

static int add_tensor(struct tp_container *container, const struct tp_view_file *file)
{
    const struct tp_view_tensor *tensor = file->tensor;
    const char *descr = tp_dtype_descr(tensor->dtype);
    FILE *stream = container->text.stream;
    put_string(stream, tensor->name, tensor->name_length);
    put(stream, BINGET);
    put(stream, MEMO_NDARRAY);
    put_shape(stream, tensor->shape, tensor->rank);
    put_string(stream, descr, strlen(descr));
    put(stream, BYTEARRAY8);
    put_number(stream, file->content.data_length, sizeof file->content.data_length);
    int rc = tp_container_add_data(container, file, 0, file->content.data_length);
    if (rc < 0)
        return rc;
    stream = container->text.stream;
    put(stream, TUPLE3);
    put(stream, REDUCE);
    put(stream, SETITEM);
    return 0;
}

static int fill(struct tp_container *container, struct tp_error *error)
{
    (void)error;
    put(container->text.stream, PROTO);
    put(container->text.stream, PROTOCOL);
    put_string(container->text.stream, "numpy", strlen("numpy"));
    put_string(container->text.stream, "ndarray", strlen("ndarray"));
    put(container->text.stream, STACK_GLOBAL);
    put(container->text.stream, MEMOIZE);
    put(container->text.stream, POP);
    put(container->text.stream, EMPTY_DICT);
    for (size_t i = 0; i < container->n_files; i++) {
        int rc = add_tensor(container, container->files[i]);
        if (rc < 0)
            return rc;
    }
    put(container->text.stream, STOP);
    return 0;
}

/* The order of the checkpoint, which the view has. */
static int compare(const struct tp_view_file *a, const struct tp_view_file *b)
{
    return a < b ? -1 : a > b;
}

int tp_plan_jax_pickle(const struct tp_view *view, struct tp_export_plan *plan,
                       struct tp_error *error)
{
    static const struct tp_container_format format = {
        .name = "jax-pickle",
        .stem = "model",
        .extension = ".pkl",
        .compare = compare,
        .check = tp_container_check_numpy,
        .fill = fill,
    };
    return tp_plan_containers(view, &format, plan, error);
}
