/* The stages of a step of few tokens. See kernels.h for what each computes. */
#include "cuda/few_tile.cuh"
#include "cuda/layer.cuh"

/* Shared memory of all of them: the sums of a tile, and behind them what a stage needs. */
template <int GROUPS> TP_DEVICE float *behind_sums(void)
{
    return tp_tile_sums() + (size_t)TP_FEW_WARPS * GROUPS * TP_TILE_SUMS;
}

TP_DEVICE struct tp_vectors_of_tokens all_tokens(uint32_t n)
{
    struct tp_vectors_of_tokens vectors = {NULL, NULL, n, 0};
    return vectors;
}

/* This thread's unit of the tile that its warp's lane has rows of. */
TP_DEVICE uint32_t lane_unit(uint32_t tile)
{
    return tile * TP_TILE_UNITS + threadIdx.x % 32 / 4;
}

/* After a tile the first 64 threads have a unit and a token each, the first 128 a row and a token.
 */
struct cell {
    uint32_t row, token; /* row: 0..7 of rows a, 8..15 of rows b */
    bool exists;
};

TP_DEVICE struct cell cell_of(uint32_t n_rows, uint32_t n_tokens)
{
    struct cell cell = {threadIdx.x / TP_FEW, threadIdx.x % TP_FEW, false};
    cell.exists = cell.row < n_rows && cell.token < n_tokens;
    return cell;
}

/* ---- embedding ---- */

TP_KERNEL(tp_few_embed, struct tp_few_embed, TP_ROW_THREADS)
{
    float *sums = (float *)(void *)TP_SHARED(); /* [warps] */
    uint32_t token = blockIdx.x, size = a->columns.size;
    float sum = 0;
    tp_let_next_begin();
    tp_wait_for_previous();
    struct tp_row row = tp_row_at(&a->embedding, a->tokens[token], true); /* perhaps just chosen */
    for (uint32_t i = threadIdx.x; i < size; i += TP_ROW_THREADS) {
        float x = tp_weight(&a->embedding, row.values, row.scales, i);
        a->x[(size_t)token * size + i] = x;
        tp_store_column(&a->columns, token, i, x * a->weight[i]);
        sum = fmaf(x, x, sum);
    }
    sum = tp_warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        sum = 0;
        for (uint32_t warp = 0; warp < TP_ROW_THREADS / 32; warp++)
            sum += sums[warp];
        a->squares.sums[token] = sum;
    }
}

/* ---- queries, keys and values ---- */

template <class WEIGHTS, int GROUPS> TP_DEVICE void few_heads(const struct tp_few_heads *a)
{
    uint32_t half = a->cache.head_size / 2,
             n_tiles = (a->n_units + TP_TILE_UNITS - 1) / TP_TILE_UNITS;
    struct tp_vectors_of_tokens tokens = all_tokens(a->n_tokens);
    float *scales = behind_sums<GROUPS>();
    tp_let_next_begin();
    for (uint32_t tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
        uint32_t unit = lane_unit(tile);
        bool exists = unit < a->n_units;
        struct tp_head_unit u = tp_head_unit_of(a, exists ? unit : 0);
        struct tp_row upper = tp_row_at(u.matrix, u.row, exists);
        struct tp_row lower = tp_row_at(u.matrix, (size_t)u.row + half, exists);
        if (tile == blockIdx.x) {
            tp_prefetch_rows(u.matrix, &upper, &lower);
            tp_wait_for_previous();
            tp_norm_scales(&a->squares, a->n_tokens, scales);
        }
        tp_multiply_tile<WEIGHTS, GROUPS>(u.matrix, upper, lower, &a->columns, &tokens);
        struct cell cell = cell_of(TP_TILE_UNITS, a->n_tokens);
        unit = tile * TP_TILE_UNITS + cell.row;
        if (cell.exists && unit < a->n_units) {
            u = tp_head_unit_of(a, unit);
            float scale = scales[cell.token];
            float first = tp_tile_value<WEIGHTS, GROUPS>(&a->columns, cell.row, cell.token);
            float second = tp_tile_value<WEIGHTS, GROUPS>(&a->columns, 8 + cell.row, cell.token);
            tp_store_head_pair(a, &u, cell.token, first * scale + tp_bias_of(u.bias, u.row),
                               second * scale + tp_bias_of(u.bias, u.row + half));
        }
    }
}

