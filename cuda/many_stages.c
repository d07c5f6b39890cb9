#include "cuda/many_stages.h"

#include <math.h>

enum {
    QUERY_ROWS = 64, /* query heads times tokens that a block attends with, at most */
    NORM_SHARED_BYTES = TP_ROW_THREADS / 32 * (int)sizeof(float),
};

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t tiles_of(size_t n, size_t tile)
{
    return (n + tile - 1) / tile;
}

static bool blocks_have_room(const struct tp_model_config *c, const struct tp_device_facts *facts)
{
    size_t attends = tp_many_attend_shared_bytes(1, (uint32_t)(c->n_heads / c->n_kv_heads),
                                                 (uint32_t)c->head_dim);
    size_t multiplies = tp_many_shared_bytes(TP_MATRIX_BF16, TP_PARTS_MAX);
    size_t routes = c->hidden_size * sizeof(float), sorts = c->n_experts * sizeof(uint32_t);
    size_t has = facts->shared_bytes_max;
    return attends <= has && multiplies <= has && routes <= has && sorts <= has;
}

bool tp_many_stages_can(const struct tp_step_model *of)
{
    const struct tp_model *model = of->model;
    if (!blocks_have_room(&model->config, of->facts))
        return false;
    for (size_t i = 0; i < model->config.n_layers; i++) {
        const struct tp_model_layer *l = &model->layers[i];
        bool is_dense = model->config.n_experts == 0;
        const struct tp_matrix *all[] = {&l->q,
                                         &l->k,
                                         &l->v,
                                         &l->o,
                                         is_dense ? &l->gate : &l->experts_gate_up.first,
                                         is_dense ? &l->up : &l->experts_gate_up.first,
                                         is_dense ? &l->down : &l->experts_down.first};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) {
            if (!tp_step_fits_tiles(of, all[j]->type, all[j]->columns))
                return false;
        }
    }
    return true;
}

bool tp_many_stages_can_with(const struct tp_step_model *of)
{
    bool can = tp_many_stages_can(of);
    for (size_t i = 0; can && i < of->model->config.n_layers; i++)
        can = tp_step_uses_tiles(of, tp_step_gate_up(of, i)) &&
              tp_step_uses_tiles(of, tp_step_down(of, i));
    return can;
}

/* ---- memory ---- */

void tp_many_stages_take(struct tp_many_stages *s, struct tp_arena *arena)
{
    const struct tp_model_config *c = &s->of->model->config;
    size_t n = s->capacity, k = tp_step_experts_per_token(c), hidden = c->hidden_size;
    size_t query = c->n_heads * c->head_dim, n_experts = tp_step_experts(c);
    s->x = tp_arena_take(arena, n * hidden, sizeof(float));
    s->queries = tp_arena_take(arena, n * query, sizeof(float));
    s->router_logits = tp_arena_take(arena, n * n_experts, sizeof(float));
    s->outputs = tp_arena_take(arena, n * k * hidden, sizeof(float));
    s->columns = tp_arena_columns(arena, n, hidden, s->n_head_parts);
    s->mixed_columns = tp_arena_columns(arena, n, query, s->n_parts);
    s->mlp_columns = tp_arena_columns(arena, n, hidden, s->n_parts);
    s->inner_columns = tp_arena_columns(arena, n * k, c->intermediate_size, s->n_parts);
    s->squares = (struct tp_squares){.sums = tp_arena_take(arena, n, sizeof(float)),
                                     .n_sums = 1,
                                     .size = (uint32_t)hidden,
                                     .epsilon = c->rms_norm_eps};
    s->slots = (struct tp_slots){
        .first = tp_arena_take(arena, n_experts + 1, sizeof(uint32_t)),
        .tokens = tp_arena_take(arena, n * k, sizeof(uint32_t)),
        .of_token = tp_arena_take(arena, n * k, sizeof(uint32_t)),
        .chosen = tp_arena_take(arena, c->n_layers * n * k, sizeof(uint32_t)),
        .weights = tp_arena_take(arena, n * k, sizeof(float)),
        .n_experts = (uint32_t)n_experts,
        .n_per_token = (uint32_t)k,
    };
}

