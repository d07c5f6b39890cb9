/* Small .npy files, read whole. */
#ifndef TENSORPORT_INFER_VALIDATE_NPY_FILE_H
#define TENSORPORT_INFER_VALIDATE_NPY_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"

enum { TP_NPY_FILE_RANK_MAX = 4 };

/* One of the two, the caller's to free. */
struct tp_npy_file {
    size_t rank, shape[TP_NPY_FILE_RANK_MAX];
    size_t n; /* the product of the shape */
    float *floats;
    uint32_t *numbers;
};

/* Reads `name` in `directory`, float32 [...] of this rank. -ENOENT when there is none such; -EINVAL
 * for any other type, rank or order, or a file that is not as long as its header says; -ENOMEM. All
 * with a message that begins with the name. */
int tp_npy_file_floats(int directory, const char *name, size_t rank, struct tp_npy_file *ret_file,
                       struct tp_error *error);

/* The same for int32 or int64 [...], none of them negative or above 2^32 - 1. */
int tp_npy_file_numbers(int directory, const char *name, size_t rank, struct tp_npy_file *ret_file,
                        struct tp_error *error);

void tp_npy_file_clear(struct tp_npy_file *file);

#endif
