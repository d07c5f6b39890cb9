/* The products of a step of many tokens. See kernels.h for what each computes. */
#include "cuda/layer.cuh"
#include "cuda/many_tile.cuh"

/* 1 / sqrt(mean of squares + epsilon) of a token. */
TP_DEVICE float scale_of(const struct tp_squares *squares, uint32_t token)
{
    if (squares->sums == NULL)
        return 1.0f;
    return 1.0f / sqrtf(squares->sums[token] / (float)squares->size + squares->epsilon);
}

/* ---- queries, keys and values ---- */

struct heads_task {
    const struct tp_few_heads *a;
    uint32_t n_units, first_token;

    TP_DEVICE_FIELD const struct tp_gpu_matrix *matrix(uint32_t unit) const
    {
        return tp_head_unit_of(a, unit).matrix;
    }
    TP_DEVICE_FIELD struct tp_row row(uint32_t unit, bool is_lower) const
    {
        struct tp_head_unit u = tp_head_unit_of(a, unit);
        return tp_row_at(u.matrix, u.row + (is_lower ? a->cache.head_size / 2 : 0), true);
    }
    TP_DEVICE_FIELD int vector(uint32_t j) const
    {
        return first_token + j < a->n_tokens ? (int)(first_token + j) : -1;
    }
    TP_DEVICE_FIELD void finish(uint32_t unit, uint32_t j, float first, float second) const
    {
        struct tp_head_unit u = tp_head_unit_of(a, unit);
        uint32_t token = first_token + j, half = a->cache.head_size / 2;
        float scale = scale_of(&a->squares, token);
        tp_store_head_pair(a, &u, token, first * scale + tp_bias_of(u.bias, u.row),
                           second * scale + tp_bias_of(u.bias, u.row + half));
    }
};

template <int PARTS> TP_DEVICE void many_heads(const struct tp_few_heads *a)
{
    heads_task task = {a, a->n_units, blockIdx.y * TP_MANY_VECTORS};
    tp_let_next_begin();
    tp_wait_for_previous();
    tp_many_product<tp_bf16_many, PARTS>(task, blockIdx.x * TP_MANY_UNITS, &a->columns);
}

/* ---- o and the residual stream ---- */

/* A unit is rows 2 u and 2 u + 1. */
struct output_task {
    const struct tp_many_output *a;
    uint32_t n_units, first_token;

    TP_DEVICE_FIELD const struct tp_gpu_matrix *matrix(uint32_t) const
    {
        return &a->o;
    }
    TP_DEVICE_FIELD struct tp_row row(uint32_t unit, bool is_lower) const
    {
        uint32_t at = 2 * unit + is_lower;
        return tp_row_at(&a->o, at, at < a->o.rows);
    }
    TP_DEVICE_FIELD int vector(uint32_t j) const
    {
        return first_token + j < a->n_tokens ? (int)(first_token + j) : -1;
    }
    TP_DEVICE_FIELD void finish(uint32_t unit, uint32_t j, float first, float second) const
    {
        uint32_t at = 2 * unit;
        float *x = a->x + (size_t)(first_token + j) * a->o.rows + at;
        x[0] += first + tp_bias_of(a->bias, at);
        if (at + 1 < a->o.rows)
            x[1] += second + tp_bias_of(a->bias, at + 1);
    }
};

template <int PARTS> TP_DEVICE void many_output(const struct tp_many_output *a)
{
    output_task task = {a, (a->o.rows + 1) / 2, blockIdx.y * TP_MANY_VECTORS};
    tp_let_next_begin();
    tp_wait_for_previous();
    tp_many_product<tp_bf16_many, PARTS>(task, blockIdx.x * TP_MANY_UNITS, &a->mixed);
}

/* ---- experts ---- */

/* The block's slots: of one expert, at most 64. */
struct slot_tile {
    uint32_t expert, first, n;
};

/* Tile `tile` of all experts'; n is 0 behind the last one. */
TP_DEVICE struct slot_tile slot_tile_of(const struct tp_slots *slots, uint32_t tile)
{
    struct slot_tile found = {0, 0, 0};
    for (uint32_t expert = 0; expert < slots->n_experts; expert++) {
        uint32_t first = slots->first[expert], n = slots->first[expert + 1] - first;
        uint32_t n_tiles = (n + TP_MANY_VECTORS - 1) / TP_MANY_VECTORS;
        if (tile < n_tiles) {
            uint32_t left = n - tile * TP_MANY_VECTORS;
            found.expert = expert;
            found.first = first + tile * TP_MANY_VECTORS;
            found.n = left < TP_MANY_VECTORS ? left : (uint32_t)TP_MANY_VECTORS;
            break;
        }
        tile -= n_tiles;
    }
    return found;
}

struct gate_up_task {
    const struct tp_many_gate_up *a;
    uint32_t n_units;
    struct slot_tile slots;
    struct tp_gpu_matrix w; /* the expert's; a dense layer's gate */
    bool is_dense;

