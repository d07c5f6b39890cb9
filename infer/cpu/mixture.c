#include "infer/cpu/mixture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "infer/cpu/layers.h"
#include "infer/cpu/multiply.h"

int tp_mixture_init(const struct tp_mixture_shape *shape, size_t n_tokens,
                    struct tp_mixture *ret_mixture)
{
    size_t k = shape->n_per_token, n_experts = shape->n_experts, inner = shape->inner, n_slots;
    *ret_mixture = (struct tp_mixture){.shape = *shape};
    if (n_experts == 0)
        return 0;
    if (__builtin_mul_overflow(n_tokens, k, &n_slots))
        return -ENOMEM;
    struct tp_mixture mixture = {
        .shape = *shape,
        .n_tokens = n_tokens,
        .logits = calloc(n_tokens, n_experts * sizeof(float)),
        .chosen = calloc(n_slots, sizeof(uint32_t)),
        .weights = calloc(n_slots, sizeof(float)),
        .slots = calloc(n_slots, sizeof(uint32_t)),
        .tokens = calloc(n_slots, sizeof(uint32_t)),
        .first = calloc(n_experts + 2, sizeof(size_t)),
        .gate_up = calloc(n_slots, 2 * inner * sizeof(float)),
        .inner = calloc(n_slots, inner * sizeof(float)),
        .outputs = calloc(n_slots, shape->hidden * sizeof(float)),
        .choices = calloc(n_slots, sizeof(float)),
        .products = calloc(n_experts, sizeof(struct tp_product)),
    };
    *ret_mixture = mixture;
    bool whole = mixture.logits != NULL && mixture.chosen != NULL && mixture.weights != NULL &&
                 mixture.slots != NULL && mixture.tokens != NULL && mixture.first != NULL &&
                 mixture.gate_up != NULL && mixture.inner != NULL && mixture.outputs != NULL &&
                 mixture.choices != NULL && mixture.products != NULL;
    return whole ? 0 : -ENOMEM;
}

void tp_mixture_fini(struct tp_mixture *mixture)
{
    free(mixture->logits);
    free(mixture->chosen);
    free(mixture->weights);
    free(mixture->slots);
    free(mixture->tokens);
    free(mixture->first);
    free(mixture->gate_up);
    free(mixture->inner);
    free(mixture->outputs);
    free(mixture->choices);
    free(mixture->products);
    *mixture = (struct tp_mixture){0};
}

/* Top-k on the logits, bias included, then softmax over those k. */
static int route(struct tp_mixture *mixture, struct tp_workspace *workspace,
                 const struct tp_model_config *config, const struct tp_model_layer *layer,
                 const float *x, size_t rows)
{
    size_t k = mixture->shape.n_per_token;
    struct tp_vectors vectors = {.x = x,
                                 .n_x = rows,
                                 .columns = config->hidden_size,
                                 .stride = config->hidden_size,
                                 .n = rows};
    struct tp_product product = {.w = layer->router,
                                 .bias = layer->router_bias,
                                 .n = rows,
                                 .y = mixture->logits,
                                 .y_stride = config->n_experts};
    /* In float32 whatever the other activations are: a near tie sends a token elsewhere. */
    int rc = tp_multiply(workspace, &vectors, TP_ACTIVATIONS_F32, &product, 1);
    for (size_t i = 0; rc == 0 && i < rows; i++)
        tp_top_k(workspace->kernels, mixture->logits + i * config->n_experts, config->n_experts, k,
                 mixture->chosen + i * k, mixture->weights + i * k);
    return rc;
}

/* Gives each token's experts their slots, sorted by expert, tokens in order; those of none are the
 * last. */
