/* The small kernels between the products of a step of many tokens. */
#include "cuda/layer.cuh"

enum { ROW_WARPS = TP_ROW_THREADS / 32, SORT_WARPS = TP_SORT_THREADS / 32 };

/* The sum of all threads' x, for all threads. `sums` is shared memory [ROW_WARPS]. */
TP_DEVICE float block_sum(float x, float *sums)
{
    x = tp_warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (uint32_t warp = 0; warp < ROW_WARPS; warp++)
        x += sums[warp];
    return x;
}

/* ---- norms ---- */

TP_DEVICE float outputs_of(const struct tp_many_norm *a, uint32_t token, uint32_t i)
{
    const struct tp_slots *slots = &a->slots;
    uint32_t k = slots->n_per_token;
    float sum = 0;
    for (uint32_t j = 0; j < k; j++) {
        size_t slot = slots->of_token[token * k + j];
        sum = fmaf(slots->weights[token * k + j], a->outputs[slot * a->columns.size + i], sum);
    }
    return sum;
}

TP_KERNEL(tp_many_norm, struct tp_many_norm, TP_ROW_THREADS)
{
    float *sums = (float *)(void *)TP_SHARED();
    uint32_t size = a->columns.size;
    tp_let_next_begin();
    tp_wait_for_previous();
    uint32_t token = a->rows != NULL ? a->rows[blockIdx.x] : blockIdx.x;
    float sum = 0;
    for (uint32_t i = threadIdx.x; i < size; i += TP_ROW_THREADS) {
        float x = a->x[(size_t)token * size + i];
        if (a->outputs != NULL) {
            x += outputs_of(a, token, i);
            a->x[(size_t)token * size + i] = x;
        }
        tp_store_column(&a->columns, blockIdx.x, i, x * a->weight[i]);
        sum = fmaf(x, x, sum);
    }
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0)
        a->squares.sums[blockIdx.x] = sum;
}

/* ---- the router ---- */

/* Each warp has every eighth expert. In float32 whatever the other products are made of: a near tie
 * sends a token elsewhere. */
TP_KERNEL(tp_many_route, struct tp_many_route, TP_ROW_THREADS)
{
    uint32_t token = blockIdx.x, size = a->router.columns, n_experts = a->router.rows;
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, k = a->slots.n_per_token;
    float *normed = (float *)(void *)TP_SHARED(); /* [H] */
    float *logits = a->logits + (size_t)token * n_experts;
    tp_let_next_begin();
    tp_wait_for_previous();
    float scale =
        1.0f / sqrtf(a->squares.sums[token] / (float)a->squares.size + a->squares.epsilon);
    for (uint32_t i = threadIdx.x; i < size; i += TP_ROW_THREADS)
        normed[i] = a->x[(size_t)token * size + i] * a->weight[i];
    __syncthreads();
    for (uint32_t expert = warp; expert < n_experts; expert += ROW_WARPS) {
        struct tp_row row = tp_row_at(&a->router, expert, true);
        float sum = 0;
        for (uint32_t i = lane; i < size; i += 32)
            sum = fmaf(tp_weight(&a->router, row.values, row.scales, i), normed[i], sum);
        sum = tp_warp_sum(sum);
        if (lane == 0)
            logits[expert] = sum * scale + tp_bias_of(a->bias, expert);
    }
    __syncthreads();
    if (warp == 0)
        tp_choose_experts(logits, n_experts, k, a->slots.chosen + (size_t)token * k,
                          a->slots.weights + (size_t)token * k);
}

/* ---- slots ---- */

/* A warp goes through all choices of an expert, and numbers them in order; or only counts. */
TP_DEVICE uint32_t number_slots(const struct tp_many_sort *a, uint32_t expert, uint32_t slot,
                                bool counts_only)
{
    uint32_t lane = threadIdx.x % 32, k = a->slots.n_per_token, n = a->n_tokens * k;
    for (uint32_t first = 0; first < n; first += 32) {
        uint32_t i = first + lane;
        bool mine = i < n && a->slots.chosen[i] == expert;
        uint32_t all = __ballot_sync(TP_ALL_LANES, mine);
        if (mine && !counts_only) {
            uint32_t at = slot + (uint32_t)__popc(all & ((1u << lane) - 1));
            a->slots.of_token[i] = at;
            a->slots.tokens[at] = i / k;
        }
        slot += (uint32_t)__popc(all);
    }
    return slot;
}

TP_KERNEL(tp_many_sort, struct tp_many_sort, TP_SORT_THREADS)
{
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_experts = a->slots.n_experts;
    uint32_t *first = (uint32_t *)(void *)TP_SHARED(); /* [E] */
    tp_let_next_begin();
    tp_wait_for_previous();
    for (uint32_t i = threadIdx.x; a->is_dense && i < a->n_tokens; i += TP_SORT_THREADS) {
        a->slots.chosen[i] = 0;
        a->slots.weights[i] = 1;
    }
    __syncthreads();
    for (uint32_t expert = warp; expert < n_experts; expert += SORT_WARPS) {
        uint32_t n = number_slots(a, expert, 0, true);
        if (lane == 0)
            first[expert] = n;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t slot = 0;
        for (uint32_t expert = 0; expert < n_experts; expert++) {
            uint32_t n = first[expert];
            first[expert] = a->slots.first[expert] = slot;
            slot += n;
        }
        a->slots.first[n_experts] = slot;
    }
    __syncthreads();
    for (uint32_t expert = warp; expert < n_experts; expert += SORT_WARPS)
        number_slots(a, expert, first[expert], false);
}
