/* Products of arrays with a matrix, or with one of a batch each. See kernels.h. */
#include "cuda/layer.cuh"
#include "cuda/many_tile.cuh"

TP_DEVICE float number_of(const struct tp_numbers *numbers, size_t i)
{
    return tp_load_number((const uint8_t *)numbers->data, i, numbers->bf16);
}

/* Of matrix blockIdx.z. */
TP_DEVICE void store(const struct tp_array_product *a, uint32_t vector, uint32_t row, float sum)
{
    size_t batch = blockIdx.z, rows = a->w.rows;
    if (a->bias.data != NULL)
        sum += number_of(&a->bias, batch * rows + row);
    tp_store_number((uint8_t *)a->y.data, (batch * a->n + vector) * rows + row, a->y.bf16, sum);
}

/* Those from `first` on of matrix blockIdx.z. */
TP_DEVICE struct tp_columns columns_of(const struct tp_array_product *a, uint32_t first)
{
    struct tp_columns columns = a->columns;
    columns.parts += ((size_t)blockIdx.z * a->n + first) * columns.n_parts * columns.stride;
    return columns;
}

/* ---- few vectors ---- */

template <class WEIGHTS, int GROUPS> TP_DEVICE void few_product(const struct tp_array_product *a)
{
    uint32_t first_vector = blockIdx.y * TP_FEW, left = a->n - first_vector;
    uint32_t n_tiles = (a->w.rows + TP_TILE_ROWS - 1) / TP_TILE_ROWS;
    struct tp_vectors_of_tokens vectors = {NULL, NULL, left < TP_FEW ? left : (uint32_t)TP_FEW, 0};
    struct tp_gpu_matrix w = tp_expert_of(&a->w, blockIdx.z);
    struct tp_columns columns = columns_of(a, first_vector);
    tp_let_next_begin();
    for (uint32_t tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
        uint32_t first = tile * TP_TILE_ROWS, upper_row = first + threadIdx.x % 32 / 4;
        struct tp_row upper = tp_row_at(&w, upper_row, upper_row < w.rows);
        struct tp_row lower = tp_row_at(&w, upper_row + 8, upper_row + 8 < w.rows);
        if (tile == blockIdx.x) {
            tp_prefetch_rows(&w, &upper, &lower);
            tp_wait_for_previous();
        }
        tp_multiply_tile<WEIGHTS, GROUPS>(&w, upper, lower, &columns, &vectors);
        uint32_t row = first + threadIdx.x / TP_FEW, vector = threadIdx.x % TP_FEW;
        if (threadIdx.x < TP_TILE_SUMS && row < w.rows && vector < vectors.n)
            store(a, first_vector + vector, row,
                  tp_tile_value<WEIGHTS, GROUPS>(&columns, row - first, vector));
    }
}

/* ---- many ---- */

/* A unit is rows 2 u and 2 u + 1. */
struct product_task {
    const struct tp_array_product *a;
    uint32_t n_units, first_vector;
    struct tp_gpu_matrix w;

    TP_DEVICE_FIELD const struct tp_gpu_matrix *matrix(uint32_t) const
    {
        return &w;
    }
    TP_DEVICE_FIELD struct tp_row row(uint32_t unit, bool is_lower) const
    {
        uint32_t at = 2 * unit + is_lower;
        return tp_row_at(&w, at, at < w.rows);
    }
    TP_DEVICE_FIELD int vector(uint32_t j) const
    {
        return first_vector + j < a->n ? (int)(first_vector + j) : -1;
    }
    TP_DEVICE_FIELD void finish(uint32_t unit, uint32_t j, float first, float second) const
    {
        store(a, first_vector + j, 2 * unit, first);
        if (2 * unit + 1 < w.rows)
            store(a, first_vector + j, 2 * unit + 1, second);
    }
};

template <class WEIGHTS, int PARTS> TP_DEVICE void many_product(const struct tp_array_product *a)
{
    struct tp_columns columns = columns_of(a, 0);
    product_task task = {a, (a->w.rows + 1) / 2, blockIdx.y * TP_MANY_VECTORS,
                         tp_expert_of(&a->w, blockIdx.z)};
    tp_let_next_begin();
    tp_wait_for_previous();
    tp_many_product<WEIGHTS, PARTS>(task, blockIdx.x * TP_MANY_UNITS, &columns);
}

/* ---- each for each kind of weights ---- */

#define FEW_PRODUCT(suffix, weights, groups)                                                       \
    TP_KERNEL(tp_few_product_##suffix, struct tp_array_product, TP_FEW_THREADS)                    \
    {                                                                                              \
        few_product<weights, groups>(a);                                                           \
    }
FEW_PRODUCT(bf16_1, tp_bf16_weights, 1)
FEW_PRODUCT(bf16_3, tp_bf16_weights, 3)
FEW_PRODUCT(any, tp_any_weights, 1)
FEW_PRODUCT(wide_1, tp_wide_mxfp4_weights, 1)
FEW_PRODUCT(wide_3, tp_wide_mxfp4_weights, 3)

#define MANY_PRODUCT(suffix, weights, parts)                                                       \
    TP_KERNEL(tp_many_product_##suffix, struct tp_array_product, TP_MANY_THREADS)                  \
    {                                                                                              \
        many_product<weights, parts>(a);                                                           \
    }
MANY_PRODUCT(bf16_1, tp_bf16_many, 1)
MANY_PRODUCT(bf16_3, tp_bf16_many, 3)
MANY_PRODUCT(wide_1, tp_wide_mxfp4_many, 1)
MANY_PRODUCT(wide_3, tp_wide_mxfp4_many, 3)
