/* A weight matrix where it lies: in a mapped file of the view, in the type it is stored in. */
#ifndef TENSORPORT_INFER_WEIGHTS_MATRIX_H
#define TENSORPORT_INFER_WEIGHTS_MATRIX_H

#include <stddef.h>
#include <stdint.h>

enum tp_matrix_type { TP_MATRIX_F32, TP_MATRIX_F16, TP_MATRIX_BF16, TP_MATRIX_MXFP4 };

/* `rows` outputs and `columns` inputs: y[rows] = W x[columns]. Row major. The memory belongs to
 * whoever mapped it; it is aligned to 16 bytes at least, in files of the view to 64. */
struct tp_matrix {
    enum tp_matrix_type type;
    size_t rows, columns;  /* MXFP4: columns is a multiple of 32 */
    const void *values;    /* [rows][columns]; MXFP4: blocks [rows][columns / 32][16] */
    const uint8_t *scales; /* MXFP4 only: [rows][columns / 32], E8M0 */
};

/* `n` matrices of one shape, one after the other: the experts of a layer. */
struct tp_matrices {
    size_t n;
    struct tp_matrix first;
};

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
