/* A model, whole: its configuration, and every weight under the name that the papers give it.
 *
 *     x = embedding[token]
 *     for each layer:
 *         x += o · attention(q · norm(x), k · norm(x), v · norm(x))
 *         x += experts(norm(x))  or  down · (silu(gate · norm(x)) * (up · norm(x)))
 *     logits = head · norm(x)
 *
 * Matrices stay where the view has them, in the type that they have there; each may be float32,
 * float16, bfloat16 or MXFP4, in which case NAME_blocks and NAME_scales stand for NAME. What is
 * small (norms, biases, sinks) becomes float32 here.
 *
 * Orientation of experts: the published checkpoints, and so our views, have [expert, out, in]; what
 * transformers saves without MXFP4 has [expert, in, out]. The shapes tell, for gate_up_proj's two
 * dimensions and down_proj's cannot both be equal, and both tensors have one writer. The second
 * kind is copied at load with the dimensions exchanged: the kernels know one orientation only.
 */
#ifndef TENSORPORT_INFER_MODEL_MODEL_H
#define TENSORPORT_INFER_MODEL_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/model/config.h"
#include "infer/model/rope.h"
#include "infer/weights/matrix.h"
#include "infer/weights/view.h"

/* Sizes: hidden, heads * head_dim (query), kv = n_kv_heads * head_dim, inner = intermediate_size.
 * A vector is NULL where the model has none; so are the values of a matrix. */
struct tp_model_layer {
    const float *input_norm;                        /* [hidden] */
    struct tp_matrix q, k, v, o;                    /* [query, hidden], [kv, hidden] twice,
                                                       [hidden, query] */
    const float *q_bias, *k_bias, *v_bias, *o_bias; /* [query], [kv], [kv], [hidden] */
    const float *sinks;                             /* [heads]: gpt_oss */
    const float *mlp_norm;                          /* [hidden]: post_attention_layernorm */

    /* A mixture of experts: gpt_oss. Row 2 i of gate_up is gate i, row 2 i + 1 is up i. */
    struct tp_matrix router;                          /* [experts, hidden] */
    const float *router_bias;                         /* [experts] */
    struct tp_matrices experts_gate_up, experts_down; /* [2 inner, hidden], [hidden, inner] each */
    const float *experts_gate_up_bias;                /* [experts][2 inner] */
    const float *experts_down_bias;                   /* [experts][hidden] */

    /* A dense model: llama, mistral. */
    struct tp_matrix gate, up, down;              /* [inner, hidden] twice, [hidden, inner] */
    const float *gate_bias, *up_bias, *down_bias; /* [inner], [inner], [hidden] */
};

struct tp_model {
    struct tp_model_config config;
    struct tp_rope rope;
    struct tp_matrix embedding;     /* [vocab, hidden] */
    struct tp_model_layer *layers;  /* [config.n_layers] */
    const float *final_norm;        /* [hidden] */
    struct tp_matrix head;          /* [vocab, hidden]; the embedding when tied */
    uint64_t private_bytes;         /* memory that the model has of its own, beside the view's */
    struct tp_model_memory *memory; /* private: that memory */
};

/* Reads config.json and generation_config.json and binds every tensor. A tensor that is missing,
 * not expected, or of another shape or type than expected is an error that lists them. `view` must
 * outlive the model, and be loaded before. `n_workers` threads copy what has to be copied. */
int tp_model_open(const struct tp_weights_view *view, size_t n_workers, struct tp_model **ret_model,
                  struct tp_error *error);
void tp_model_close(struct tp_model *model);

#endif
