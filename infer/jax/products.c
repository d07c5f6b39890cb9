/* Products with a matrix, or with a batch of them: mxfp4_matmul and dense_matmul. */
#include <errno.h>

#include "infer/cpu/multiply.h"
#include "infer/jax/calls.h"
#include "infer/jax/floats.h"
#include "infer/jax/frame.h"
#include "infer/jax/handlers.h"
#include "infer/jax/process.h"

int tensorport_xla_interface(void)
{
    return 1;
}

static int compute_in(struct tp_process *process, const struct tp_products_call *p)
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

static int compute(const struct tp_products_call *p, struct tp_error *error)
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

static int mxfp4_matmul(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_products_call call;
    int rc = tp_open_mxfp4_matmul(frame, &call, error);
    return rc == 0 ? compute(&call, error) : rc;
}

static int dense_matmul(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_products_call call;
    int rc = tp_open_dense_matmul(frame, &call, error);
    return rc == 0 ? compute(&call, error) : rc;
}

struct XLA_FFI_Error *tensorport_mxfp4_matmul(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle(frame, "mxfp4_matmul", mxfp4_matmul);
}

struct XLA_FFI_Error *tensorport_dense_matmul(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle(frame, "dense_matmul", dense_matmul);
}
