/* A weight matrix where it lies: in a mapped file of the view, in the type it is stored in; or in a
 * copy that a backend has made of it. */
#ifndef TENSORPORT_INFER_WEIGHTS_MATRIX_H
#define TENSORPORT_INFER_WEIGHTS_MATRIX_H

#include <stddef.h>
#include <stdint.h>

enum tp_matrix_type {
    TP_MATRIX_F32,
    TP_MATRIX_F16,
    TP_MATRIX_BF16,
    TP_MATRIX_MXFP4,
    TP_MATRIX_INT8, /* never stored; see tp_int8_row_bytes() */
};

/* `rows` outputs and `columns` inputs: y[rows] = W x[columns]. Row major. The memory belongs to
 * whoever mapped it; it is aligned to 16 bytes at least, in files of the view to 64. */
struct tp_matrix {
    enum tp_matrix_type type;
    size_t rows, columns;  /* MXFP4: columns is a multiple of 32 */
    const void *values;    /* [rows][columns]; MXFP4: blocks [rows][columns / 32][16]; INT8: rows
                              as above */
    const uint8_t *scales; /* MXFP4 only: [rows][columns / 32], E8M0 */
};

/* `n` matrices of one shape, one after the other: the experts of a layer. */
struct tp_matrices {
    size_t n;
    struct tp_matrix first;
};

/* Signed bytes in blocks of 32 columns with a BF16 scale each: a weight is byte * scale, which
 * float32 holds exactly, bytes are -127 to 127. A row, aligned to 64 bytes, is
 *
 *     blocks  [n][16 even columns, 16 odd columns]   zeros behind the last column
 *     scales  [n]
 *     padding to a multiple of 64 bytes
 *
 * with n = columns / 32, rounded up: for 2880 columns 8.53 bits a weight. Even columns first is the
 * order that kernels of any vector length want; the scales stand together so that the bytes keep
 * their alignment, and in the row so that they are read in one streak with it. */
static inline size_t tp_int8_blocks(size_t columns)
{
    return columns / 32 + (columns % 32 != 0);
}

static inline size_t tp_int8_row_bytes(size_t columns)
{
    return (tp_int8_blocks(columns) * (32 + 2) + 63) / 64 * 64;
}

/* Bytes of the values (MXFP4: blocks) of one matrix. */
static inline size_t tp_matrix_bytes(const struct tp_matrix *matrix)
{
    size_t elements = matrix->rows * matrix->columns;
    switch (matrix->type) {
    case TP_MATRIX_F32:
        return elements * 4;
    case TP_MATRIX_F16:
    case TP_MATRIX_BF16:
        return elements * 2;
    case TP_MATRIX_MXFP4:
        return elements / 2;
    case TP_MATRIX_INT8:
        return matrix->rows * tp_int8_row_bytes(matrix->columns);
    }
    return 0;
}

static inline struct tp_matrix tp_matrices_at(const struct tp_matrices *matrices, size_t i)
{
    struct tp_matrix matrix = matrices->first;
    matrix.values = (const uint8_t *)matrix.values + i * tp_matrix_bytes(&matrix);
    if (matrix.scales != NULL)
        matrix.scales += i * matrix.rows * (matrix.columns / 32);
    return matrix;
}

#endif
