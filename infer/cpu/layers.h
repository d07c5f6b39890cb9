/* The small operations between the products, over the rows of a step, by all threads where that
 * pays. Matrices are row major without gaps. See kernels.h for each operation's formula. */
#ifndef TENSORPORT_INFER_CPU_LAYERS_H
#define TENSORPORT_INFER_CPU_LAYERS_H

#include <stddef.h>
#include <stdint.h>

#include "infer/cpu/workspace.h"
#include "infer/weights/matrix.h"

/* y[n][columns]; y may be x. */
void tp_rms_norm_rows(struct tp_workspace *workspace, const float *x, const float *weight, size_t n,
                      size_t columns, float epsilon, float *y);

/* Rotates heads [n][n_heads][head_size], which lie `stride` floats a row, in place; `cosines` and
 * `sines` [n][head_size / 2] belong to the positions of the rows. */
void tp_rotate_rows(struct tp_workspace *workspace, float *heads, size_t n, size_t stride,
                    size_t n_heads, size_t head_size, const float *cosines, const float *sines);

/* GPT-OSS: pairs [n][size][gate, up] to y[n][size]. */
void tp_swiglu_rows(struct tp_workspace *workspace, const float *pairs, size_t n, size_t size,
                    float alpha, float limit, float *y);

/* Llama: gate, up and y [n][size]; y may be either. */
void tp_silu_product_rows(struct tp_workspace *workspace, const float *gate, const float *up,
                          size_t n, size_t size, float *y);

/* sum[n][columns] += x[n][columns] */
void tp_add_rows(struct tp_workspace *workspace, float *sum, const float *x, size_t n,
                 size_t columns);

/* sum[i] += weights[i][j] * x[slots[i][j]] for j = 0..k - 1 in this order, i < n: puts the outputs
 * of experts, which lie by expert, back to their tokens. sum[n][columns], x[..][columns]. */
void tp_add_weighted_rows(struct tp_workspace *workspace, float *sum, const float *x,
                          const uint32_t *slots, const float *weights, size_t n, size_t k,
                          size_t columns);

/* Row `row` of a matrix of any type, exactly, to y[columns]. */
void tp_matrix_row(const struct tp_matrix *matrix, size_t row, float *y);

/* The k largest of logits[n], k <= n, largest first, the lower index first among equals (NaN
 * counts as least), and softmax over these k. */
void tp_top_k(const struct tp_kernels *kernels, const float *logits, size_t n, size_t k,
              uint32_t *ret_indices, float *ret_weights);

#endif
