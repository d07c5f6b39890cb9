/* Matrices times activations, by all threads: dense layers and experts alike. */
#ifndef TENSORPORT_INFER_CPU_MULTIPLY_H
#define TENSORPORT_INFER_CPU_MULTIPLY_H

#include <stddef.h>
#include <stdint.h>

#include "infer/cpu/workspace.h"
#include "infer/weights/matrix.h"

/* y[i][rows] = W x[..][columns] + bias for some of the vectors of a call. */
struct tp_product {
    struct tp_matrix w;
    const float *bias; /* [rows], or NULL */
    size_t first, n;   /* vectors first..first + n - 1 of the call's list */
    float *y;          /* [n][y_stride] */
    size_t y_stride;
};

/* The vectors: x[rows[i]], i < n; x[i] where `rows` is NULL. */
struct tp_vectors {
    const float *x; /* [n_x][stride] */
    size_t n_x, columns, stride;
    const uint32_t *rows; /* [n], or NULL */
    size_t n;
};

/* Does `n` products in one parallel run: the three projections of attention together, or an
 * expert's share of the tokens each (list the tokens by expert in `rows`). All have
 * `vectors->columns` columns. The result of a row for a vector depends on nothing else: see
 * kernels.h. -ENOMEM is the only failure; y is undefined then. */
int tp_multiply(struct tp_workspace *workspace, const struct tp_vectors *vectors,
                enum tp_activations activations, const struct tp_product *products, size_t n);

#endif
