/* mxfp4_matmul and dense_matmul for a GPU. */
#include "infer/jax/calls.h"
#include "infer/jax/cuda/gpu.h"
#include "infer/jax/handlers.h"

/* Vectors of a launch, of all its matrices: their columns bound the memory that is needed. */
enum { VECTORS_AT_ONCE = 1 << 14 };

int tensorport_xla_interface(void)
{
    return 1;
}

struct plan {
    size_t n_matrices, n; /* of a launch, at most; vectors of each */
    size_t size;
    uint32_t n_parts;
    struct tp_columns columns;
};

static void take(struct tp_arena *arena, void *context)
{
    struct plan *plan = context;
    plan->columns = tp_arena_columns(arena, plan->n_matrices * plan->n, plan->size, plan->n_parts);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t tiles_of(size_t n, size_t tile)
{
    return (n + tile - 1) / tile;
}

static bool has_room_for_many(const struct tp_gpu_call *gpu, const struct tp_array_product *a)
{
    return tp_many_shared_bytes(a->w.type, a->columns.n_parts) <= gpu->facts->shared_bytes_max;
}

static void launch_many(struct tp_gpu_call *gpu, const struct tp_array_product *a,
                        size_t n_matrices)
{
    bool one = a->columns.n_parts == 1, is_mxfp4 = a->w.type == TP_MATRIX_MXFP4;
    tp_kernel_fn *mxfp4 = one ? tp_many_product_wide_1 : tp_many_product_wide_3;
    tp_kernel_fn *bf16 = one ? tp_many_product_bf16_1 : tp_many_product_bf16_3;
    const unsigned grid[3] = {(unsigned)tiles_of(a->w.rows, TP_MANY_ROWS),
                              (unsigned)tiles_of(a->n, TP_MANY_VECTORS), (unsigned)n_matrices};
    tp_gpu_launch(gpu, is_mxfp4 ? mxfp4 : bf16, a, sizeof *a, grid, TP_MANY_THREADS,
                  tp_many_shared_bytes(a->w.type, a->columns.n_parts));
}

/* By eights, where there are more. */
static void launch_few(struct tp_gpu_call *gpu, const struct tp_array_product *a, bool tiles,
                       size_t n_matrices)
{
    size_t n = least(a->n, TP_FEW);
    uint32_t groups = !tiles || a->columns.n_parts * n <= TP_FEW ? 1 : a->columns.n_parts;
    bool one = groups == 1, is_mxfp4 = a->w.type == TP_MATRIX_MXFP4;
    tp_kernel_fn *mxfp4 = one ? tp_few_product_wide_1 : tp_few_product_wide_3;
    tp_kernel_fn *bf16 = one ? tp_few_product_bf16_1 : tp_few_product_bf16_3;
    const unsigned grid[3] = {tp_gpu_few_blocks(gpu, tiles_of(a->w.rows, TP_TILE_ROWS)),
                              (unsigned)tiles_of(a->n, TP_FEW), (unsigned)n_matrices};
    tp_gpu_launch(gpu,
                  !tiles     ? tp_few_product_any
                  : is_mxfp4 ? mxfp4
                             : bf16,
                  a, sizeof *a, grid, TP_FEW_THREADS, tp_few_shared_bytes(groups, (uint32_t)n, 0));
}

/* `n` vectors from `first` on of each matrix from `batch` on; of several matrices all of them. */
static void multiply(struct tp_gpu_call *gpu, const struct tp_products_call *call,
                     const struct plan *plan, size_t batch, size_t n_matrices, size_t first,
                     size_t n)
{
    const struct tp_matrix *w = &call->w;
    struct tp_matrices matrices = {call->n_batches, *w};
    struct tp_matrix first_of = tp_matrices_at(&matrices, batch);
    size_t vector = batch * call->n_vectors + first;
    struct tp_array_product a = {
        .w = tp_gpu_matrix_of(w->type, w->rows, w->columns, first_of.values, first_of.scales),
        .columns = plan->columns,
        .n = (uint32_t)n,
        .y = tp_gpu_numbers(&call->y, vector * w->rows)};
    bool tiles = tp_gpu_uses_tiles(gpu, &a.w);
    a.columns.shuffled = tiles && w->type == TP_MATRIX_MXFP4;
    if (call->has_bias)
        a.bias = tp_gpu_numbers(&call->bias, batch * w->rows);
    tp_gpu_make_columns(gpu, &call->x, vector * w->columns, n_matrices * n, &a.columns);
    if (tiles && n > TP_FEW && has_room_for_many(gpu, &a))
        launch_many(gpu, &a, n_matrices);
    else
        launch_few(gpu, &a, tiles, n_matrices);
}

static int compute(const struct tp_frame *frame, const struct tp_products_call *call,
                   struct tp_error *error)
{
    struct tp_gpu_call gpu;
    size_t n = least(call->n_vectors, VECTORS_AT_ONCE);
    if (call->y.elements == 0)
        return 0;
    size_t n_matrices = least(call->n_batches, VECTORS_AT_ONCE / n);
    struct plan plan = {n_matrices, n, call->w.columns, tp_gpu_parts(&call->x), {.parts = NULL}};
    int rc = tp_gpu_check_dims(&call->x, error);
    if (rc == 0)
        rc = tp_gpu_check_dims(&call->y, error);
    if (rc == 0)
        rc = tp_gpu_begin(frame, &gpu, error);
    if (rc != 0)
        return rc;
    tp_gpu_reserve(&gpu, take, &plan);
    for (size_t batch = 0; gpu.rc == 0 && batch < call->n_batches; batch += n_matrices) {
        size_t matrices = least(n_matrices, call->n_batches - batch);
        for (size_t first = 0; gpu.rc == 0 && first < call->n_vectors; first += n)
            multiply(&gpu, call, &plan, batch, matrices, first, least(n, call->n_vectors - first));
    }
    return tp_gpu_end(&gpu);
}

static int mxfp4_matmul(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_products_call call;
    int rc = tp_open_mxfp4_matmul(frame, &call, error);
    return rc == 0 ? compute(frame, &call, error) : rc;
}

static int dense_matmul(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_products_call call;
    int rc = tp_open_dense_matmul(frame, &call, error);
    return rc == 0 ? compute(frame, &call, error) : rc;
}

struct XLA_FFI_Error *tensorport_mxfp4_matmul(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle(frame, "mxfp4_matmul", mxfp4_matmul);
}

struct XLA_FFI_Error *tensorport_dense_matmul(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle(frame, "dense_matmul", dense_matmul);
}
