#include "infer/validate/npy_file.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "decode/npy.h"
#include "fs/base/bytes.h"

enum { FILE_BYTES_MAX = 1 << 30 };

static int check(const struct tp_npy_header *header, size_t rank, size_t length,
                 struct tp_error *error)
{
    if (header->rank != rank || header->fortran_order)
        return tp_error_set(error, -EINVAL, "expected %zu dimensions in C order, found %zu%s", rank,
                            header->rank, header->fortran_order ? " in Fortran order" : "");
    if (header->data_bytes != length - header->data_offset)
        return tp_error_set(error, -EINVAL, "expected %llu bytes behind the header, found %llu",
                            (unsigned long long)header->data_bytes,
                            (unsigned long long)(length - header->data_offset));
    return 0;
}

static int take_floats(const struct tp_npy_header *header, const char *data,
                       struct tp_npy_file *file, struct tp_error *error)
{
    if (header->dtype != TP_F32)
        return tp_error_set(error, -EINVAL, "expected float32, found %s",
                            tp_dtype_numpy_name(header->dtype));
    file->floats = malloc(file->n * sizeof *file->floats + 1);
    if (file->floats == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    memcpy(file->floats, data, file->n * sizeof *file->floats);
    return 0;
}

static int take_numbers(const struct tp_npy_header *header, const char *data,
                        struct tp_npy_file *file, struct tp_error *error)
{
    size_t width = tp_dtype_size(header->dtype);
    if (header->dtype != TP_I32 && header->dtype != TP_I64)
        return tp_error_set(error, -EINVAL, "expected int32 or int64, found %s",
                            tp_dtype_numpy_name(header->dtype));
    file->numbers = malloc(file->n * sizeof *file->numbers + 1);
    if (file->numbers == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    for (size_t i = 0; i < file->n; i++) {
        int64_t number = 0;
        int32_t narrow;
        memcpy(width == sizeof narrow ? (void *)&narrow : (void *)&number, data + i * width, width);
        if (width == sizeof narrow)
            number = narrow;
        if (number < 0 || number > UINT32_MAX)
            return tp_error_set(error, -EINVAL, "element %zu: expected 0 to 4294967295, found %lld",
                                i, (long long)number);
        file->numbers[i] = (uint32_t)number;
    }
    return 0;
}

static int take(const char *text, size_t length, size_t rank, bool numbers,
                struct tp_npy_file *file, struct tp_error *error)
{
    struct tp_npy_header header;
    int rc = tp_npy_header_parse(text, length, &header, error);
    if (rc < 0)
        return rc;
    rc = check(&header, rank, length, error);
    if (rc == 0) {
        file->rank = rank;
        file->n = (size_t)(header.data_bytes / tp_dtype_size(header.dtype));
        for (size_t i = 0; i < rank; i++)
            file->shape[i] = (size_t)header.shape[i];
        rc =
            (numbers ? take_numbers : take_floats)(&header, text + header.data_offset, file, error);
    }
    tp_npy_header_clear(&header);
    return rc;
}

static int read_file(int directory, const char *name, size_t rank, bool numbers,
                     struct tp_npy_file *ret_file, struct tp_error *error)
{
    struct tp_npy_file file = {0};
    char *text;
    size_t length;
    int rc = tp_bytes_read_file(directory, name, FILE_BYTES_MAX, &text, &length, error);
    if (rc < 0)
        return rc;
    rc = take(text, length, rank, numbers, &file, error);
    free(text);
    if (rc < 0) {
        tp_npy_file_clear(&file);
        return tp_error_prefix(error, rc, "%s", name);
    }
    *ret_file = file;
    return 0;
}

int tp_npy_file_floats(int directory, const char *name, size_t rank, struct tp_npy_file *ret_file,
                       struct tp_error *error)
{
    return read_file(directory, name, rank, false, ret_file, error);
}

int tp_npy_file_numbers(int directory, const char *name, size_t rank, struct tp_npy_file *ret_file,
                        struct tp_error *error)
{
    return read_file(directory, name, rank, true, ret_file, error);
}

void tp_npy_file_clear(struct tp_npy_file *file)
{
    free(file->floats);
    free(file->numbers);
    *file = (struct tp_npy_file){0};
}