/* ---- from x to the next columns ---- */

/* What the 128 cells of a tile of rows of x leave behind: x * weight as columns, and the sums of
 * squares over the tile's rows. `values` is shared memory [16][8] for x * weight, which the router
 * reads afterwards. All threads of the block come here. */
TP_DEVICE void finish_rows(const struct cell *cell, uint32_t row, bool exists, float x,
                           const float *weight, const struct tp_columns *columns,
                           const struct tp_squares *squares, uint32_t tile, float *values,
                           float *all_squares)
{
    if (cell->row < TP_TILE_ROWS) {
        float value = exists ? x * weight[row] : 0.0f;
        if (exists)
            tp_store_column(columns, cell->token, row, value);
        values[cell->row * TP_FEW + cell->token] = value;
        all_squares[cell->row * TP_FEW + cell->token] = exists ? x * x : 0.0f;
    }
    __syncthreads();
    if (threadIdx.x < TP_FEW) {
        float sum = 0;
        for (uint32_t i = 0; i < TP_TILE_ROWS; i++)
            sum += all_squares[i * TP_FEW + threadIdx.x];
        squares->sums[(size_t)tile * TP_FEW + threadIdx.x] = sum;
    }
}

/* ---- o, the residual stream, and the router ---- */

/* The tile's share of the router's logits: router_sums[tile][token][expert]. */
TP_DEVICE void add_to_router(const struct tp_few_output *a, uint32_t tile, const float *values)
{
    uint32_t n_experts = a->router.rows;
    for (uint32_t i = threadIdx.x; i < n_experts * a->n_tokens; i += TP_FEW_THREADS) {
        uint32_t token = i / n_experts, expert = i % n_experts;
        struct tp_row row = tp_row_at(&a->router, expert, true);
        float sum = 0;
        for (uint32_t j = 0; j < TP_TILE_ROWS && tile * TP_TILE_ROWS + j < a->router.columns; j++)
            sum = fmaf(tp_weight(&a->router, row.values, row.scales, tile * TP_TILE_ROWS + j),
                       values[j * TP_FEW + token], sum);
        a->router_sums[((size_t)tile * TP_FEW + token) * n_experts + expert] = sum;
    }
}

/* All tiles' shares together: router_logits[token][expert]. Each warp adds an eighth of the tiles;
 * `sums` is shared memory [TP_FEW_WARPS][tokens * experts], `scales` that of tp_norm_scales(). */
TP_DEVICE void finish_router_logits(const struct tp_few_output *a, uint32_t n_tiles, float *sums,
                                    const float *scales)
{
    uint32_t n_experts = a->router.rows, n = n_experts * a->n_tokens;
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (uint32_t i = lane; i < n; i += 32) {
        float sum = 0;
#pragma unroll 8
        for (uint32_t tile = warp; tile < n_tiles; tile += TP_FEW_WARPS)
            sum += tp_load_shared_by_blocks(&a->router_sums[(size_t)tile * TP_FEW * n_experts + i]);
        sums[(size_t)warp * n + i] = sum;
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n; i += TP_FEW_THREADS) {
        float sum = 0;
        for (warp = 0; warp < TP_FEW_WARPS; warp++)
            sum += sums[(size_t)warp * n + i];
        a->router_logits[i] =
            sum * scales[i / n_experts] + tp_bias_of(a->router_bias, i % n_experts);
    }
}