    TP_DEVICE_FIELD const struct tp_gpu_matrix *matrix(uint32_t) const
    {
        return &w;
    }
    TP_DEVICE_FIELD struct tp_row row(uint32_t unit, bool is_lower) const
    {
        if (is_dense)
            return tp_row_at(is_lower ? &a->up : &a->gate, unit, true);
        return tp_row_at(&w, 2 * (size_t)unit + is_lower, true);
    }
    TP_DEVICE_FIELD int vector(uint32_t j) const
    {
        return j < slots.n ? (int)a->slots.tokens[slots.first + j] : -1;
    }
    TP_DEVICE_FIELD void finish(uint32_t unit, uint32_t j, float gate, float up) const
    {
        uint32_t slot = slots.first + j;
        float scale = scale_of(&a->squares, a->slots.tokens[slot]), inner;
        gate *= scale;
        up *= scale;
        if (is_dense) {
            inner = tp_silu_product(gate + tp_bias_of(a->gate_bias, unit),
                                    up + tp_bias_of(a->up_bias, unit));
        } else {
            size_t bias = 2 * ((size_t)slots.expert * a->inner + unit);
            inner = tp_clamped_swiglu(gate + tp_bias_of(a->bias, bias),
                                      up + tp_bias_of(a->bias, bias + 1), a->alpha, a->limit);
        }
        tp_store_column(&a->inners, slot, unit, inner);
    }
};

template <class WEIGHTS, int PARTS> TP_DEVICE void many_gate_up(const struct tp_many_gate_up *a)
{
    tp_let_next_begin();
    tp_wait_for_previous();
    bool is_dense = a->gate_up.values == NULL;
    struct slot_tile slots = slot_tile_of(&a->slots, blockIdx.y);
    if (slots.n == 0)
        return;
    gate_up_task task = {a, a->inner, slots,
                         is_dense ? a->gate : tp_expert_of(&a->gate_up, slots.expert), is_dense};
    tp_many_product<WEIGHTS, PARTS>(task, blockIdx.x * TP_MANY_UNITS, &a->columns);
}

struct down_task {
    const struct tp_many_down *a;
    uint32_t n_units;
    struct slot_tile slots;
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
        return j < slots.n ? (int)(slots.first + j) : -1;
    }
    TP_DEVICE_FIELD void finish(uint32_t unit, uint32_t j, float first, float second) const
    {
        uint32_t at = 2 * unit;
        size_t bias = (size_t)slots.expert * w.rows + at;
        float *output = a->outputs + (size_t)(slots.first + j) * w.rows + at;
        output[0] = first + tp_bias_of(a->bias, bias);
        if (at + 1 < w.rows)
            output[1] = second + tp_bias_of(a->bias, bias + 1);
    }
};

template <class WEIGHTS, int PARTS> TP_DEVICE void many_down(const struct tp_many_down *a)
{
    tp_let_next_begin();
    tp_wait_for_previous();
    struct slot_tile slots = slot_tile_of(&a->slots, blockIdx.y);
    if (slots.n == 0)
        return;
    down_task task = {a, (a->down.rows + 1) / 2, slots, tp_expert_of(&a->down, slots.expert)};
    tp_many_product<WEIGHTS, PARTS>(task, blockIdx.x * TP_MANY_UNITS, &a->inners);
}

/* ---- each for each kind of weights, and for one part or three ---- */

TP_KERNEL(tp_many_heads_1, struct tp_few_heads, TP_MANY_THREADS)
{
    many_heads<1>(a);
}
TP_KERNEL(tp_many_heads_3, struct tp_few_heads, TP_MANY_THREADS)
{
    many_heads<3>(a);
}
TP_KERNEL(tp_many_output_1, struct tp_many_output, TP_MANY_THREADS)
{
    many_output<1>(a);
}
TP_KERNEL(tp_many_output_3, struct tp_many_output, TP_MANY_THREADS)
{
    many_output<3>(a);
}

#define EXPERT_KERNEL(stage, suffix, weights, parts)                                               \
    TP_KERNEL(tp_many_##stage##_##suffix, struct tp_many_##stage, TP_MANY_THREADS)                 \
    {                                                                                              \
        many_##stage<weights, parts>(a);                                                           \
    }
#define EXPERT_KERNELS(stage)                                                                      \
    EXPERT_KERNEL(stage, bf16_1, tp_bf16_many, 1)                                                  \
    EXPERT_KERNEL(stage, bf16_3, tp_bf16_many, 3)                                                  \
    EXPERT_KERNEL(stage, mxfp4_1, tp_mxfp4_many, 1)                                                \
    EXPERT_KERNEL(stage, mxfp4_3, tp_mxfp4_many, 3)
EXPERT_KERNELS(gate_up)
EXPERT_KERNELS(down)
EXPERT_KERNEL(gate_up, wide_1, tp_wide_mxfp4_many, 1)
EXPERT_KERNEL(gate_up, wide_3, tp_wide_mxfp4_many, 3)
EXPERT_KERNEL(down, wide_3, tp_wide_mxfp4_many, 3)

template <class WEIGHTS, int PARTS> static size_t shared_bytes(void)
{
    return tp_many_layout<WEIGHTS, PARTS>::stage_bytes * tp_many_layout<WEIGHTS, PARTS>::stages;
}

extern "C" size_t tp_many_shared_bytes(enum tp_matrix_type type, uint32_t n_parts)
{
    if (type == TP_MATRIX_MXFP4)
        return n_parts == 1 ? shared_bytes<tp_mxfp4_many, 1>() : shared_bytes<tp_mxfp4_many, 3>();
    return n_parts == 1 ? shared_bytes<tp_bf16_many, 1>() : shared_bytes<tp_bf16_many, 3>();
}
