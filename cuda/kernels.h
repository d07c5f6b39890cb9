/* The kernels and what they are given: C for the host side, C++ for the device.
 *
 * Shapes: T tokens in the step, H hidden, Q = heads * head size, KV likewise, I inner size, E
 * experts, K experts a token, V vocabulary. All pointers are the device's.
 *
 * Two sets of kernels compute the same. With few tokens, up to TP_FEW, time goes into reading
 * weights and into waiting between kernels: five fused stages a layer, in which a block takes tiles
 * of 16 rows of a matrix. With many, time goes into tensor cores: tokens sorted by expert, tiles of
 * tokens, and small kernels between the products.
 *
 * A norm is split between its neighbours: whoever makes the residual stream x stores x * weight as
 * the next product's columns, and sums of squares of x; whoever multiplies scales its results by
 * 1 / sqrt(mean of squares + epsilon). So no stage has to wait for a whole row. */
#ifndef TENSORPORT_CUDA_KERNELS_H
#define TENSORPORT_CUDA_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infer/model/sampling.h"
#include "infer/weights/matrix.h"

#ifdef __cplusplus
extern "C" {
#define TP_DECLARE_KERNEL(name) /* TP_KERNEL() declares it */
#else
#define TP_DECLARE_KERNEL(name) void name(void)
#endif

enum {
    TP_FEW = 8, /* tokens of a step, or columns of a tensor core's tile */
    TP_TILE_ROWS = 16,
    TP_TILE_UNITS = 8, /* pairs of rows that belong together: gate and up, two halves of a head */
    TP_FEW_THREADS = 256,
    TP_ATTEND_THREADS = 128,
    TP_ROW_THREADS = 256, /* of kernels with a block for each token */
    TP_PEAK_THREADS = 256,
    TP_PEAK_CHAINS = 8,
    TP_GPU_KEY_SPLIT = 128, /* positions that a block attends to, counted from position 0 */
    TP_PARTS_MAX = 3,
    TP_MANY_ROWS = 128, /* of a block's tile in a step of many tokens */
    TP_MANY_VECTORS = 64,
    TP_MANY_THREADS = 256,
    TP_SORT_THREADS = 1024,
    TP_MANY_ATTEND_THREADS = 256,
    TP_MANY_KEYS = 64, /* that a block has in shared memory at a time */
    TP_NO_SLOT = 0xffff,
    TP_CHOOSE_THREADS = 256,
    TP_CHOICE_SLICES = 256, /* of a vocabulary, at most: blocks that look through it */
    TP_CHOICE_BINS = 2048,
    TP_SCALE_MAX = 128, /* of MXFP4 on tensor cores: 2 */
};

/* A weight matrix. `has_large_scales`, MXFP4 only: one is above TP_SCALE_MAX, and no NaN. Up to
 * there the power that an unpacked nibble lacks, 126, fits a BF16's exponent together with its
 * scale; such a matrix is nothing for tensor cores. */
struct tp_gpu_matrix {
    const void *values;
    const uint8_t *scales;
    enum tp_matrix_type type;
    uint32_t rows, columns;
    bool has_large_scales;
};

/* Vectors that products multiply with: each the sum of its parts in BF16, of one (rounded) or of
 * three (2^-24 from exact). For MXFP4 weights the order within 8 columns is 0 4 1 5 2 6 3 7: that
 * in which a shift and two masks unpack nibbles. */
struct tp_columns {
    uint16_t *parts;       /* [n][n_parts][stride]; zeros from `size` on */
    uint32_t n_parts;      /* 1 or 3 */
    uint32_t size, stride; /* stride: a multiple of 128 */
    bool shuffled;
};

/* Sums of squares of the vectors, before they were multiplied by the norm's weight. */
struct tp_squares {
    float *sums; /* [n_sums][TP_FEW], or [1][T] in a step of many; there NULL: without a norm */
    uint32_t n_sums;
    uint32_t size; /* of the vectors */
    float epsilon;
};

/* A sequence's cache: layer after layer, keys [KV heads][capacity][head size] and values alike.
 * Position p lies at p % capacity: the sequence's, or of a layer with a window that of a ring, if
 * it is smaller. */
struct tp_gpu_sequence {
    uint8_t *memory;
    uint32_t capacity;
};

/* One layer of all of them. */
struct tp_gpu_cache {
    const struct tp_gpu_sequence *sequences;
    uint32_t n_heads, head_size;
    uint32_t ring_capacity;              /* of layers with a window */
    uint32_t rings_before, whole_before; /* layers of either kind before this one */
    bool is_ring, bf16;
    /* Or, in the place of sequences, arrays [sequences][capacity][KV heads][head size] that are
     * somebody else's. */
    const uint8_t *keys, *values;
    uint32_t capacity;
};

/* Where the tokens of a step stand. */
struct tp_places {
    const uint32_t *positions, *sequences; /* [T] each; the latter into tp_gpu_cache.sequences */
};

/* What each token of a step of few has chosen; made by the last block of tp_few_output. */
struct tp_routing {
    float *scales;    /* [TP_FEW]: 1 / root of the mean of squares of what the experts are given */
    float *weights;   /* [TP_FEW][K] */
    uint32_t *chosen; /* [TP_FEW][K], of a layer */
    uint32_t *n_active;
    uint32_t *active; /* [TP_FEW * K]: experts that anybody chose, ascending */
    uint16_t *slots;  /* [TP_FEW * K][TP_FEW]: at the i-th active expert a token's k, or NO_SLOT */
    uint32_t n_experts, n_per_token;
};

/* ---- a step of few tokens ---- */

/* x = embedding[token], and the first layer's columns. Block: a token. */
struct tp_few_embed {
    struct tp_gpu_matrix embedding; /* [V][H]; not MXFP4 */
    const uint32_t *tokens;         /* [T] */
    const float *weight;            /* [H]: the first norm's */
    float *x;                       /* [T][H] */
    struct tp_columns columns;      /* [T] of H */
    struct tp_squares squares;      /* one sum */
};
TP_DECLARE_KERNEL(tp_few_embed);

/* Queries, keys and values, turned to their positions; keys and values go to the cache. The three
 * matrices are of one type: units first_unit.. are pairs of rows i and i + head size / 2 of the
 * heads of q, k and v, in this order. */
struct tp_few_heads {
    struct tp_gpu_matrix q, k, v;
    const float *q_bias, *k_bias, *v_bias; /* or NULL */
    struct tp_columns columns;
    struct tp_squares squares;
    uint32_t n_tokens, n_heads, first_unit, n_units;
    const float *cosines, *sines; /* [T][head size / 2] */
    struct tp_places places;
    struct tp_gpu_cache cache;
    float *queries; /* [T][Q] */
};

/* Attention, and the columns that o multiplies with. Block: a token, KV head and split; the last
 * of a token's and head's joins the splits. */
struct tp_attend {
    struct tp_places places;
    struct tp_gpu_cache cache;
    uint32_t n_heads, window;  /* keys that a position sees, itself included; 0: all */
    float scale;               /* of scores */
    const float *sinks;        /* [heads] or NULL */
    const float *queries;      /* [T][Q] */
    uint32_t n_splits;         /* that a token has at most */
    float *mixed;              /* [T][KV heads][n_splits][group][head size] */
    float *sums;               /* [T][KV heads][n_splits][group][2]: largest score, sum */
    uint32_t *arrived;         /* [T][KV heads]: zeros, before and after */
    struct tp_columns columns; /* [T] of Q */
};
TP_DECLARE_KERNEL(tp_attend);

/* x += o mixed + bias, the columns of the experts or of the dense layer; and the router, in the
 * last block. */
struct tp_few_output {
    struct tp_gpu_matrix o;
    const float *bias; /* [H] or NULL */
    struct tp_columns mixed;
    uint32_t n_tokens;
    float *x;            /* [T][H] */
    const float *weight; /* [H]: the norm's */
    struct tp_columns columns;
    struct tp_squares squares;   /* n_sums: tiles of 16 rows */
    struct tp_gpu_matrix router; /* [E][H]; no values in a dense model */
    const float *router_bias;    /* [E] */
    float *router_sums;          /* [tiles][TP_FEW][E] */
    float *router_logits;        /* [TP_FEW][E] */
    struct tp_routing routing;   /* of a dense model: one expert, with weight 1 */
    uint32_t *arrived;           /* 0, before and after */
};

/* The inner vectors of the chosen experts: clamped SwiGLU of rows 2 i and 2 i + 1 of gate_up, or of
 * a dense layer silu(gate) * up. */
struct tp_few_gate_up {
    struct tp_gpu_matrix gate_up;     /* [E][2 I][H]: the first expert's */
    struct tp_gpu_matrix gate, up;    /* dense, where gate_up has no values: [I][H] */
    const float *bias;                /* [E][2 I] or NULL */
    const float *gate_bias, *up_bias; /* [I] or NULL */
    struct tp_columns columns;        /* [T] */
    struct tp_routing routing;
    uint32_t n_tokens, inner;
    float alpha, limit;
    struct tp_columns inners; /* [T * K] of I */
};

/* x += sum of weight * (down inner + bias) over a token's experts, in its order; and the columns of
 * the next layer or of the head. */
struct tp_few_down {
    struct tp_gpu_matrix down; /* [E][H][I]: the first expert's */
    const float *bias;         /* [E][H] or NULL */
    struct tp_columns inners;
    struct tp_routing routing;
    uint32_t n_tokens;
    float *outputs;    /* [T * K][H] */
    uint32_t *arrived; /* [tiles]: zeros, before and after */
    float *x;
    const float *weight; /* [H]: the next norm's */
    struct tp_columns columns;
    struct tp_squares squares; /* n_sums: tiles */
};

/* logits[N][V] of the tokens `rows`. */
struct tp_few_head {
    struct tp_gpu_matrix head; /* [V][H] */
    struct tp_columns columns; /* [T] */
    struct tp_squares squares;
    const uint32_t *rows; /* [n_rows]: tokens, at most TP_FEW; NULL: the first ones */
    uint32_t n_tokens, n_rows;
    float *logits;
};

/* Each for weights in BF16 on tensor cores, with one group of 8 columns (parts of two tokens, or
 * one part of eight) or with three (a part each), and for any type without them. Experts may be
 * MXFP4; `wide` is MXFP4 with scales that may be large, whatever has_large_scales says. */
#define TP_FEW_KERNELS(stage)                                                                      \
    TP_DECLARE_KERNEL(tp_few_##stage##_bf16_1);                                                    \
    TP_DECLARE_KERNEL(tp_few_##stage##_bf16_3);                                                    \
    TP_DECLARE_KERNEL(tp_few_##stage##_any)
#define TP_FEW_EXPERT_KERNELS(stage)                                                               \
    TP_FEW_KERNELS(stage);                                                                         \
    TP_DECLARE_KERNEL(tp_few_##stage##_mxfp4_1);                                                   \
    TP_DECLARE_KERNEL(tp_few_##stage##_mxfp4_3);                                                   \
    TP_DECLARE_KERNEL(tp_few_##stage##_wide_1);                                                    \
    TP_DECLARE_KERNEL(tp_few_##stage##_wide_3)
TP_FEW_KERNELS(heads);
TP_FEW_KERNELS(output);
TP_FEW_EXPERT_KERNELS(gate_up);
TP_FEW_EXPERT_KERNELS(down);
TP_FEW_KERNELS(head);

/* ---- a step of many tokens ---- */

/* Slots: a token at one of its experts, sorted by expert, then by token. A dense layer is one
 * expert that all tokens have. */
struct tp_slots {
    uint32_t *first;    /* [E + 1]: each expert's first slot; the last one: how many there are */
    uint32_t *tokens;   /* [T * K]: of each slot */
    uint32_t *of_token; /* [T][K]: slots */
    uint32_t *chosen;   /* [T][K]: experts, of a layer */
    float *weights;     /* [T][K] */
    uint32_t n_experts, n_per_token;
};

/* x += the experts' outputs, unless there are none; then the columns and squares of a norm. Block:
 * a token; with `rows` block i has token rows[i], and all results are at place i. */
struct tp_many_norm {
    float *x;             /* [T][H] */
    const float *outputs; /* [T * K][H] by slot, or NULL */
    struct tp_slots slots;
    const uint32_t *rows; /* or NULL */
    const float *weight;  /* [H] */
    struct tp_columns columns;
    struct tp_squares squares; /* one sum */
};
TP_DECLARE_KERNEL(tp_many_norm);

/* The arguments of tp_few_heads, without first_unit: all units of all three matrices. Grid: tiles
 * of units, tiles of tokens. */
TP_DECLARE_KERNEL(tp_many_heads_1); /* columns of one part */
TP_DECLARE_KERNEL(tp_many_heads_3);

/* Tokens `first`.. of one sequence, which a block attends with. */
struct tp_query_tile {
    uint32_t first, n;
};

/* Attention, and the columns that o multiplies with. Block: a tile of tokens, whose positions may
 * have any order, a KV head. Keys go through shared memory in pieces counted from position 0. */
struct tp_many_attend {
    struct tp_places places;
    struct tp_gpu_cache cache;
    const struct tp_query_tile *tiles;
    uint32_t n_heads, window;
    float scale;
    const float *sinks;
    const float *queries; /* [T][Q] */
    struct tp_columns columns;
    uint32_t tile_max; /* tokens of a tile, at most */
};
TP_DECLARE_KERNEL(tp_many_attend);

/* x += o mixed + bias. Grid as above. */
struct tp_many_output {
    struct tp_gpu_matrix o;
    const float *bias;
    struct tp_columns mixed;
    uint32_t n_tokens;
    float *x;
};
TP_DECLARE_KERNEL(tp_many_output_1);
TP_DECLARE_KERNEL(tp_many_output_3);

/* Router logits, and what each token chooses. Block: a token. */
struct tp_many_route {
    const float *x;
    const float *weight; /* the norm's */
    struct tp_squares squares;
    struct tp_gpu_matrix router;
    const float *bias;
    float *logits; /* [T][E] */
    struct tp_slots slots;
};
TP_DECLARE_KERNEL(tp_many_route);

/* Slots of what was chosen; without a router everybody is with expert 0. One block. */
struct tp_many_sort {
    struct tp_slots slots;
    uint32_t n_tokens;
    bool is_dense;
};
TP_DECLARE_KERNEL(tp_many_sort);

/* Grid: tiles of units; tiles of slots of all experts: at most T * K / 64 and one more for each. */
struct tp_many_gate_up {
    struct tp_gpu_matrix gate_up, gate, up; /* as in tp_few_gate_up */
    const float *bias, *gate_bias, *up_bias;
    struct tp_columns columns; /* [T] */
    struct tp_squares squares;
    struct tp_slots slots;
    uint32_t inner;
    float alpha, limit;
    struct tp_columns inners; /* [T * K] by slot */
};
struct tp_many_down {
    struct tp_gpu_matrix down;
    const float *bias;
    struct tp_columns inners;
    struct tp_slots slots;
    float *outputs; /* [T * K][H] by slot */
};
#define TP_MANY_EXPERT_KERNELS(stage)                                                              \
    TP_DECLARE_KERNEL(tp_many_##stage##_bf16_1);                                                   \
    TP_DECLARE_KERNEL(tp_many_##stage##_bf16_3);                                                   \
    TP_DECLARE_KERNEL(tp_many_##stage##_mxfp4_1);                                                  \
    TP_DECLARE_KERNEL(tp_many_##stage##_mxfp4_3)
TP_MANY_EXPERT_KERNELS(gate_up);
TP_MANY_EXPERT_KERNELS(down);
TP_DECLARE_KERNEL(tp_many_gate_up_wide_1);
TP_DECLARE_KERNEL(tp_many_gate_up_wide_3);
TP_DECLARE_KERNEL(tp_many_down_wide_3);

/* Bytes of shared memory: of products, of tp_many_attend with tiles of so many tokens. */
size_t tp_many_shared_bytes(enum tp_matrix_type type, uint32_t n_parts);
size_t tp_many_attend_shared_bytes(uint32_t tile_max, uint32_t group, uint32_t head_size);
/* ---- choosing the next tokens, as infer/model/sampling.h says ---- */

/* The same for all texts; in the device's memory, so that what was recorded can be used again. */
struct tp_choice_terms {
    double temperature, penalty, top_p;
    uint64_t least_mass; /* of min-p */
    uint32_t top_k;
    uint8_t *seen; /* [texts][V]; NULL without a penalty */
};

struct tp_likeliest {
    float logit;
    uint32_t token;
};

/* A choice in progress. A question is about the first key, in the order of likelihood, at which
 * tokens or masses reach what is wanted. */
struct tp_choice {
    float largest;
    bool is_done;
    uint32_t key, rank;           /* the digits found; of the tokens with that key, which */
    uint64_t wanted, mass_before; /* less, and more, by what the keys before it have */
    uint64_t mass;                /* of a token with that key */
    uint64_t kept, likely;        /* the sum that is left; that of the masses min-p allows */
};

enum tp_question { TP_CUT_TO_K, TP_CUT_TO_P, TP_DRAW };

/* Grid: slices of the vocabulary, texts, at most TP_FEW. In this order: tp_choose_largest, which is
 * all if no draws follow; tp_choose_count at level 0; for each question, the draw the last,
 * tp_choose_count at levels 1 and 2; tp_choose_token. */
struct tp_choose {
    float *logits; /* [texts][V]; the penalty changes them */
    uint32_t vocabulary, first_text;
    const struct tp_choice_terms *terms;
    const uint64_t *draws;          /* [texts] */
    struct tp_choice *choices;      /* [texts] */
    struct tp_likeliest *of_slices; /* [texts][TP_CHOICE_SLICES] */
    uint32_t *counts;               /* [texts][2][TP_CHOICE_BINS]: zeros, before and after */
    uint64_t *masses;               /* alike */
    uint64_t *likely;               /* [texts]: zeros, before and after */
    uint32_t *matches;              /* [texts][TP_CHOICE_SLICES] */
    uint32_t *arrived;              /* [texts]: zeros, before and after */
    uint32_t *chosen;               /* [texts] */
    bool draws_follow;
    uint32_t level;
    enum tp_question question, next; /* from level 1 on; after level 0 or 2 */
};
TP_DECLARE_KERNEL(tp_choose_largest);
TP_DECLARE_KERNEL(tp_choose_count);
TP_DECLARE_KERNEL(tp_choose_token);

/* Bytes of shared memory, of each. */
size_t tp_choose_shared_bytes(void);

/* ---- arrays that are somebody else's: what infer/jax/handlers.h asks for ---- */

/* In float32 or BF16. */
struct tp_numbers {
    void *data;
    bool bf16;
};

/* x as columns, exactly: one part where they are BF16, three otherwise. Block: a vector. */
struct tp_array_columns {
    struct tp_numbers x; /* [n][size] */
    struct tp_columns columns;
};
TP_DECLARE_KERNEL(tp_array_columns);

/* target = source, rounded to nearest even. Any grid in x. */
struct tp_array_convert {
    struct tp_numbers source, target;
    uint64_t n;
};
TP_DECLARE_KERNEL(tp_array_convert);

/* y = x w^T + bias, for each of some matrices. Grid: tiles of rows, tiles of vectors (TP_FEW of
 * them, or TP_MANY_VECTORS), matrices. Of few, tiles of rows may be fewer than there are; the
 * variants are those above. Shared memory as tp_few_shared_bytes() and tp_many_shared_bytes(). */
struct tp_array_product {
    struct tp_gpu_matrix w;    /* the first */
    struct tp_numbers bias;    /* [matrices][rows]; no data: none */
    struct tp_columns columns; /* [matrices][n] */
    uint32_t n;
    struct tp_numbers y; /* [matrices][n][rows] */
};
TP_FEW_KERNELS(product);
TP_DECLARE_KERNEL(tp_few_product_wide_1);
TP_DECLARE_KERNEL(tp_few_product_wide_3);
TP_DECLARE_KERNEL(tp_many_product_bf16_1);
TP_DECLARE_KERNEL(tp_many_product_bf16_3);
TP_DECLARE_KERNEL(tp_many_product_wide_1);
TP_DECLARE_KERNEL(tp_many_product_wide_3);

/* A token's experts and their weights, as somebody chose them. An expert outside 0 .. E - 1 adds
 * nothing. */
struct tp_array_choice {
    const int32_t *chosen; /* [T][K] */
    const float *weights;  /* [T][K] */
    uint32_t n_tokens;
};

/* What tp_few_gate_up and tp_few_down need of it. An expert that a token has twice has both weights
 * the first time. Grid: 1 + T * K + T blocks. */
struct tp_array_route {
    struct tp_array_choice choice;
    struct tp_routing routing;
    uint32_t hidden;
    float *outputs;    /* [T * K][H]: zeros where nothing is chosen */
    float *x;          /* [T][H]: zeros */
    uint32_t *arrived; /* [n_arrived]: zeros */
    uint32_t n_arrived;
    struct tp_columns inners; /* [T * K]: zeros behind their size */
};
TP_DECLARE_KERNEL(tp_array_route);

/* What tp_many_sort needs of it: none is expert E, which gets no slot. Any grid in x. */
struct tp_array_choose {
    struct tp_array_choice choice;
    struct tp_slots slots;    /* n_experts, n_per_token, chosen */
    struct tp_columns inners; /* as above */
};
TP_DECLARE_KERNEL(tp_array_choose);

/* y = the sum of weight * output over a token's experts, in its order. Block: a token. */
struct tp_array_mix {
    const float *outputs; /* [T * K][H] by slot */
    const float *weights; /* [T][K] */
    struct tp_slots slots;
    struct tp_numbers y; /* [T][H] */
    uint32_t hidden;
};
TP_DECLARE_KERNEL(tp_array_mix);

/* Where queries stand, as somebody says: [n] of them, number `first` and the following of all
 * sequences', which have n_queries each. Outside the cache they stand at 0, and tp_array_mixed puts
 * zeros there. Any grid in x. */
struct tp_array_places {
    const int32_t *positions; /* of all */
    uint32_t first, n, n_queries, capacity;
    uint32_t *places, *sequences; /* [n] each */
    struct tp_query_tile *tiles;  /* of whole sequences: up to tile_max queries each; or NULL */
    uint32_t tile_max;
    uint32_t *arrived; /* [n_arrived]: zeros */
    uint32_t n_arrived;
};
TP_DECLARE_KERNEL(tp_array_places);

/* y = the columns that attention leaves. Block: a query. */
struct tp_array_mixed {
    const int32_t *positions; /* [n] */
    uint32_t capacity;
    struct tp_columns columns; /* [n] of Q */
    struct tp_numbers y;       /* [n][Q] */
};
TP_DECLARE_KERNEL(tp_array_mixed);

/* Blocks and scales of values, and back: decode/mxfp4_encode.h and decode/codec.h. Any grid in x.
 */
enum tp_array_type { TP_ARRAY_F32, TP_ARRAY_F16, TP_ARRAY_BF16 };
struct tp_array_blocks {
    void *values; /* [n][32] */
    enum tp_array_type type;
    uint8_t *blocks, *scales; /* [n][16], [n] */
    uint64_t n;
};
TP_DECLARE_KERNEL(tp_array_quantize);
TP_DECLARE_KERNEL(tp_array_dequantize);

/* ---- what the device can do at most ---- */

/* target = source, aligned to 16 like `bytes`. */
struct tp_peak_copy {
    const void *source;
    void *target;
    uint64_t bytes;
};
TP_DECLARE_KERNEL(tp_peak_copy);

/* Each warp multiplies TP_PEAK_CHAINS tiles so many times: 16 x 8 x 16 multiply-adds each. */
struct tp_peak_multiply {
    uint32_t steps;
    float *sums; /* [blocks * TP_PEAK_THREADS]: a sum of each thread */
};
TP_DECLARE_KERNEL(tp_peak_multiply);

/* Bytes of shared memory: of tp_attend, of the stages of few tokens. */
size_t tp_attend_shared_bytes(uint32_t group, uint32_t head_size);
size_t tp_few_shared_bytes(uint32_t n_groups, uint32_t n_tokens, uint32_t n_experts);

#ifdef __cplusplus
}
#endif

#endif