/* ---- attention's tiles ---- */

static uint32_t tile_max(const struct tp_model_config *config, const struct tp_device_facts *facts)
{
    uint32_t group = (uint32_t)(config->n_heads / config->n_kv_heads);
    uint32_t n = group < QUERY_ROWS ? QUERY_ROWS / group : 1;
    while (n > 1 && tp_many_attend_shared_bytes(n, group, (uint32_t)config->head_dim) >
                        facts->shared_bytes_max)
        n /= 2;
    return n;
}

size_t tp_many_tiles(const struct tp_model_config *config, const struct tp_device_facts *facts,
                     const struct tp_step_inputs *inputs, size_t n)
{
    size_t n_tiles = 0, most = tile_max(config, facts);
    for (size_t first = 0; first < n;) {
        size_t end = first + 1;
        while (end < n && end - first < most &&
               inputs->sequences[end].memory == inputs->sequences[first].memory)
            end++;
        inputs->tiles[n_tiles++] = (struct tp_query_tile){(uint32_t)first, (uint32_t)(end - first)};
        first = end;
    }
    return n_tiles;
}

/* ---- the stages ---- */

struct run {
    struct tp_many_stages *stages;
    struct tp_step *step;
};

/* A product: tiles of 128 rows, tiles of 64 vectors. */
static void launch(const struct run *run, tp_kernel_fn *one, tp_kernel_fn *three,
                   const struct tp_gpu_matrix *w, const void *arguments, size_t bytes,
                   size_t n_rows, size_t n_vector_tiles, uint32_t n_parts)
{
    const unsigned grid[3] = {(unsigned)tiles_of(n_rows, TP_MANY_ROWS), (unsigned)n_vector_tiles,
                              1};
    tp_step_launch(run->step, n_parts == 1 ? one : three, arguments, bytes, grid, TP_MANY_THREADS,
                   tp_many_shared_bytes(w->type, n_parts));
}

static void embed(const struct run *run)
{
    const struct tp_many_stages *s = run->stages;
    const struct tp_gpu_weights *weights = s->of->weights;
    const unsigned grid[3] = {(unsigned)run->step->n, 1, 1};
    struct tp_few_embed a = {.embedding = weights->embedding,
                             .tokens = run->step->inputs.tokens,
                             .weight = weights->layers[0].input_norm,
                             .x = s->x,
                             .columns = s->columns,
                             .squares = s->squares};
    tp_step_launch(run->step, tp_few_embed, &a, sizeof a, grid, TP_ROW_THREADS, NORM_SHARED_BYTES);
}

/* Columns of the norm of x, to which the outputs of a layer's experts are added before. */
static void normalise(const struct run *run, const float *weight, const struct tp_columns *columns,
                      bool adds_outputs)
{
    const struct tp_many_stages *s = run->stages;
    const unsigned grid[3] = {(unsigned)run->step->n, 1, 1};
    struct tp_many_norm a = {.x = s->x,
                             .outputs = adds_outputs ? s->outputs : NULL,
                             .slots = s->slots,
                             .weight = weight,
                             .columns = *columns,
                             .squares = s->squares};
    tp_step_launch(run->step, tp_many_norm, &a, sizeof a, grid, TP_ROW_THREADS, NORM_SHARED_BYTES);
}

static void project_heads(const struct run *run, size_t i)
{
    const struct tp_many_stages *s = run->stages;
    const struct tp_model_config *c = &s->of->model->config;
    struct tp_few_heads a = tp_step_heads(run->step, i);
    a.columns = s->columns;
    a.squares = s->squares;
    a.queries = s->queries;
    a.n_units = (uint32_t)((c->n_heads + 2 * c->n_kv_heads) * c->head_dim / 2);
    launch(run, tp_many_heads_1, tp_many_heads_3, &a.q, &a, sizeof a, 2 * (size_t)a.n_units,
           tiles_of(run->step->n, TP_MANY_VECTORS), s->columns.n_parts);
}

