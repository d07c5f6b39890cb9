/* What the kernels are to compute, in double, and what else tests of few tokens and of many share:
 * sequences with a history, choices of experts, and the arguments of stages that both have. */
#ifndef TENSORPORT_TESTS_CUDA_KERNEL_REFERENCE_H
#define TENSORPORT_TESTS_CUDA_KERNEL_REFERENCE_H

#include "tests/cuda/kernel_test.h"

/* ---- experts ---- */

/* Of gpt_oss: gate from above, up from both sides. */
double swiglu(double gate, double up, double alpha, double limit);
double silu_product(double gate, double up);

/* Of a token: what was chosen is what its logits say, in that order, with a softmax's weights. */
void expect_choice(const float *logits, size_t n_experts, size_t k, const uint32_t *chosen,
                   const float *weights, size_t token);

/* ---- caches ---- */

/* Of a layer that others come before. */
struct cache_shape {
    size_t n_kv, size, context, ring; /* capacities of sequences, and of rings */
    bool is_ring, bf16;
};

struct tp_gpu_cache cache_of(const struct cache_shape *shape,
                             const struct tp_gpu_sequence *sequences, size_t n);

/* Numbers of a sequence's memory, up to the layer's end; where number i of a key (part 0) or value
 * (1) is among them. Those below cache_place(shape, 0, 0, 0, 0) are other layers'. */
size_t cache_size(const struct cache_shape *shape);
size_t cache_place(const struct cache_shape *shape, size_t part, size_t head, size_t position,
                   size_t i);
float cache_number(const struct cache_shape *shape, const void *memory, size_t at);

/* A sequence's numbers as they are meant: [positions][KV heads][size]. */
struct history {
    float *keys, *values;
};
struct history make_history(const struct cache_shape *shape, size_t n);

/* Its memory on the device, as after storing positions up to `last` one after the other; NaN where
 * nothing is. */
struct tp_gpu_sequence store_history(const struct cache_shape *shape, const struct history *history,
                                     size_t last);

/* ---- attention ---- */

/* mixed[size] of a query head at a position that sees `window` keys (0: all). */
void expected_attention(const struct cache_shape *shape, const struct history *history,
                        size_t window, size_t position, size_t kv_head, const float *query,
                        const float *sink, double scale, double *ret_mixed);

/* ---- queries, keys and values ---- */

struct heads_case {
    enum tp_matrix_type type;
    struct cache_shape cache;
    size_t n_heads, hidden, n, n_sequences; /* n: tokens, of at most `context` positions */
    uint32_t n_parts;
};

/* The arguments of a launch for all units, and what belongs to them on the host. Positions descend
 * from the context's last one; neighbours share a sequence. */
struct heads {
    struct tp_few_heads arguments; /* squares are the caller's */
    struct weights q, k, v;
    const float *biases[3], *x, *cosines, *sines;
    const uint32_t *positions, *sequence_of;
    const struct tp_gpu_sequence *sequences;
};
struct heads make_heads(const struct heads_case *c);

/* Queries, keys and values are those of x times the norm's scales [n]. */
void expect_heads(const struct heads_case *c, const struct heads *heads, const double *scales);

#endif