/* By the last block, when x is whole. */
TP_DEVICE void route(const struct tp_few_output *a, uint32_t n_tiles, float *scales)
{
    const struct tp_routing *routing = &a->routing;
    uint32_t warp = threadIdx.x / 32;
    tp_norm_scales(&a->squares, a->n_tokens, scales);
    __syncthreads();
    if (threadIdx.x < a->n_tokens)
        routing->scales[threadIdx.x] = scales[threadIdx.x];
    if (a->router.values == NULL) {
        if (threadIdx.x < a->n_tokens) {
            routing->chosen[threadIdx.x] = 0;
            routing->weights[threadIdx.x] = 1;
        }
    } else {
        finish_router_logits(a, n_tiles, tp_tile_sums(), scales);
        __syncthreads();
        if (warp < a->n_tokens) /* a warp a token: there are as many as tokens at most */
            tp_choose_experts(a->router_logits + warp * a->router.rows, a->router.rows,
                              routing->n_per_token, routing->chosen + warp * routing->n_per_token,
                              routing->weights + warp * routing->n_per_token);
    }
    __syncthreads();
    if (warp == 0)
        tp_list_active(routing, a->n_tokens);
}

template <class WEIGHTS, int GROUPS> TP_DEVICE void few_output(const struct tp_few_output *a)
{
    uint32_t n_tiles = (a->o.rows + TP_TILE_ROWS - 1) / TP_TILE_ROWS;
    struct tp_vectors_of_tokens tokens = all_tokens(a->n_tokens);
    /* Behind what the router needs where the sums are. */
    size_t n_sums = (size_t)TP_FEW_WARPS * a->n_tokens * a->routing.n_experts;
    size_t n_tile_sums = (size_t)TP_FEW_WARPS * GROUPS * TP_TILE_SUMS;
    float *values = tp_tile_sums() + (n_sums > n_tile_sums ? n_sums : n_tile_sums);
    float *squares = values + TP_TILE_SUMS, *scales = squares + TP_TILE_SUMS;
    uint32_t *flag = (uint32_t *)(void *)(scales + TP_FEW);
    tp_let_next_begin();
    for (uint32_t tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
        uint32_t first = tile * TP_TILE_ROWS, upper_row = first + threadIdx.x % 32 / 4;
        struct tp_row upper = tp_row_at(&a->o, upper_row, upper_row < a->o.rows);
        struct tp_row lower = tp_row_at(&a->o, upper_row + 8, upper_row + 8 < a->o.rows);
        if (tile == blockIdx.x) {
            tp_prefetch_rows(&a->o, &upper, &lower);
            tp_wait_for_previous();
        }
        tp_multiply_tile<WEIGHTS, GROUPS>(&a->o, upper, lower, &a->mixed, &tokens);
        struct cell cell = cell_of(TP_TILE_ROWS, a->n_tokens);
        uint32_t row = first + cell.row;
        bool exists = cell.exists && row < a->o.rows;
        float x = 0;
        if (exists) {
            float *target = &a->x[(size_t)cell.token * a->o.rows + row];
            x = *target + (tp_tile_value<WEIGHTS, GROUPS>(&a->mixed, cell.row, cell.token) +
                           tp_bias_of(a->bias, row));
            *target = x;
        }
        finish_rows(&cell, row, exists, x, a->weight, &a->columns, &a->squares, tile, values,
                    squares);
        if (a->router.values != NULL)
            add_to_router(a, tile, values);
    }
    if (tp_arrive_last(a->arrived, gridDim.x, flag))
        route(a, n_tiles, scales);
}

/* ---- gate and up ---- */

