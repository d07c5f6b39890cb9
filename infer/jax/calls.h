/* What each handler is called with, checked: the same for every kind of device. */
#ifndef TENSORPORT_INFER_JAX_CALLS_H
#define TENSORPORT_INFER_JAX_CALLS_H

#include <stdbool.h>

#include "infer/jax/frame.h"
#include "infer/weights/matrix.h"

/* Every function returns 0, or -EINVAL with a message when types, shapes or attributes are not what
 * handlers.h says. Buffers may be empty, and point nowhere then. */

/* y[b][vectors][rows] = x[b][vectors][columns] W[b]^T + bias[b]. Each of the last four numbers, and
 * products of those that a buffer has as its shape, fit a size_t. */
struct tp_products_call {
    struct tp_buffer x, y, bias;
    bool has_bias;
    struct tp_matrix w; /* the first */
    size_t n_batches, n_vectors;
};
int tp_open_mxfp4_matmul(const struct tp_frame *frame, struct tp_products_call *ret_call,
                         struct tp_error *error);
int tp_open_dense_matmul(const struct tp_frame *frame, struct tp_products_call *ret_call,
                         struct tp_error *error);

struct tp_experts_call {
    struct tp_buffer x, y, chosen, weights;
    struct tp_buffer gate_up, gate_up_scales, down, down_scales;
    struct tp_buffer gate_up_bias, down_bias;
    bool has_bias; /* both */
    size_t n_tokens, n_experts, n_per_token, hidden, inner;
    float alpha, limit;
};
int tp_open_mxfp4_moe(const struct tp_frame *frame, struct tp_experts_call *ret_call,
                      struct tp_error *error);

/* Without tokens, columns, experts or choices there is nothing to add. */
bool tp_experts_call_is_empty(const struct tp_experts_call *call);

struct tp_attention_call {
    struct tp_buffer q, keys, values, positions, sinks, y;
    bool has_sinks;
    size_t n_batches, n_queries, n_heads, head_size; /* of a batch */
    size_t capacity, n_kv_heads;
    size_t window; /* 0: none */
    float scale;
};
int tp_open_sink_attention(const struct tp_frame *frame, struct tp_attention_call *ret_call,
                           struct tp_error *error);

/* Between values and blocks with scales, whichever are the results. */
struct tp_conversion_call {
    struct tp_buffer values, blocks, scales;
};
int tp_open_mxfp4_quantize(const struct tp_frame *frame, struct tp_conversion_call *ret_call,
                           struct tp_error *error);
int tp_open_mxfp4_dequantize(const struct tp_frame *frame, struct tp_conversion_call *ret_call,
                             struct tp_error *error);

#endif
