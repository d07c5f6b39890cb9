/* A layer that is a mixture of experts, as GPT-OSS has it: each token goes through the few experts
 * that the router likes best, and their outputs are added, weighted. */
#ifndef TENSORPORT_INFER_CPU_MIXTURE_H
#define TENSORPORT_INFER_CPU_MIXTURE_H

#include <stddef.h>
#include <stdint.h>

#include "infer/cpu/workspace.h"
#include "infer/model/model.h"

/* Memory for up to T tokens. A slot is a token at one of its experts; slots lie by expert. */
struct tp_mixture {
    size_t n_per_token;          /* K */
    float *logits;               /* [T][experts] */
    uint32_t *chosen;            /* [T][K] */
    float *weights;              /* [T][K] */
    uint32_t *slots;             /* [T][K]: where a token's experts have put their results */
    uint32_t *tokens;            /* [T * K]: the token of each slot */
    size_t *first;               /* [experts + 1]: slots of each expert */
    float *gate_up;              /* [T * K][2 I] */
    float *inner;                /* [T * K][I] */
    float *outputs;              /* [T * K][H] */
    float *choices;              /* [T][K]: the chosen, as float, for a trace */
    struct tp_product *products; /* [experts] */
};

/* All NULL for a dense model. -ENOMEM. */
int tp_mixture_init(const struct tp_model_config *config, size_t n_tokens,
                    struct tp_mixture *ret_mixture);
void tp_mixture_fini(struct tp_mixture *mixture);

/* y[rows][H] of x[rows][H]. -ENOMEM. */
int tp_mixture_compute(struct tp_mixture *mixture, struct tp_workspace *workspace,
                       const struct tp_model_config *config, const struct tp_model_layer *layer,
                       enum tp_activations activations, const float *x, size_t rows, float *y);

/* [rows][K]: which experts the last call chose, as numbers. */
const float *tp_mixture_choices(struct tp_mixture *mixture, size_t rows);

#endif