template <class WEIGHTS, int GROUPS> TP_DEVICE void few_gate_up(const struct tp_few_gate_up *a)
{
    const struct tp_routing *routing = &a->routing;
    uint32_t n_tiles = (a->inner + TP_TILE_UNITS - 1) / TP_TILE_UNITS, k = routing->n_per_token;
    struct tp_vectors_of_tokens tokens = all_tokens(a->n_tokens);
    bool is_dense = a->gate_up.values == NULL;
    tp_let_next_begin();
    tp_wait_for_previous();
    uint32_t n_active = *routing->n_active;
    for (uint32_t task = blockIdx.x; task < n_active * n_tiles; task += gridDim.x) {
        uint32_t active = task / n_tiles, tile = task % n_tiles;
        uint32_t expert = routing->active[active], unit = lane_unit(tile);
        bool exists = unit < a->inner;
        struct tp_gpu_matrix w = is_dense ? a->gate : tp_expert_of(&a->gate_up, expert);
        struct tp_row upper, lower;
        if (is_dense) {
            upper = tp_row_at(&a->gate, unit, exists);
            lower = tp_row_at(&a->up, unit, exists);
        } else {
            upper = tp_row_at(&w, 2 * (size_t)unit, exists);
            lower = tp_row_at(&w, 2 * (size_t)unit + 1, exists);
        }
        tp_multiply_tile<WEIGHTS, GROUPS>(&w, upper, lower, &a->columns, &tokens);
        struct cell cell = cell_of(TP_TILE_UNITS, a->n_tokens);
        unit = tile * TP_TILE_UNITS + cell.row;
        uint32_t slot =
            cell.exists ? routing->slots[active * TP_FEW + cell.token] : (uint32_t)TP_NO_SLOT;
        if (slot == TP_NO_SLOT || unit >= a->inner)
            continue;
        float scale = routing->scales[cell.token];
        float gate = tp_tile_value<WEIGHTS, GROUPS>(&a->columns, cell.row, cell.token) * scale;
        float up = tp_tile_value<WEIGHTS, GROUPS>(&a->columns, 8 + cell.row, cell.token) * scale;
        float inner;
        if (is_dense) {
            inner = tp_silu_product(gate + tp_bias_of(a->gate_bias, unit),
                                    up + tp_bias_of(a->up_bias, unit));
        } else {
            size_t bias = 2 * ((size_t)expert * a->inner + unit);
            inner = tp_clamped_swiglu(gate + tp_bias_of(a->bias, bias),
                                      up + tp_bias_of(a->bias, bias + 1), a->alpha, a->limit);
        }
        tp_store_column(&a->inners, (size_t)cell.token * k + slot, unit, inner);
    }
}

/* ---- down, and the sum over a token's experts ---- */

/* By the last expert of a tile: all of them have written their outputs. */
TP_DEVICE void combine(const struct tp_few_down *a, uint32_t tile, float *values, float *squares)
{
    uint32_t hidden = a->down.rows, k = a->routing.n_per_token;
    struct cell cell = cell_of(TP_TILE_ROWS, a->n_tokens);
    uint32_t row = tile * TP_TILE_ROWS + cell.row;
    bool exists = cell.exists && row < hidden;
    float x = 0;
    if (exists) {
        float update = 0;
        for (uint32_t i = 0; i < k; i++)
            update = fmaf(
                a->routing.weights[cell.token * k + i],
                tp_load_shared_by_blocks(&a->outputs[((size_t)cell.token * k + i) * hidden + row]),
                update);
        float *target = &a->x[(size_t)cell.token * hidden + row];
        x = *target + update;
        *target = x;
    }
    finish_rows(&cell, row, exists, x, a->weight, &a->columns, &a->squares, tile, values, squares);
}

template <class WEIGHTS, int GROUPS> TP_DEVICE void few_down(const struct tp_few_down *a)
{
    const struct tp_routing *routing = &a->routing;
    uint32_t n_tiles = (a->down.rows + TP_TILE_ROWS - 1) / TP_TILE_ROWS, k = routing->n_per_token;
    float *values = behind_sums<GROUPS>(), *squares = values + TP_TILE_SUMS;
    uint32_t *flag = (uint32_t *)(void *)(squares + TP_TILE_SUMS);
    tp_let_next_begin();
    tp_wait_for_previous();
    uint32_t n_active = *routing->n_active;
    for (uint32_t task = blockIdx.x; task < n_active * n_tiles; task += gridDim.x) {
        uint32_t active = task / n_tiles, tile = task % n_tiles;
        uint32_t expert = routing->active[active];
        uint32_t first = tile * TP_TILE_ROWS, upper_row = first + threadIdx.x % 32 / 4;
        struct tp_gpu_matrix w = tp_expert_of(&a->down, expert);
        struct tp_row upper = tp_row_at(&w, upper_row, upper_row < w.rows);
        struct tp_row lower = tp_row_at(&w, upper_row + 8, upper_row + 8 < w.rows);
        struct tp_vectors_of_tokens tokens = {NULL, routing->slots + active * TP_FEW, a->n_tokens,
                                              k};
        tp_multiply_tile<WEIGHTS, GROUPS>(&w, upper, lower, &a->inners, &tokens);
        struct cell cell = cell_of(TP_TILE_ROWS, a->n_tokens);
        uint32_t row = first + cell.row;
        uint32_t slot =
            cell.exists ? routing->slots[active * TP_FEW + cell.token] : (uint32_t)TP_NO_SLOT;
        if (slot != TP_NO_SLOT && row < w.rows)
            a->outputs[((size_t)cell.token * k + slot) * w.rows + row] =
                tp_tile_value<WEIGHTS, GROUPS>(&a->inners, cell.row, cell.token) +
                tp_bias_of(a->bias, (size_t)expert * w.rows + row);
        if (tp_arrive_last(&a->arrived[tile], n_active, flag))
            combine(a, tile, values, squares);
    }
}