static void attend(const struct run *run, size_t i)
{
    const struct tp_many_stages *s = run->stages;
    const struct tp_model_config *c = &s->of->model->config;
    struct tp_many_attend a = {.places = tp_step_places(run->step),
                               .cache = tp_step_cache(run->step, i),
                               .tiles = run->step->inputs.tiles,
                               .n_heads = (uint32_t)c->n_heads,
                               .window = (uint32_t)c->windows[i],
                               .scale = 1 / sqrtf((float)c->head_dim),
                               .sinks = s->of->weights->layers[i].sinks,
                               .queries = s->queries,
                               .columns = s->mixed_columns,
                               .tile_max = tile_max(c, s->of->facts)};
    const unsigned grid[3] = {(unsigned)run->step->n_tiles, (unsigned)c->n_kv_heads, 1};
    tp_step_launch(run->step, tp_many_attend, &a, sizeof a, grid, TP_MANY_ATTEND_THREADS,
                   tp_many_attend_shared_bytes(a.tile_max, (uint32_t)(c->n_heads / c->n_kv_heads),
                                               (uint32_t)c->head_dim));
}

static void project_output(const struct run *run, size_t i)
{
    const struct tp_many_stages *s = run->stages;
    const struct tp_gpu_layer *layer = &s->of->weights->layers[i];
    struct tp_many_output a = {.o = layer->o,
                               .bias = layer->o_bias,
                               .mixed = s->mixed_columns,
                               .n_tokens = (uint32_t)run->step->n,
                               .x = s->x};
    launch(run, tp_many_output_1, tp_many_output_3, &a.o, &a, sizeof a, a.o.rows,
           tiles_of(run->step->n, TP_MANY_VECTORS), s->n_parts);
}

static struct tp_slots slots_of(const struct tp_many_stages *s, size_t layer)
{
    struct tp_slots slots = s->slots;
    slots.chosen += layer * s->capacity * slots.n_per_token;
    return slots;
}

/* Which experts each token takes, and their slots. */
static void route(const struct run *run, size_t i)
{
    const struct tp_many_stages *s = run->stages;
    const struct tp_gpu_layer *layer = &s->of->weights->layers[i];
    const unsigned rows[3] = {(unsigned)run->step->n, 1, 1}, one[3] = {1, 1, 1};
    bool is_dense = s->of->model->config.n_experts == 0;
    struct tp_many_route a = {.x = s->x,
                              .weight = layer->mlp_norm,
                              .squares = s->squares,
                              .router = layer->router,
                              .bias = layer->router_bias,
                              .logits = s->router_logits,
                              .slots = slots_of(s, i)};
    struct tp_many_sort b = {
        .slots = slots_of(s, i), .n_tokens = (uint32_t)run->step->n, .is_dense = is_dense};
    if (!is_dense)
        tp_step_launch(run->step, tp_many_route, &a, sizeof a, rows, TP_ROW_THREADS,
                       a.router.columns * sizeof(float));
    tp_step_launch(run->step, tp_many_sort, &b, sizeof b, one, TP_SORT_THREADS,
                   s->slots.n_experts * sizeof(uint32_t));
}

/* Tiles of slots that the experts may have together. */
static size_t slot_tiles(const struct run *run)
{
    const struct tp_slots *slots = &run->stages->slots;
    size_t n = run->step->n * slots->n_per_token;
    return n / TP_MANY_VECTORS + least(n, slots->n_experts);
}

static void multiply_gate_up(const struct run *run, size_t i)
{
    const struct tp_many_stages *s = run->stages;
    const struct tp_model_config *c = &s->of->model->config;
    const struct tp_gpu_layer *layer = &s->of->weights->layers[i];
    const struct tp_gpu_matrix *w = tp_step_gate_up(s->of, i);
    bool is_mxfp4 = w->type == TP_MATRIX_MXFP4;
    struct tp_many_gate_up a = {
        .gate_up = layer->gate_up,
        .gate = layer->gate,
        .up = layer->up,
        .bias = layer->gate_up_bias,
        .gate_bias = layer->gate_bias,
        .up_bias = layer->up_bias,
        .columns = tp_step_columns_for(s->of, &s->mlp_columns, w),
        .squares = s->squares,
        .slots = s->slots,
        .inner = (uint32_t)c->intermediate_size,
        .alpha = c->swiglu_alpha,
        .limit = c->swiglu_limit,
        .inners = tp_step_columns_for(s->of, &s->inner_columns, tp_step_down(s->of, i))};
    launch(run, is_mxfp4 ? tp_many_gate_up_mxfp4_1 : tp_many_gate_up_bf16_1,
           is_mxfp4 ? tp_many_gate_up_mxfp4_3 : tp_many_gate_up_bf16_3, w, &a, sizeof a,
           2 * c->intermediate_size, slot_tiles(run), s->n_parts);
}

