/* A layer that is a mixture of experts, as GPT-OSS has it: each token goes through the few experts
 * that the router likes best, and their outputs are added, weighted. */
#ifndef TENSORPORT_INFER_CPU_MIXTURE_H
#define TENSORPORT_INFER_CPU_MIXTURE_H

#include <stddef.h>
#include <stdint.h>

#include "infer/cpu/workspace.h"
#include "infer/model/model.h"

struct tp_mixture_shape {
    size_t n_experts, n_per_token; /* E, K */
    size_t hidden, inner;          /* H, I */
};

/* The experts of a layer. */
struct tp_experts {
    struct tp_matrices gate_up, down; /* E of [2 I, H], gate in even rows; E of [H, I] */
    const float *gate_up_bias;        /* [E][2 I], or NULL */
    const float *down_bias;           /* [E][H], or NULL */
    float alpha, limit;               /* of SwiGLU: see kernels.h */
};

/* Memory for up to T tokens. A slot is a token at one of its experts; slots lie by expert. */
struct tp_mixture {
    struct tp_mixture_shape shape;
    size_t n_tokens;             /* T */
    float *logits;               /* [T][E] */
    uint32_t *chosen;            /* [T][K]; E: none */
    float *weights;              /* [T][K] */
    uint32_t *slots;             /* [T][K]: where a token's experts have put their results */
    uint32_t *tokens;            /* [T * K]: the token of each slot */
    size_t *first;               /* [E + 2]: slots of each expert, and of none */
    float *gate_up;              /* [T * K][2 I] */
    float *inner;                /* [T * K][I] */
    float *outputs;              /* [T * K][H] */
    float *choices;              /* [T][K]: the chosen, as float, for a trace */
    struct tp_product *products; /* [E] */
};

/* All NULL without experts. -ENOMEM. */
int tp_mixture_init(const struct tp_mixture_shape *shape, size_t n_tokens,
                    struct tp_mixture *ret_mixture);
void tp_mixture_fini(struct tp_mixture *mixture);

/* y[rows][H] of x[rows][H], rows up to T, through the experts that `chosen` and `weights` hold.
 * Where none is chosen nothing is added. -ENOMEM. */
int tp_mixture_apply(struct tp_mixture *mixture, struct tp_workspace *workspace,
                     const struct tp_experts *experts, enum tp_activations activations,
                     const float *x, size_t rows, float *y);

/* The same through those that the layer's router chooses. -ENOMEM. */
int tp_mixture_compute(struct tp_mixture *mixture, struct tp_workspace *workspace,
                       const struct tp_model_config *config, const struct tp_model_layer *layer,
                       enum tp_activations activations, const float *x, size_t rows, float *y);

/* [rows][K]: which experts the last call chose, as numbers. */
const float *tp_mixture_choices(struct tp_mixture *mixture, size_t rows);

#endif
