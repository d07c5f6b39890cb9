#include "cuda/step.h"

/* ---- inputs ---- */

size_t tp_step_input_bytes(const struct tp_model_config *config, size_t capacity)
{
    return capacity * (sizeof(struct tp_gpu_sequence) + sizeof(uint64_t) + 4 * sizeof(uint32_t) +
                       sizeof(struct tp_query_tile) + config->head_dim * sizeof(float));
}

struct tp_step_inputs tp_step_inputs_at(const struct tp_model_config *config, size_t capacity,
                                        void *memory)
{
    struct tp_step_inputs inputs = {.sequences = memory};
    inputs.draws = (uint64_t *)(void *)(inputs.sequences + capacity);
    inputs.tokens = (uint32_t *)(void *)(inputs.draws + capacity);
    inputs.positions = inputs.tokens + capacity;
    inputs.sequence_of = inputs.positions + capacity;
    inputs.rows = inputs.sequence_of + capacity;
    inputs.tiles = (struct tp_query_tile *)(void *)(inputs.rows + capacity);
    inputs.cosines = (float *)(void *)(inputs.tiles + capacity);
    inputs.sines = inputs.cosines + capacity * config->head_dim / 2;
    return inputs;
}

/* ---- a step ---- */

void tp_step_launch(struct tp_step *step, tp_kernel_fn *kernel, const void *arguments, size_t bytes,
                    const unsigned grid[3], unsigned threads, size_t shared_bytes)
{
    struct tp_launch launch = {.kernel = kernel,
                               .arguments = arguments,
                               .argument_bytes = bytes,
                               .grid = {grid[0], grid[1], grid[2]},
                               .threads = threads,
                               .shared_bytes = shared_bytes,
                               .follows = true};
    if (step->rc == 0)
        step->rc = tp_device_launch(step->of->device, &launch, step->error);
}

void tp_step_show(struct tp_step *step, const char *name, size_t layer, const float *rows,
                  size_t columns)
{
    if (step->rc == 0)
        step->rc = tp_shown_add(step->shown, step->of->device, name, layer, rows, step->n, columns,
                                step->error);
}

void tp_step_show_router(struct tp_step *step, size_t layer, const float *logits,
                         const uint32_t *chosen, const float *weights)
{
    const struct tp_model_config *c = &step->of->model->config;
    if (c->n_experts == 0)
        return;
    tp_step_show(step, "router_logits", layer, logits, c->n_experts);
    if (step->rc == 0)
        step->rc = tp_shown_add_numbers(step->shown, step->of->device, "router_experts", layer,
                                        chosen, step->n, c->n_experts_per_token, step->error);
    tp_step_show(step, "router_weights", layer, weights, c->n_experts_per_token);
}

/* ---- what kernels are told of a model ---- */

bool tp_step_fits_tiles(const struct tp_step_model *of, enum tp_matrix_type type, size_t columns)
{
    enum { BF16_IN_16_BYTES = 8 };
    if (!of->facts->has_tiles)
        return false;
    return type == TP_MATRIX_MXFP4 || (type == TP_MATRIX_BF16 && columns % BF16_IN_16_BYTES == 0);
}

bool tp_step_uses_tiles(const struct tp_step_model *of, const struct tp_gpu_matrix *w)
{
    return !w->has_large_scales && tp_step_fits_tiles(of, w->type, w->columns);
}

struct tp_columns tp_step_columns_for(const struct tp_step_model *of,
                                      const struct tp_columns *columns,
                                      const struct tp_gpu_matrix *w)
{
    struct tp_columns for_w = *columns;
    for_w.shuffled = w->type == TP_MATRIX_MXFP4 && tp_step_uses_tiles(of, w);
    return for_w;
}

const struct tp_gpu_matrix *tp_step_gate_up(const struct tp_step_model *of, size_t layer)
{
    const struct tp_gpu_layer *l = &of->weights->layers[layer];
    return of->model->config.n_experts > 0 ? &l->gate_up : &l->gate;
}

const struct tp_gpu_matrix *tp_step_down(const struct tp_step_model *of, size_t layer)
{
    const struct tp_gpu_layer *l = &of->weights->layers[layer];
    return of->model->config.n_experts > 0 ? &l->experts_down : &l->down;
}

size_t tp_step_experts(const struct tp_model_config *config)
{
    return config->n_experts > 0 ? config->n_experts : 1;
}

size_t tp_step_experts_per_token(const struct tp_model_config *config)
{
    return config->n_experts > 0 ? config->n_experts_per_token : 1;
}

const float *tp_step_next_norm(const struct tp_step_model *of, size_t layer)
{
    const struct tp_gpu_weights *weights = of->weights;
    return layer + 1 < of->model->config.n_layers ? weights->layers[layer + 1].input_norm
                                                  : weights->final_norm;
}

struct tp_places tp_step_places(const struct tp_step *step)
{
    return (struct tp_places){step->inputs.positions, step->inputs.sequence_of};
}

struct tp_gpu_cache tp_step_cache(const struct tp_step *step, size_t layer)
{
    struct tp_gpu_cache cache = tp_cache_layer(step->of->plan, layer);
    cache.sequences = step->inputs.sequences;
    return cache;
}

struct tp_few_heads tp_step_heads(const struct tp_step *step, size_t layer)
{
    const struct tp_gpu_layer *l = &step->of->weights->layers[layer];
    return (struct tp_few_heads){.q = l->q,
                                 .k = l->k,
                                 .v = l->v,
                                 .q_bias = l->q_bias,
                                 .k_bias = l->k_bias,
                                 .v_bias = l->v_bias,
                                 .n_tokens = (uint32_t)step->n,
                                 .n_heads = (uint32_t)step->of->model->config.n_heads,
                                 .cosines = step->inputs.cosines,
                                 .sines = step->inputs.sines,
                                 .places = tp_step_places(step),
                                 .cache = tp_step_cache(step, layer)};
}