static void multiply_down(const struct run *run, size_t i)
{
    const struct tp_many_stages *s = run->stages;
    const struct tp_gpu_layer *layer = &s->of->weights->layers[i];
    const struct tp_gpu_matrix *w = tp_step_down(s->of, i);
    bool is_mxfp4 = w->type == TP_MATRIX_MXFP4;
    struct tp_many_down a = {.down = *w,
                             .bias = s->of->model->config.n_experts > 0 ? layer->experts_down_bias
                                                                        : layer->down_bias,
                             .inners = tp_step_columns_for(s->of, &s->inner_columns, w),
                             .slots = s->slots,
                             .outputs = s->outputs};
    launch(run, is_mxfp4 ? tp_many_down_mxfp4_1 : tp_many_down_bf16_1,
           is_mxfp4 ? tp_many_down_mxfp4_3 : tp_many_down_bf16_3, w, &a, sizeof a, w->rows,
           slot_tiles(run), s->n_parts);
}

/* The head takes TP_FEW rows at a time, as a step of few tokens does. */
static void multiply_head(const struct run *run, tp_take_logits_fn *take, void *context)
{
    const struct tp_many_stages *s = run->stages;
    struct tp_step *step = run->step, rows = *step;
    struct tp_squares squares = s->few->embed_squares; /* one sum */
    for (size_t done = 0; step->rc == 0 && done < step->n_rows; done += rows.n) {
        rows.n = rows.n_rows = least(step->n_rows - done, TP_FEW);
        const unsigned grid[3] = {(unsigned)rows.n, 1, 1};
        struct tp_many_norm a = {.x = s->x,
                                 .rows = step->inputs.rows + done,
                                 .weight = s->of->weights->final_norm,
                                 .columns = s->few->columns,
                                 .squares = squares};
        tp_step_launch(step, tp_many_norm, &a, sizeof a, grid, TP_ROW_THREADS, NORM_SHARED_BYTES);
        rows.rc = step->rc;
        tp_few_stages_head(s->few, &rows, &squares, NULL);
        step->rc = rows.rc;
        if (step->rc == 0)
            take(context, step, s->few->logits, done, rows.n);
    }
}

void tp_many_stages_run(struct tp_many_stages *stages, struct tp_step *step,
                        tp_take_logits_fn *take, void *context)
{
    const struct tp_model_config *c = &stages->of->model->config;
    const struct run run = {stages, step};
    embed(&run);
    tp_step_show(step, "embedding", 0, stages->x, c->hidden_size);
    for (size_t i = 0; i < c->n_layers; i++) {
        struct tp_columns mlp =
            tp_step_columns_for(stages->of, &stages->mlp_columns, tp_step_gate_up(stages->of, i));
        project_heads(&run, i);
        tp_step_show(step, "queries", i, stages->queries, c->n_heads * c->head_dim);
        attend(&run, i);
        project_output(&run, i);
        normalise(&run, stages->of->weights->layers[i].mlp_norm, &mlp, false);
        route(&run, i);
        tp_step_show_router(step, i, stages->router_logits, slots_of(stages, i).chosen,
                            stages->slots.weights);
        multiply_gate_up(&run, i);
        multiply_down(&run, i);
        normalise(&run, tp_step_next_norm(stages->of, i), &stages->columns, true);
        tp_step_show(step, "residual", i, stages->x, c->hidden_size);
    }
    multiply_head(&run, take, context);
}
