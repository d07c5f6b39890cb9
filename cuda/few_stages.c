#include "cuda/few_stages.h"

#include <math.h>

enum { BLOCKS_PER_MULTIPROCESSOR = 4 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- memory ---- */

static size_t tiles_of(size_t rows)
{
    return (rows + TP_TILE_ROWS - 1) / TP_TILE_ROWS;
}

static size_t splits_of(size_t positions)
{
    return positions / TP_GPU_KEY_SPLIT + 2;
}

static void take_routing(struct tp_arena *arena, const struct tp_model_config *c,
                         struct tp_routing *routing)
{
    size_t k = tp_step_experts_per_token(c);
    *routing = (struct tp_routing){
        .n_experts = (uint32_t)tp_step_experts(c),
        .n_per_token = (uint32_t)k,
    };
    routing->scales = tp_arena_take(arena, TP_FEW, sizeof(float));
    routing->weights = tp_arena_take(arena, TP_FEW * k, sizeof(float));
    routing->chosen = tp_arena_take(arena, c->n_layers * TP_FEW * k, sizeof(uint32_t));
    routing->n_active = tp_arena_take(arena, 1, sizeof(uint32_t));
    routing->active = tp_arena_take(arena, TP_FEW * k, sizeof(uint32_t));
    routing->slots = tp_arena_take(arena, TP_FEW * k * TP_FEW, sizeof(uint16_t));
}

void tp_few_stages_take(struct tp_few_stages *s, struct tp_arena *arena)
{
    const struct tp_model_config *c = &s->of->model->config;
    size_t k = tp_step_experts_per_token(c), query = c->n_heads * c->head_dim,
           hidden = c->hidden_size;
    size_t n_tiles = tiles_of(hidden), splits = splits_of(s->context);
    s->x = tp_arena_take(arena, TP_FEW * hidden, sizeof(float));
    s->queries = tp_arena_take(arena, TP_FEW * query, sizeof(float));
    s->mixed = tp_arena_take(arena, TP_FEW * splits * query, sizeof(float));
    s->mixed_sums = tp_arena_take(arena, TP_FEW * splits * c->n_heads * 2, sizeof(float));
    s->router_sums = tp_arena_take(arena, n_tiles * TP_FEW * (c->n_experts + 1), sizeof(float));
    s->router_logits = tp_arena_take(arena, TP_FEW * (c->n_experts + 1), sizeof(float));
    s->outputs = tp_arena_take(arena, TP_FEW * k * hidden, sizeof(float));
    s->logits = tp_arena_take(arena, TP_FEW * c->vocab_size, sizeof(float));
    s->arrived = tp_arena_take(arena, TP_FEW * c->n_kv_heads + 1 + n_tiles, sizeof(uint32_t));
    s->columns = tp_arena_columns(arena, TP_FEW, hidden, s->n_parts);
    s->mixed_columns = tp_arena_columns(arena, TP_FEW, query, s->n_parts);
    s->mlp_columns = tp_arena_columns(arena, TP_FEW, hidden, s->n_parts);
    s->inner_columns = tp_arena_columns(arena, TP_FEW * k, c->intermediate_size, s->n_parts);
    s->squares = (struct tp_squares){.sums = tp_arena_take(arena, n_tiles * TP_FEW, sizeof(float)),
                                     .n_sums = (uint32_t)n_tiles,
                                     .size = (uint32_t)hidden,
                                     .epsilon = c->rms_norm_eps};
    s->embed_squares = s->squares;
    s->embed_squares.n_sums = 1;
    take_routing(arena, c, &s->routing);
}

/* ---- which kernel ---- */

enum variant { BF16_1, BF16_3, ANY, MXFP4_1, MXFP4_3, N_VARIANTS };

#define DENSE_VARIANTS(stage) tp_few_##stage##_bf16_1, tp_few_##stage##_bf16_3, tp_few_##stage##_any
#define VARIANTS(stage)       DENSE_VARIANTS(stage), tp_few_##stage##_mxfp4_1, tp_few_##stage##_mxfp4_3
static tp_kernel_fn *const heads_kernels[N_VARIANTS] = {DENSE_VARIANTS(heads)};
static tp_kernel_fn *const output_kernels[N_VARIANTS] = {DENSE_VARIANTS(output)};
static tp_kernel_fn *const gate_up_kernels[N_VARIANTS] = {VARIANTS(gate_up)};
static tp_kernel_fn *const down_kernels[N_VARIANTS] = {VARIANTS(down)};
static tp_kernel_fn *const head_kernels[N_VARIANTS] = {DENSE_VARIANTS(head)};

/* The parts of all tokens as columns of one product, if they fit. */
static uint32_t groups_of(const struct tp_few_stages *stages, size_t n)
{
    return stages->n_parts * n <= TP_FEW ? 1 : stages->n_parts;
}

static enum variant variant_of(const struct tp_few_stages *stages, const struct tp_gpu_matrix *w,
                               size_t n)
{
    if (!tp_step_uses_tiles(stages->of, w))
        return ANY;
    bool one = groups_of(stages, n) == 1;
    if (w->type == TP_MATRIX_BF16)
        return one ? BF16_1 : BF16_3;
    return one ? MXFP4_1 : MXFP4_3;
}

/* ---- launching ---- */

/* The stages of a step. */
struct run {
    struct tp_few_stages *stages;
    struct tp_step *step;
};

/* A stage over tiles of a matrix: as many blocks as run at the same time, at most. */
static void launch(const struct run *run, tp_kernel_fn *const *kernels,
                   const struct tp_gpu_matrix *w, const void *arguments, size_t bytes,
                   size_t n_tiles)
{
    const struct tp_few_stages *s = run->stages;
    size_t n = run->step->n;
    enum variant variant = variant_of(s, w, n);
    size_t blocks = least(n_tiles, s->of->facts->n_multiprocessors * BLOCKS_PER_MULTIPROCESSOR);
    uint32_t groups = variant == ANY ? 1 : groups_of(s, n);
    const unsigned grid[3] = {(unsigned)blocks, 1, 1};
    tp_step_launch(run->step, kernels[variant], arguments, bytes, grid, TP_FEW_THREADS,
                   tp_few_shared_bytes(groups, (uint32_t)n, s->routing.n_experts));
}

static void embed(const struct run *run)
{
    const struct tp_few_stages *s = run->stages;
    const struct tp_gpu_weights *weights = s->of->weights;
    const unsigned grid[3] = {(unsigned)run->step->n, 1, 1};
    struct tp_few_embed a = {.embedding = weights->embedding,
                             .tokens = run->step->inputs.tokens,
                             .weight = weights->layers[0].input_norm,
                             .x = s->x,
                             .columns = s->columns,
                             .squares = s->embed_squares};
    tp_step_launch(run->step, tp_few_embed, &a, sizeof a, grid, TP_ROW_THREADS,
                   TP_ROW_THREADS / 32 * sizeof(float));
}

/* In one launch where q, k and v are of one type, as they are in every published checkpoint. */
static void project_heads(const struct run *run, size_t i)
{
    const struct tp_few_stages *s = run->stages;
    const struct tp_model_config *c = &s->of->model->config;
    const struct tp_gpu_layer *layer = &s->of->weights->layers[i];
    uint32_t half = (uint32_t)c->head_dim / 2, n_heads = (uint32_t)c->n_heads,
             n_kv = (uint32_t)c->n_kv_heads;
    const struct {
        const struct tp_gpu_matrix *matrix;
        uint32_t n_units;
    } matrices[] = {
        {&layer->q, n_heads * half}, {&layer->k, n_kv * half}, {&layer->v, n_kv * half}};
    struct tp_few_heads a = tp_step_heads(run->step, i);
    a.columns = s->columns;
    a.squares = i == 0 ? s->embed_squares : s->squares;
    a.queries = s->queries;
    for (size_t j = 0; j < 3; j++) {
        a.n_units += matrices[j].n_units;
        if (j < 2 && matrices[j].matrix->type == matrices[j + 1].matrix->type)
            continue;
        launch(run, heads_kernels, matrices[j].matrix, &a, sizeof a,
               (a.n_units + TP_TILE_UNITS - 1) / TP_TILE_UNITS);
        a.first_unit += a.n_units;
        a.n_units = 0;
    }
}

static void attend(const struct run *run, size_t i)
{
    const struct tp_few_stages *s = run->stages;
    const struct tp_model_config *c = &s->of->model->config;
    size_t window = c->windows[i], group = c->n_heads / c->n_kv_heads, longest = run->step->longest;
    size_t positions = window > 0 ? least(window, longest) : longest;
    size_t n_splits = least(splits_of(positions), splits_of(s->context));
    struct tp_attend a = {.places = tp_step_places(run->step),
                          .cache = tp_step_cache(run->step, i),
                          .n_heads = (uint32_t)c->n_heads,
                          .window = (uint32_t)window,
                          .scale = 1 / sqrtf((float)c->head_dim),
                          .sinks = s->of->weights->layers[i].sinks,
                          .queries = s->queries,
                          .n_splits = (uint32_t)n_splits,
                          .mixed = s->mixed,
                          .sums = s->mixed_sums,
                          .arrived = s->arrived,
                          .columns = s->mixed_columns};
    const unsigned grid[3] = {(unsigned)run->step->n, (unsigned)c->n_kv_heads, (unsigned)n_splits};
    tp_step_launch(run->step, tp_attend, &a, sizeof a, grid, TP_ATTEND_THREADS,
                   tp_attend_shared_bytes((uint32_t)group, (uint32_t)c->head_dim));
}

static struct tp_routing routing_of(const struct tp_few_stages *s, size_t layer)
{
    struct tp_routing routing = s->routing;
    routing.chosen += layer * TP_FEW * routing.n_per_token;
    return routing;
}

static void project_output(const struct run *run, size_t i)
{
    const struct tp_few_stages *s = run->stages;
    const struct tp_gpu_layer *layer = &s->of->weights->layers[i];
    struct tp_few_output a = {
        .o = layer->o,
        .bias = layer->o_bias,
        .mixed = s->mixed_columns,
        .n_tokens = (uint32_t)run->step->n,
        .x = s->x,
        .weight = layer->mlp_norm,
        .columns = tp_step_columns_for(s->of, &s->mlp_columns, tp_step_gate_up(s->of, i)),
        .squares = s->squares,
        .router = layer->router,
        .router_bias = layer->router_bias,
        .router_sums = s->router_sums,
        .router_logits = s->router_logits,
        .routing = routing_of(s, i),
        .arrived = s->arrived + TP_FEW * s->of->model->config.n_kv_heads};
    launch(run, output_kernels, &layer->o, &a, sizeof a, tiles_of(layer->o.rows));
}

/* Experts that the tokens choose together, at most. */
static size_t most_active(const struct run *run)
{
    const struct tp_routing *routing = &run->stages->routing;
    return least(run->step->n * routing->n_per_token, routing->n_experts);
}

static void multiply_gate_up(const struct run *run, size_t i)
{
    const struct tp_few_stages *s = run->stages;
    const struct tp_model_config *c = &s->of->model->config;
    const struct tp_gpu_layer *layer = &s->of->weights->layers[i];
    const struct tp_gpu_matrix *w = tp_step_gate_up(s->of, i);
    struct tp_few_gate_up a = {
        .gate_up = layer->gate_up,
        .gate = layer->gate,
        .up = layer->up,
        .bias = layer->gate_up_bias,
        .gate_bias = layer->gate_bias,
        .up_bias = layer->up_bias,
        .columns = tp_step_columns_for(s->of, &s->mlp_columns, w),
        .routing = routing_of(s, i),
        .n_tokens = (uint32_t)run->step->n,
        .inner = (uint32_t)c->intermediate_size,
        .alpha = c->swiglu_alpha,
        .limit = c->swiglu_limit,
        .inners = tp_step_columns_for(s->of, &s->inner_columns, tp_step_down(s->of, i))};
    size_t n_tiles = (c->intermediate_size + TP_TILE_UNITS - 1) / TP_TILE_UNITS;
    launch(run, gate_up_kernels, w, &a, sizeof a, most_active(run) * n_tiles);
}

static void multiply_down(const struct run *run, size_t i)
{
    const struct tp_few_stages *s = run->stages;
    const struct tp_model_config *c = &s->of->model->config;
    const struct tp_gpu_layer *layer = &s->of->weights->layers[i];
    const struct tp_gpu_matrix *w = tp_step_down(s->of, i);
    struct tp_few_down a = {.down = *w,
                            .bias = c->n_experts > 0 ? layer->experts_down_bias : layer->down_bias,
                            .inners = tp_step_columns_for(s->of, &s->inner_columns, w),
                            .routing = routing_of(s, i),
                            .n_tokens = (uint32_t)run->step->n,
                            .outputs = s->outputs,
                            .arrived = s->arrived + TP_FEW * c->n_kv_heads + 1,
                            .x = s->x,
                            .weight = tp_step_next_norm(s->of, i),
                            .columns = s->columns,
                            .squares = s->squares};
    launch(run, down_kernels, w, &a, sizeof a, most_active(run) * tiles_of(w->rows));
}

void tp_few_stages_head(struct tp_few_stages *stages, struct tp_step *step,
                        const struct tp_squares *squares, const uint32_t *rows)
{
    const struct run run = {stages, step};
    struct tp_few_head a = {.head = stages->of->weights->head,
                            .columns = stages->columns,
                            .squares = *squares,
                            .rows = rows,
                            .n_tokens = (uint32_t)step->n,
                            .n_rows = (uint32_t)step->n_rows,
                            .logits = stages->logits};
    launch(&run, head_kernels, &a.head, &a, sizeof a, tiles_of(a.head.rows));
}

void tp_few_stages_run(struct tp_few_stages *stages, struct tp_step *step)
{
    const struct tp_model_config *c = &stages->of->model->config;
    const struct run run = {stages, step};
    embed(&run);
    tp_step_show(step, "embedding", 0, stages->x, c->hidden_size);
    for (size_t i = 0; i < c->n_layers; i++) {
        project_heads(&run, i);
        tp_step_show(step, "queries", i, stages->queries, c->n_heads * c->head_dim);
        attend(&run, i);
        project_output(&run, i);
        tp_step_show_router(step, i, stages->router_logits, routing_of(stages, i).chosen,
                            stages->routing.weights);
        multiply_gate_up(&run, i);
        multiply_down(&run, i);
        tp_step_show(step, "residual", i, stages->x, c->hidden_size);
    }
    if (step->n_rows > 0)
        tp_few_stages_head(stages, step, &stages->squares, step->inputs.rows);
}

void tp_few_stages_run_one(struct tp_few_stages *stages, struct tp_step *step, enum tp_stage stage,
                           size_t layer)
{
    const struct run run = {stages, step};
    switch (stage) {
    case TP_STAGE_EMBED:
        embed(&run);
        break;
    case TP_STAGE_HEADS:
        project_heads(&run, layer);
        break;
    case TP_STAGE_ATTEND:
        attend(&run, layer);
        break;
    case TP_STAGE_OUTPUT:
        project_output(&run, layer);
        break;
    case TP_STAGE_GATE_UP:
        multiply_gate_up(&run, layer);
        break;
    case TP_STAGE_DOWN:
        multiply_down(&run, layer);
        break;
    case TP_STAGE_HEAD:
        tp_few_stages_head(stages, step, &stages->squares, step->inputs.rows);
        break;
    }
}
