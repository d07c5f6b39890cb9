/* What few tokens and many do alike, number by number. */
#ifndef TENSORPORT_CUDA_LAYER_CUH
#define TENSORPORT_CUDA_LAYER_CUH

#include "cuda/few_tile.cuh"

TP_DEVICE float tp_bias_of(const float *bias, size_t i)
{
    return bias != NULL ? bias[i] : 0.0f;
}

/* ---- queries, keys and values ---- */

/* A pair of rows of q, k or v. */
struct tp_head_unit {
    const struct tp_gpu_matrix *matrix;
    const float *bias;
    uint32_t kind, head, pair; /* 0: q, 1: k, 2: v; elements `pair` and pair + half of the head */
    uint32_t row;              /* the pair's first */
};

TP_DEVICE struct tp_head_unit tp_head_unit_of(const struct tp_few_heads *a, uint32_t unit)
{
    uint32_t half = a->cache.head_size / 2, n_kv = a->cache.n_heads;
    uint32_t head = (a->first_unit + unit) / half, pair = (a->first_unit + unit) % half;
    struct tp_head_unit u = {&a->q, a->q_bias, 0, head, pair, 0};
    if (head >= a->n_heads + n_kv) {
        u.matrix = &a->v, u.bias = a->v_bias, u.kind = 2, u.head = head - a->n_heads - n_kv;
    } else if (head >= a->n_heads) {
        u.matrix = &a->k, u.bias = a->k_bias, u.kind = 1, u.head = head - a->n_heads;
    }
    u.row = u.head * a->cache.head_size + pair;
    return u;
}

TP_DEVICE void tp_store_number(uint8_t *numbers, size_t i, bool bf16, float x)
{
    if (bf16)
        ((uint16_t *)(void *)numbers)[i] = (uint16_t)tp_to_bf16(x);
    else
        ((float *)(void *)numbers)[i] = x;
}

/* Turns a pair to the token's position, and puts it where it belongs. */
TP_DEVICE void tp_store_head_pair(const struct tp_few_heads *a, const struct tp_head_unit *u,
                                  uint32_t token, float first, float second)
{
    uint32_t size = a->cache.head_size, half = size / 2;
    if (u->kind != 2) {
        float c = a->cosines[token * half + u->pair], s = a->sines[token * half + u->pair];
        float turned = first * c - second * s;
        second = second * c + first * s;
        first = turned;
    }
    if (u->kind == 0) {
        float *queries = a->queries + ((size_t)token * a->n_heads + u->head) * size + u->pair;
        queries[0] = first;
        queries[half] = second;
        return;
    }
    struct tp_cache_place place = tp_find_cache(&a->cache, a->places.sequences[token], u->head);
    uint32_t slot = a->places.positions[token] % place.capacity;
    uint8_t *numbers = u->kind == 1 ? place.keys : place.values;
    size_t at = (size_t)slot * place.stride + u->pair;
    tp_store_number(numbers, at, a->cache.bf16, first);
    tp_store_number(numbers, at + half, a->cache.bf16, second);
}

/* ---- the router ---- */

/* Better: larger, or equal and earlier. NaN is worst. */
TP_DEVICE bool tp_is_better(float x, uint32_t i, float y, uint32_t j)
{
    bool x_is_number = x == x, y_is_number = y == y;
    if (x_is_number != y_is_number)
        return x_is_number;
    return x_is_number && x != y ? x > y : i < j;
}

/* The k best of a token's experts and their shares, best first: chosen[k] and weights[k]. By a
 * warp. */
TP_DEVICE void tp_choose_experts(const float *logits, uint32_t n_experts, uint32_t k,
                                 uint32_t *chosen, float *weights)
{
    uint32_t lane = threadIdx.x % 32;
    float largest = 0, previous = 0;
    uint32_t previous_expert = 0;
    for (uint32_t i = 0; i < k; i++) {
        float best = 0;
        uint32_t best_expert = 0xffffffffu;
        for (uint32_t expert = lane; expert < n_experts; expert += 32) {
            bool is_left =
                i == 0 || tp_is_better(previous, previous_expert, logits[expert], expert);
            if (is_left && (best_expert == 0xffffffffu ||
                            tp_is_better(logits[expert], expert, best, best_expert)))
                best = logits[expert], best_expert = expert;
        }
        for (int distance = 16; distance > 0; distance /= 2) {
            float other = __shfl_xor_sync(TP_ALL_LANES, best, distance);
            uint32_t other_expert = __shfl_xor_sync(TP_ALL_LANES, best_expert, distance);
            if (other_expert != 0xffffffffu &&
                (best_expert == 0xffffffffu ||
                 tp_is_better(other, other_expert, best, best_expert)))
                best = other, best_expert = other_expert;
        }
        if (i == 0)
            largest = best;
        if (lane == 0) {
            chosen[i] = best_expert;
            weights[i] = expf(best - largest);
        }
        previous = best;
        previous_expert = best_expert;
    }
    if (lane == 0) {
        float total = 0;
        for (uint32_t i = 0; i < k; i++)
            total += weights[i];
        for (uint32_t i = 0; i < k; i++)
            weights[i] /= total;
    }
}

/* The experts that anybody chose, and which of each token's choices they are; by the first warp. */
TP_DEVICE void tp_list_active(const struct tp_routing *routing, uint32_t n_tokens)
{
    uint32_t lane = threadIdx.x % 32, k = routing->n_per_token, n = 0;
    for (uint32_t first = 0; first < routing->n_experts; first += 32) {
        uint32_t expert = first + lane;
        bool is_chosen = false;
        for (uint32_t i = 0; i < n_tokens * k; i++)
            is_chosen |= routing->chosen[i] == expert;
        uint32_t all = __ballot_sync(TP_ALL_LANES, is_chosen);
        uint32_t at = n + (uint32_t)__popc(all & ((1u << lane) - 1));
        n += (uint32_t)__popc(all);
        if (!is_chosen)
            continue;
        routing->active[at] = expert;
        for (uint32_t token = 0; token < TP_FEW; token++) {
            uint16_t slot = TP_NO_SLOT;
            for (uint32_t i = 0; token < n_tokens && i < k; i++) {
                if (routing->chosen[token * k + i] == expert)
                    slot = (uint16_t)i;
            }
            routing->slots[at * TP_FEW + token] = slot;
        }
    }
    if (lane == 0)
        *routing->n_active = n;
}

/* ---- experts ---- */

/* gpt_oss: gate from above, up from both sides. */
TP_DEVICE float tp_clamped_swiglu(float gate, float up, float alpha, float limit)
{
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up < -limit ? -limit : up;
    return gate / (1.0f + expf(-alpha * gate)) * (up + 1.0f);
}

TP_DEVICE float tp_silu_product(float gate, float up)
{
    return gate / (1.0f + expf(-gate)) * up;
}

TP_DEVICE struct tp_gpu_matrix tp_expert_of(const struct tp_gpu_matrix *first, uint32_t expert)
{
    struct tp_gpu_matrix w = *first;
    size_t rows = (size_t)expert * w.rows;
    w.values = (const uint8_t *)w.values + rows * tp_row_bytes(&w);
    if (w.type == TP_MATRIX_MXFP4)
        w.scales += rows * (w.columns / 32);
    return w;
}

#endif
