/* Products with a matrix, or with a batch of them: mxfp4_matmul and dense_matmul. */
#include <errno.h>

#include "decode/codec.h"
#include "infer/cpu/multiply.h"
#include "infer/jax/floats.h"
#include "infer/jax/frame.h"
#include "infer/jax/handlers.h"
#include "infer/jax/process.h"

int tensorport_xla_interface(void)
{
    return 1;
}

/* What both come down to: y[b][vectors][rows] = x[b][vectors][columns] W[b]^T + bias[b]. */
struct products {
    struct tp_buffer x, y, bias;
    bool has_bias;
    struct tp_matrix w; /* the first */
    size_t n_batches, n_vectors;
};

/* `leading` axes, which x shares with the weights, and the number of vectors for each of them. */
static int shape_vectors(struct products *p, const size_t *leading, size_t n_leading,
                         struct tp_error *error)
{
    size_t expected[TP_BUFFER_MAX_RANK];
    int rc = tp_buffer_expect_rank(&p->x, n_leading + 1, error);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < p->x.rank; i++)
        expected[i] = i < n_leading ? leading[i] : p->x.dims[i];
    expected[p->x.rank - 1] = p->w.columns;
    rc = tp_buffer_expect(&p->x, expected, p->x.rank, error);
    if (rc != 0)
        return rc;
    p->n_batches = p->n_vectors = 1;
    for (size_t i = 0; i + 1 < p->x.rank; i++) /* cannot overflow: see below */
        *(i < n_leading ? &p->n_batches : &p->n_vectors) *= expected[i];
    expected[p->x.rank - 1] = p->w.rows;
    return tp_buffer_expect(&p->y, expected, p->x.rank, error);
}

static int shape_bias(const struct products *p, const size_t *leading, size_t n_leading,
                      struct tp_error *error)
{
    size_t expected[TP_BUFFER_MAX_RANK];
    for (size_t i = 0; i < n_leading; i++)
        expected[i] = leading[i];
    expected[n_leading] = p->w.rows;
    return p->has_bias ? tp_buffer_expect(&p->bias, expected, n_leading + 1, error) : 0;
}

static int compute_in(struct tp_process *process, const struct products *p)
{
    const float *x = tp_floats_of(&p->x, &process->x), *bias = NULL;
    float *y = tp_floats_for(&p->y, &process->y);
    struct tp_product *products =
        tp_scratch_reserve(&process->lists[0], p->n_batches, sizeof *products);
    if (p->has_bias)
        bias = tp_floats_of(&p->bias, &process->bias[0]);
    if (x == NULL || y == NULL || products == NULL || (p->has_bias && bias == NULL))
        return -ENOMEM;
    struct tp_matrices matrices = {p->n_batches, p->w};
    size_t n = p->n_vectors, rows = p->w.rows;
    for (size_t i = 0; i < p->n_batches; i++)
        products[i] = (struct tp_product){.w = tp_matrices_at(&matrices, i),
                                          .bias = bias != NULL ? bias + i * rows : NULL,
                                          .first = i * n,
                                          .n = n,
                                          .y = y + i * n * rows,
                                          .y_stride = rows};
    struct tp_vectors vectors = {.x = x,
                                 .n_x = p->n_batches * n,
                                 .columns = p->w.columns,
                                 .stride = p->w.columns,
                                 .n = p->n_batches * n};
    enum tp_activations activations =
        p->x.dtype == TP_BF16 ? TP_ACTIVATIONS_BF16 : TP_ACTIVATIONS_F32;
    int rc = tp_multiply(&process->workspace, &vectors, activations, products, p->n_batches);
    if (rc == 0)
        tp_floats_deliver(&p->y, y);
    return rc;
}

static int compute(const struct products *p, struct tp_error *error)
{
    struct tp_process *process;
    if (p->y.elements == 0)
        return 0;
    int rc = tp_process_enter(&process, error);
    if (rc != 0)
        return rc;
    rc = compute_in(process, p);
    tp_process_leave();
    return rc;
}

/* x, the bias behind the weights if there is one, and the result. */
static int open_products(const struct tp_frame *frame, size_t n_weights, struct products *p,
                         struct tp_error *error)
{
    static const enum tp_dtype f32 = TP_F32, bf16 = TP_BF16;
    uint32_t types = tp_types(f32) | tp_types(bf16);
    int rc = tp_frame_count(frame, 1 + n_weights, 2 + n_weights, 1, error);
    if (rc != 0)
        return rc;
    p->has_bias = tp_frame_arguments(frame) == 2 + n_weights;
    rc = tp_frame_argument(frame, 0, "x", types, &p->x, error);
    if (rc == 0 && p->has_bias)
        rc = tp_frame_argument(frame, 1 + n_weights, "bias", types, &p->bias, error);
    return rc == 0 ? tp_frame_result(frame, 0, "y", tp_types(p->x.dtype), &p->y, error) : rc;
}

static int mxfp4_matmul(const struct tp_frame *frame, struct tp_error *error)
{
    struct products p;
    struct tp_buffer blocks, scales;
    int rc = open_products(frame, 2, &p, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 1, "blocks", tp_types(TP_U8), &blocks, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 2, "scales", tp_types(TP_U8), &scales, error);
    if (rc == 0)
        rc = tp_buffer_expect_mxfp4(&blocks, &scales, 2, error);
    if (rc != 0)
        return rc;
    size_t n_leading = scales.rank - 2;
    p.w = (struct tp_matrix){TP_MATRIX_MXFP4, scales.dims[n_leading],
                             scales.dims[n_leading + 1] * TP_MXFP4_BLOCK_ELEMENTS, blocks.data,
                             scales.data};
    rc = shape_vectors(&p, scales.dims, n_leading, error);
    if (rc == 0)
        rc = shape_bias(&p, scales.dims, n_leading, error);
    return rc == 0 ? compute(&p, error) : rc;
}

static int dense_matmul(const struct tp_frame *frame, struct tp_error *error)
{
    struct products p;
    struct tp_buffer w;
    int rc = open_products(frame, 1, &p, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 1, "w",
                               tp_types(TP_BF16) | tp_types(TP_F16) | tp_types(TP_F32), &w, error);
    if (rc == 0)
        rc = tp_buffer_expect_rank(&w, 2, error);
    if (rc != 0)
        return rc;
    enum tp_matrix_type type = w.dtype == TP_BF16  ? TP_MATRIX_BF16
                               : w.dtype == TP_F16 ? TP_MATRIX_F16
                                                   : TP_MATRIX_F32;
    p.w = (struct tp_matrix){type, w.dims[w.rank - 2], w.dims[w.rank - 1], w.data, NULL};
    rc = shape_vectors(&p, w.dims, w.rank - 2, error);
    if (rc == 0)
        rc = shape_bias(&p, w.dims, w.rank - 2, error);
    return rc == 0 ? compute(&p, error) : rc;
}

struct XLA_FFI_Error *tensorport_mxfp4_matmul(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle(frame, "mxfp4_matmul", mxfp4_matmul);
}

struct XLA_FFI_Error *tensorport_dense_matmul(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle(frame, "dense_matmul", dense_matmul);
}
