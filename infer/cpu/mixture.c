#include "infer/cpu/mixture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "infer/cpu/layers.h"
#include "infer/cpu/multiply.h"

int tp_mixture_init(const struct tp_model_config *config, size_t n_tokens,
                    struct tp_mixture *ret_mixture)
{
    size_t k = config->n_experts_per_token, n_experts = config->n_experts,
           inner = config->intermediate_size;
    size_t n_slots;
    *ret_mixture = (struct tp_mixture){.n_per_token = k};
    if (n_experts == 0)
        return 0;
    if (__builtin_mul_overflow(n_tokens, k, &n_slots))
        return -ENOMEM;
    struct tp_mixture mixture = {
        .n_per_token = k,
        .logits = calloc(n_tokens, n_experts * sizeof(float)),
        .chosen = calloc(n_slots, sizeof(uint32_t)),
        .weights = calloc(n_slots, sizeof(float)),
        .slots = calloc(n_slots, sizeof(uint32_t)),
        .tokens = calloc(n_slots, sizeof(uint32_t)),
        .first = calloc(n_experts + 1, sizeof(size_t)),
        .gate_up = calloc(n_slots, 2 * inner * sizeof(float)),
        .inner = calloc(n_slots, inner * sizeof(float)),
        .outputs = calloc(n_slots, config->hidden_size * sizeof(float)),
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
    size_t k = mixture->n_per_token;
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

/* Gives each token's experts their slots, sorted by expert, tokens in order. */
static void sort(struct tp_mixture *mixture, size_t n_experts, size_t rows)
{
    size_t k = mixture->n_per_token, n = rows * k;
    memset(mixture->first, 0, (n_experts + 1) * sizeof *mixture->first);
    for (size_t i = 0; i < n; i++)
        mixture->first[mixture->chosen[i] + 1]++;
    for (size_t e = 0; e < n_experts; e++)
        mixture->first[e + 1] += mixture->first[e];
    for (size_t i = 0; i < n; i++) {
        size_t slot = mixture->first[mixture->chosen[i]]++;
        mixture->slots[i] = (uint32_t)slot;
        mixture->tokens[slot] = (uint32_t)(i / k);
    }
    /* Each has moved on to where the next one begins. */
    memmove(mixture->first + 1, mixture->first, n_experts * sizeof *mixture->first);
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

int tp_mixture_compute(struct tp_mixture *mixture, struct tp_workspace *workspace,
                       const struct tp_model_config *config, const struct tp_model_layer *layer,
                       enum tp_activations activations, const float *x, size_t rows, float *y)
{
    size_t k = mixture->n_per_token, n_slots = rows * k, inner = config->intermediate_size;
    size_t hidden = config->hidden_size;
    int rc = route(mixture, workspace, config, layer, x, rows);
    if (rc < 0)
        return rc;
    sort(mixture, config->n_experts, rows);

    struct tp_vectors tokens = {.x = x,
                                .n_x = rows,
                                .columns = hidden,
                                .stride = hidden,
                                .rows = mixture->tokens,
                                .n = n_slots};
    size_t n =
        plan(mixture, &layer->experts_gate_up, layer->experts_gate_up_bias, mixture->gate_up);
    rc = tp_multiply(workspace, &tokens, activations, mixture->products, n);
    if (rc < 0)
        return rc;
    tp_swiglu_rows(workspace, mixture->gate_up, n_slots, inner, config->swiglu_alpha,
                   config->swiglu_limit, mixture->inner);

    struct tp_vectors slots = {
        .x = mixture->inner, .n_x = n_slots, .columns = inner, .stride = inner, .n = n_slots};
    n = plan(mixture, &layer->experts_down, layer->experts_down_bias, mixture->outputs);
    rc = tp_multiply(workspace, &slots, activations, mixture->products, n);
    if (rc < 0)
        return rc;
    memset(y, 0, rows * hidden * sizeof *y);
    tp_add_weighted_rows(workspace, y, mixture->outputs, mixture->slots, mixture->weights, rows, k,
                         hidden);
    return 0;
}

const float *tp_mixture_choices(struct tp_mixture *mixture, size_t rows)
{
    for (size_t i = 0; i < rows * mixture->n_per_token; i++)
        mixture->choices[i] = (float)mixture->chosen[i];
    return mixture->choices;
}
