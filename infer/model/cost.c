#include "infer/model/cost.h"

static uint64_t matrix_bytes(const struct tp_matrix *matrix)
{
    uint64_t scales = matrix->scales != NULL ? matrix->rows * (matrix->columns / 32) : 0;
    return matrix->values == NULL ? 0 : tp_matrix_bytes(matrix) + scales;
}

/* Of one that a backend may have made smaller. */
static uint64_t dense_bytes(const struct tp_matrix *matrix, bool int8)
{
    if (!int8 || matrix->values == NULL)
        return matrix_bytes(matrix);
    return (uint64_t)matrix->rows * tp_int8_row_bytes(matrix->columns);
}

static uint64_t vector_bytes(const float *vector, size_t n)
{
    return vector == NULL ? 0 : n * sizeof *vector;
}

static uint64_t multiply_adds(const struct tp_matrix *matrix)
{
    return matrix->values == NULL ? 0 : (uint64_t)matrix->rows * matrix->columns;
}

/* What a layer has beside its experts. */
static uint64_t layer_bytes(const struct tp_model_config *c, const struct tp_model_layer *layer,
                            bool int8_dense)
{
    const struct tp_matrix *matrices[] = {&layer->q,    &layer->k,  &layer->v,   &layer->o,
                                          &layer->gate, &layer->up, &layer->down};
    size_t query = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    uint64_t bytes = matrix_bytes(&layer->router);
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        bytes += dense_bytes(matrices[i], int8_dense);
    return bytes + vector_bytes(layer->input_norm, c->hidden_size) +
           vector_bytes(layer->mlp_norm, c->hidden_size) + vector_bytes(layer->q_bias, query) +
           vector_bytes(layer->k_bias, kv) + vector_bytes(layer->v_bias, kv) +
           vector_bytes(layer->o_bias, c->hidden_size) + vector_bytes(layer->sinks, c->n_heads) +
           vector_bytes(layer->router_bias, c->n_experts) +
           vector_bytes(layer->gate_bias, c->intermediate_size) +
           vector_bytes(layer->up_bias, c->intermediate_size) +
           vector_bytes(layer->down_bias, c->hidden_size);
}

static uint64_t layer_multiply_adds(const struct tp_model_config *c,
                                    const struct tp_model_layer *layer)
{
    uint64_t expert =
        multiply_adds(&layer->experts_gate_up.first) + multiply_adds(&layer->experts_down.first);
    return multiply_adds(&layer->q) + multiply_adds(&layer->k) + multiply_adds(&layer->v) +
           multiply_adds(&layer->o) + multiply_adds(&layer->router) + multiply_adds(&layer->gate) +
           multiply_adds(&layer->up) + multiply_adds(&layer->down) +
           expert * c->n_experts_per_token;
}

void tp_model_cost(const struct tp_model *model, bool bf16_cache, bool int8_dense,
                   struct tp_model_cost *ret_cost)
{
    const struct tp_model_config *c = &model->config;
    struct tp_model_cost cost = {
        .head_bytes =
            dense_bytes(&model->head, int8_dense) + vector_bytes(model->final_norm, c->hidden_size),
        .token_bytes = matrix_bytes(&model->embedding) / model->embedding.rows,
        .position_bytes = (uint64_t)2 * c->n_kv_heads * c->head_dim * (bf16_cache ? 2 : 4),
        .head_multiply_adds = multiply_adds(&model->head),
        .position_multiply_adds = (uint64_t)2 * c->n_heads * c->head_dim,
    };
    for (size_t i = 0; i < c->n_layers; i++) {
        cost.layer_bytes += layer_bytes(c, &model->layers[i], int8_dense);
        cost.layer_multiply_adds += layer_multiply_adds(c, &model->layers[i]);
    }
    *ret_cost = cost;
}

uint64_t tp_model_expert_bytes(const struct tp_model *model, size_t layer)
{
    const struct tp_model_config *c = &model->config;
    const struct tp_model_layer *l = &model->layers[layer];
    if (c->n_experts == 0)
        return 0;
    return matrix_bytes(&l->experts_gate_up.first) + matrix_bytes(&l->experts_down.first) +
           vector_bytes(l->experts_gate_up_bias, 2 * c->intermediate_size) +
           vector_bytes(l->experts_down_bias, c->hidden_size);
}

uint64_t tp_model_pairs_seen(const struct tp_model_config *config, size_t first, size_t n)
{
    uint64_t pairs = 0;
    for (size_t i = 0; i < config->n_layers; i++) {
        for (size_t position = first; position < first + n; position++) {
            size_t before = position + 1, window = config->windows[i];
            pairs += window > 0 && window < before ? window : before;
        }
    }
    return pairs;
}

uint64_t tp_model_positions_seen(const struct tp_model_config *config, size_t first, size_t n)
{
    uint64_t positions = 0;
    for (size_t i = 0; i < config->n_layers; i++) {
        size_t window = config->windows[i];
        bool all = window == 0 || window >= first + 1;
        positions += all ? first + n : window - 1 + n;
    }
    return positions;
}