/* ---- the head ---- */

template <class WEIGHTS, int GROUPS> TP_DEVICE void few_head(const struct tp_few_head *a)
{
    uint32_t n_tiles = (a->head.rows + TP_TILE_ROWS - 1) / TP_TILE_ROWS;
    struct tp_vectors_of_tokens rows = {a->rows, NULL, a->n_rows, 0};
    float *scales = behind_sums<GROUPS>();
    tp_let_next_begin();
    for (uint32_t tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
        uint32_t first = tile * TP_TILE_ROWS, upper_row = first + threadIdx.x % 32 / 4;
        struct tp_row upper = tp_row_at(&a->head, upper_row, upper_row < a->head.rows);
        struct tp_row lower = tp_row_at(&a->head, upper_row + 8, upper_row + 8 < a->head.rows);
        if (tile == blockIdx.x) {
            tp_prefetch_rows(&a->head, &upper, &lower);
            tp_wait_for_previous();
            tp_norm_scales(&a->squares, a->n_tokens, scales);
        }
        tp_multiply_tile<WEIGHTS, GROUPS>(&a->head, upper, lower, &a->columns, &rows);
        struct cell cell = cell_of(TP_TILE_ROWS, a->n_rows);
        uint32_t row = first + cell.row;
        if (cell.exists && row < a->head.rows)
            a->logits[(size_t)cell.token * a->head.rows + row] =
                tp_tile_value<WEIGHTS, GROUPS>(&a->columns, cell.row, cell.token) *
                scales[a->rows != NULL ? a->rows[cell.token] : cell.token];
    }
}

/* ---- each stage for each kind of weights ---- */

#define STAGE(stage, suffix, weights, groups)                                                      \
    TP_KERNEL(tp_few_##stage##_##suffix, struct tp_few_##stage, TP_FEW_THREADS)                    \
    {                                                                                              \
        few_##stage<weights, groups>(a);                                                           \
    }
#define STAGES(stage)                                                                              \
    STAGE(stage, bf16_1, tp_bf16_weights, 1)                                                       \
    STAGE(stage, bf16_3, tp_bf16_weights, 3)                                                       \
    STAGE(stage, any, tp_any_weights, 1)
#define EXPERT_STAGES(stage)                                                                       \
    STAGES(stage)                                                                                  \
    STAGE(stage, mxfp4_1, tp_mxfp4_weights, 1)                                                     \
    STAGE(stage, mxfp4_3, tp_mxfp4_weights, 3)                                                     \
    STAGE(stage, wide_1, tp_wide_mxfp4_weights, 1)                                                 \
    STAGE(stage, wide_3, tp_wide_mxfp4_weights, 3)
STAGES(heads)
STAGES(output)
EXPERT_STAGES(gate_up)
EXPERT_STAGES(down)
STAGES(head)

extern "C" size_t tp_few_shared_bytes(uint32_t n_groups, uint32_t n_tokens, uint32_t n_experts)
{
    size_t tile = (size_t)TP_FEW_WARPS * n_groups * TP_TILE_SUMS;
    size_t router = (size_t)TP_FEW_WARPS * n_tokens * n_experts;
    return ((tile > router ? tile : router) + 2 * TP_TILE_SUMS + TP_FEW + 4) * sizeof(float);
}
