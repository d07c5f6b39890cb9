#include "infer/cpu/layers.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "decode/codec.h"

/* Below this many floats a parallel run costs more than it saves. */
enum { PARALLEL_FROM = 32 << 10 };

/* One operation on rows; each uses the fields it needs. */
struct rows {
    const struct tp_kernels *kernels;
    const float *x, *x2, *weights;
    float *y;
    const uint32_t *slots;
    size_t columns, stride, n_heads, k;
    float a, b;
};

static void run(struct tp_workspace *workspace, struct rows *rows, size_t n, tp_pool_fn *one_row)
{
    rows->kernels = workspace->kernels;
    if (n * rows->columns >= PARALLEL_FROM) {
        tp_pool_run(workspace->pool, n, one_row, rows);
        return;
    }
    for (size_t i = 0; i < n; i++)
        one_row(rows, i, 0);
}

static void rms_norm(void *context, size_t i, size_t thread)
{
    const struct rows *r = context;
    (void)thread;
    r->kernels->rms_norm(r->x + i * r->columns, r->weights, r->columns, r->a,
                         r->y + i * r->columns);
}

void tp_rms_norm_rows(struct tp_workspace *workspace, const float *x, const float *weight, size_t n,
                      size_t columns, float epsilon, float *y)
{
    struct rows rows = {.x = x, .weights = weight, .y = y, .columns = columns, .a = epsilon};
    run(workspace, &rows, n, rms_norm);
}

static void rotate(void *context, size_t i, size_t thread)
{
    const struct rows *r = context;
    size_t half = r->columns / 2;
    (void)thread;
    for (size_t head = 0; head < r->n_heads; head++)
        r->kernels->rotate(r->y + i * r->stride + head * r->columns, r->columns, r->x + i * half,
                           r->x2 + i * half);
}

void tp_rotate_rows(struct tp_workspace *workspace, float *heads, size_t n, size_t stride,
                    size_t n_heads, size_t head_size, const float *cosines, const float *sines)
{
    struct rows rows = {.x = cosines,
                        .x2 = sines,
                        .y = heads,
                        .columns = head_size,
                        .stride = stride,
                        .n_heads = n_heads};
    run(workspace, &rows, n, rotate);
}

static void swiglu(void *context, size_t i, size_t thread)
{
    const struct rows *r = context;
    (void)thread;
    r->kernels->swiglu(r->x + 2 * i * r->columns, r->columns, r->a, r->b, r->y + i * r->columns);
}

void tp_swiglu_rows(struct tp_workspace *workspace, const float *pairs, size_t n, size_t size,
                    float alpha, float limit, float *y)
{
    struct rows rows = {.x = pairs, .y = y, .columns = size, .a = alpha, .b = limit};
    run(workspace, &rows, n, swiglu);
}

static void silu_product(void *context, size_t i, size_t thread)
{
    const struct rows *r = context;
    (void)thread;
    r->kernels->silu_product(r->x + i * r->columns, r->x2 + i * r->columns, r->columns,
                             r->y + i * r->columns);
}

void tp_silu_product_rows(struct tp_workspace *workspace, const float *gate, const float *up,
                          size_t n, size_t size, float *y)
{
    struct rows rows = {.x = gate, .x2 = up, .y = y, .columns = size};
    run(workspace, &rows, n, silu_product);
}

static void add(void *context, size_t i, size_t thread)
{
    const struct rows *r = context;
    (void)thread;
    r->kernels->add(r->y + i * r->columns, r->x + i * r->columns, r->columns);
}

void tp_add_rows(struct tp_workspace *workspace, float *sum, const float *x, size_t n,
                 size_t columns)
{
    struct rows rows = {.x = x, .y = sum, .columns = columns};
    run(workspace, &rows, n, add);
}

static void add_weighted(void *context, size_t i, size_t thread)
{
    const struct rows *r = context;
    (void)thread;
    for (size_t j = i * r->k; j < (i + 1) * r->k; j++)
        r->kernels->add_scaled(r->y + i * r->columns, r->x + r->slots[j] * r->columns,
                               r->weights[j], r->columns);
}

void tp_add_weighted_rows(struct tp_workspace *workspace, float *sum, const float *x,
                          const uint32_t *slots, const float *weights, size_t n, size_t k,
                          size_t columns)
{
    struct rows rows = {
        .x = x, .weights = weights, .y = sum, .slots = slots, .columns = columns, .k = k};
    run(workspace, &rows, n, add_weighted);
}

void tp_matrix_row(const struct tp_matrix *matrix, size_t row, float *y)
{
    static const enum tp_dtype dtypes[] = {
        [TP_MATRIX_F32] = TP_F32, [TP_MATRIX_F16] = TP_F16, [TP_MATRIX_BF16] = TP_BF16};
    size_t columns = matrix->columns, blocks = columns / TP_MXFP4_BLOCK_ELEMENTS;
    const uint8_t *values = matrix->values;
    if (matrix->type == TP_MATRIX_F32) {
        memcpy(y, values + row * columns * sizeof *y, columns * sizeof *y);
    } else if (matrix->type == TP_MATRIX_MXFP4) {
        tp_codecs()->mxfp4[TP_TARGET_F32](values + row * blocks * TP_MXFP4_BLOCK_BYTES,
                                          matrix->scales + row * blocks, y, blocks);
    } else {
        tp_codecs()->convert[dtypes[matrix->type]][TP_TARGET_F32](
            values + row * columns * sizeof(uint16_t), y, columns);
    }
}

static bool is_among(uint32_t index, const uint32_t *indices, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (indices[i] == index)
            return true;
    }
    return false;
}

/* The largest that is not chosen yet; the first of those left if all are NaN. */
static uint32_t next_largest(const float *logits, size_t n, const uint32_t *chosen, size_t n_chosen)
{
    size_t best = n;
    for (size_t i = 0; i < n; i++) {
        if (is_among((uint32_t)i, chosen, n_chosen))
            continue;
        if (best == n || logits[i] > logits[best] || (isnan(logits[best]) && !isnan(logits[i])))
            best = i;
    }
    return (uint32_t)best;
}

void tp_top_k(const struct tp_kernels *kernels, const float *logits, size_t n, size_t k,
              uint32_t *ret_indices, float *ret_weights)
{
    for (size_t i = 0; i < k; i++) {
        ret_indices[i] = next_largest(logits, n, ret_indices, i);
        ret_weights[i] = logits[ret_indices[i]];
    }
    kernels->softmax(ret_weights, k, ret_weights);
}
