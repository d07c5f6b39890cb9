/* Headers of .npy files, in both directions.
 *
 * Source: numpy/lib/format.py ("NPY format", versions 1.0 and 2.0). The writer gives byte for
 * byte what numpy.save writes: a header padded so that the first axis could grow to 21
 * digits, then to a multiple of 64.
 */
#ifndef TENSORPORT_DECODE_NPY_H
#define TENSORPORT_DECODE_NPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/dtype.h"
#include "decode/error.h"

/* Length of the header that tp_npy_header_write() gives; a multiple of 64. */
size_t tp_npy_header_length(enum tp_dtype dtype, const uint64_t *shape, size_t rank);

/* Writes tp_npy_header_length() bytes, the newline at the end included, no NUL. */
void tp_npy_header_write(enum tp_dtype dtype, const uint64_t *shape, size_t rank, char *target);

struct tp_npy_header {
    enum tp_dtype dtype; /* "<V2" reads as TP_BF16; "|u1" as TP_U8 */
    bool fortran_order;
    size_t rank;
    uint64_t *shape;      /* [rank], owned by the struct */
    uint64_t data_offset; /* where the data begins in the file */
    uint64_t data_bytes;  /* product of the shape times the width, checked */
};

/* Parses the header at the start of `text`, which holds the first `length` bytes of a file
 * (all of it, or at least the header). Takes versions 1.0, 2.0 and 3.0, either quote, any
 * order of keys, any padding. Little-endian and byte-order-free types only.
 * -EINVAL: not such a file; -ENOMEM. */
int tp_npy_header_parse(const char *text, size_t length, struct tp_npy_header *ret_header,
                        struct tp_error *error);

void tp_npy_header_clear(struct tp_npy_header *header);

#endif