static void sort(struct tp_mixture *mixture, size_t rows)
{
    size_t k = mixture->shape.n_per_token, n = rows * k, n_groups = mixture->shape.n_experts + 1;
    memset(mixture->first, 0, (n_groups + 1) * sizeof *mixture->first);
    for (size_t i = 0; i < n; i++)
        mixture->first[mixture->chosen[i] + 1]++;
    for (size_t e = 0; e < n_groups; e++)
        mixture->first[e + 1] += mixture->first[e];
    for (size_t i = 0; i < n; i++) {
        size_t slot = mixture->first[mixture->chosen[i]]++;
        mixture->slots[i] = (uint32_t)slot;
        mixture->tokens[slot] = (uint32_t)(i / k);
    }
    /* Each has moved on to where the next one begins. */
    memmove(mixture->first + 1, mixture->first, n_groups * sizeof *mixture->first);
    mixture->first[0] = 0;
}

/* One product for each expert that has tokens: y [slots][rows of the matrix]. */
static size_t plan(struct tp_mixture *mixture, const struct tp_matrices *matrices,
                   const float *biases, float *y)
{
    size_t n = 0, rows = matrices->first.rows;
    for (size_t e = 0; e < matrices->n; e++) {
        size_t first = mixture->first[e], end = mixture->first[e + 1];
        if (first == end)
            continue;
        mixture->products[n++] = (struct tp_product){
            .w = tp_matrices_at(matrices, e),
            .bias = biases != NULL ? biases + e * rows : NULL,
            .first = first,
            .n = end - first,
            .y = y + first * rows,
            .y_stride = rows,
        };
    }
    return n;
}

int tp_mixture_apply(struct tp_mixture *mixture, struct tp_workspace *workspace,
                     const struct tp_experts *experts, enum tp_activations activations,
                     const float *x, size_t rows, float *y)
{
    size_t k = mixture->shape.n_per_token, n_slots = rows * k;
    size_t hidden = mixture->shape.hidden, inner = mixture->shape.inner;
    sort(mixture, rows);

    size_t n_used = mixture->first[mixture->shape.n_experts];
    struct tp_vectors tokens = {.x = x,
                                .n_x = rows,
                                .columns = hidden,
                                .stride = hidden,
                                .rows = mixture->tokens,
                                .n = n_used};
    size_t n = plan(mixture, &experts->gate_up, experts->gate_up_bias, mixture->gate_up);
    int rc = tp_multiply(workspace, &tokens, activations, mixture->products, n);
    if (rc < 0)
        return rc;
    tp_swiglu_rows(workspace, mixture->gate_up, n_used, inner, experts->alpha, experts->limit,
                   mixture->inner);

    struct tp_vectors slots = {
        .x = mixture->inner, .n_x = n_used, .columns = inner, .stride = inner, .n = n_used};
    n = plan(mixture, &experts->down, experts->down_bias, mixture->outputs);
    rc = tp_multiply(workspace, &slots, activations, mixture->products, n);
    if (rc < 0)
        return rc;
    memset(mixture->outputs + n_used * hidden, 0, (n_slots - n_used) * hidden * sizeof *y);
    memset(y, 0, rows * hidden * sizeof *y);
    tp_add_weighted_rows(workspace, y, mixture->outputs, mixture->slots, mixture->weights, rows, k,
                         hidden);
    return 0;
}

int tp_mixture_compute(struct tp_mixture *mixture, struct tp_workspace *workspace,
                       const struct tp_model_config *config, const struct tp_model_layer *layer,
                       enum tp_activations activations, const float *x, size_t rows, float *y)
{
    struct tp_experts experts = {.gate_up = layer->experts_gate_up,
                                 .down = layer->experts_down,
                                 .gate_up_bias = layer->experts_gate_up_bias,
                                 .down_bias = layer->experts_down_bias,
                                 .alpha = config->swiglu_alpha,
                                 .limit = config->swiglu_limit};
    int rc = route(mixture, workspace, config, layer, x, rows);
    return rc == 0 ? tp_mixture_apply(mixture, workspace, &experts, activations, x, rows, y) : rc;
}

const float *tp_mixture_choices(struct tp_mixture *mixture, size_t rows)
{
    for (size_t i = 0; i < rows * mixture->shape.n_per_token; i++)
        mixture->choices[i] = (float)mixture->chosen[i];
    return mixture->choices;
}
