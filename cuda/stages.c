#include "cuda/stages.h"

#include <errno.h>
#include <math.h>
#include <string.h>

enum { ALIGNMENT = 256, BLOCKS_PER_MULTIPROCESSOR = 4, STRIDE_MULTIPLE = 128 };

static size_t round_up(size_t value, size_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- memory ---- */

size_t tp_step_input_bytes(const struct tp_model_config *config)
{
    return TP_FEW * (sizeof(struct tp_gpu_sequence) + 4 * sizeof(uint32_t) +
                     config->head_dim * sizeof(float));
}

struct tp_step_inputs tp_step_inputs_at(const struct tp_stages *stages, void *memory)
{
    struct tp_step_inputs inputs = {.sequences = memory};
    inputs.tokens = (uint32_t *)(void *)(inputs.sequences + TP_FEW);
    inputs.positions = inputs.tokens + TP_FEW;
    inputs.sequence_of = inputs.positions + TP_FEW;
    inputs.rows = inputs.sequence_of + TP_FEW;
    inputs.cosines = (float *)(void *)(inputs.rows + TP_FEW);
    inputs.sines = inputs.cosines + TP_FEW * stages->model->config.head_dim / 2;
    return inputs;
}

/* Gives out pieces of memory; without any it only counts. */
struct arena {
    uint8_t *memory;
    uint64_t bytes;
};

static void *take(struct arena *arena, size_t n, size_t bytes)
{
    uint8_t *piece = arena->memory != NULL ? arena->memory + arena->bytes : NULL;
    arena->bytes += round_up(n * bytes, ALIGNMENT);
    return piece;
}

static struct tp_columns take_columns(struct arena *arena, const struct tp_stages *stages, size_t n,
                                      size_t size)
{
    struct tp_columns columns = {.n_parts = stages->n_parts,
                                 .size = (uint32_t)size,
                                 .stride = (uint32_t)round_up(size, STRIDE_MULTIPLE)};
    columns.parts = take(arena, n * columns.n_parts, columns.stride * sizeof *columns.parts);
    return columns;
}

static size_t tiles_of(size_t rows)
{
    return (rows + TP_TILE_ROWS - 1) / TP_TILE_ROWS;
}

static size_t splits_of(size_t positions)
{
    return positions / TP_GPU_KEY_SPLIT + 2;
}

static size_t experts_per_token(const struct tp_model_config *c)
{
    return c->n_experts > 0 ? c->n_experts_per_token : 1;
}

static void take_routing(struct arena *arena, const struct tp_model_config *c,
                         struct tp_routing *routing)
{
    size_t k = experts_per_token(c);
    *routing = (struct tp_routing){
        .n_experts = (uint32_t)(c->n_experts > 0 ? c->n_experts : 1),
        .n_per_token = (uint32_t)k,
    };
    routing->scales = take(arena, TP_FEW, sizeof(float));
    routing->weights = take(arena, TP_FEW * k, sizeof(float));
    routing->chosen = take(arena, TP_FEW * k, sizeof(uint32_t));
    routing->n_active = take(arena, 1, sizeof(uint32_t));
    routing->active = take(arena, TP_FEW * k, sizeof(uint32_t));
    routing->slots = take(arena, TP_FEW * k * TP_FEW, sizeof(uint16_t));
}

static void take_all(struct arena *arena, struct tp_stages *s)
{
    const struct tp_model_config *c = &s->model->config;
    size_t k = experts_per_token(c), query = c->n_heads * c->head_dim, hidden = c->hidden_size;
    size_t n_tiles = tiles_of(hidden), splits = splits_of(s->context);
    s->input_bytes = tp_step_input_bytes(c);
    s->inputs = tp_step_inputs_at(s, take(arena, 1, s->input_bytes));
    s->x = take(arena, TP_FEW * hidden, sizeof(float));
    s->queries = take(arena, TP_FEW * query, sizeof(float));
    s->mixed = take(arena, TP_FEW * splits * query, sizeof(float));
    s->mixed_sums = take(arena, TP_FEW * splits * c->n_heads * 2, sizeof(float));
    s->router_sums = take(arena, n_tiles * TP_FEW * (c->n_experts + 1), sizeof(float));
    s->router_logits = take(arena, TP_FEW * (c->n_experts + 1), sizeof(float));
    s->outputs = take(arena, TP_FEW * k * hidden, sizeof(float));
    s->logits = take(arena, TP_FEW * c->vocab_size, sizeof(float));
    s->arrived = take(arena, TP_FEW * c->n_kv_heads + 1 + n_tiles, sizeof(uint32_t));
    s->columns = take_columns(arena, s, TP_FEW, hidden);
    s->mixed_columns = take_columns(arena, s, TP_FEW, query);
    s->mlp_columns = take_columns(arena, s, TP_FEW, hidden);
    s->inner_columns = take_columns(arena, s, TP_FEW * k, c->intermediate_size);
    s->squares = (struct tp_squares){.sums = take(arena, n_tiles * TP_FEW, sizeof(float)),
                                     .n_sums = (uint32_t)n_tiles,
                                     .size = (uint32_t)hidden,
                                     .epsilon = c->rms_norm_eps};
    s->embed_squares = s->squares;
    s->embed_squares.n_sums = 1;
    take_routing(arena, c, &s->routing);
}

uint64_t tp_stages_bytes(const struct tp_stages *stages)
{
    struct tp_stages counted = *stages;
    struct arena arena = {NULL, 0};
    take_all(&arena, &counted);
    return arena.bytes;
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

/* Rows of whole 16 bytes go through tensor cores. */
static bool uses_tiles(const struct tp_stages *stages, const struct tp_gpu_matrix *w)
{
    enum { BF16_IN_16_BYTES = 8 };
    if (!stages->facts->has_tiles)
        return false;
    return w->type == TP_MATRIX_MXFP4 ||
           (w->type == TP_MATRIX_BF16 && w->columns % BF16_IN_16_BYTES == 0);
}

/* The parts of all tokens as columns of one product, if they fit. */
static uint32_t groups_of(const struct tp_stages *stages, size_t n)
{
    return stages->n_parts * n <= TP_FEW ? 1 : stages->n_parts;
}

static enum variant variant_of(const struct tp_stages *stages, const struct tp_gpu_matrix *w,
                               size_t n)
{
    if (!uses_tiles(stages, w))
        return ANY;
    bool one = groups_of(stages, n) == 1;
    if (w->type == TP_MATRIX_BF16)
        return one ? BF16_1 : BF16_3;
    return one ? MXFP4_1 : MXFP4_3;
}

/* The columns as a product with `w` wants them. */
static struct tp_columns columns_for(const struct tp_stages *stages,
                                     const struct tp_columns *columns,
                                     const struct tp_gpu_matrix *w)
{
    struct tp_columns for_w = *columns;
    for_w.shuffled = w->type == TP_MATRIX_MXFP4 && uses_tiles(stages, w);
    return for_w;
}

/* ---- launching ---- */

struct run {
    struct tp_stages *stages;
    size_t n, n_rows, longest;
    struct tp_shown *shown;
    struct tp_error *error;
    int rc;
};

static void launch(struct run *run, tp_kernel_fn *kernel, const void *arguments, size_t bytes,
                   size_t blocks, unsigned threads, size_t shared_bytes)
{
    struct tp_launch l = {.kernel = kernel,
                          .arguments = arguments,
                          .argument_bytes = bytes,
                          .grid = {(unsigned)blocks, 1, 1},
                          .threads = threads,
                          .shared_bytes = shared_bytes,
                          .follows = true};
    if (run->rc == 0)
        run->rc = tp_device_launch(run->stages->device, &l, run->error);
}

/* A stage over tiles of a matrix: as many blocks as run at the same time, at most. */
static void launch_stage(struct run *run, tp_kernel_fn *const *kernels,
                         const struct tp_gpu_matrix *w, const void *arguments, size_t bytes,
                         size_t n_tiles)
{
    const struct tp_stages *s = run->stages;
    enum variant variant = variant_of(s, w, run->n);
    size_t blocks = least(n_tiles, s->facts->n_multiprocessors * BLOCKS_PER_MULTIPROCESSOR);
    uint32_t groups = variant == ANY ? 1 : groups_of(s, run->n);
    launch(run, kernels[variant], arguments, bytes, blocks, TP_FEW_THREADS,
           tp_few_shared_bytes(groups, (uint32_t)run->n, s->routing.n_experts));
}

static void show(struct run *run, const char *name, size_t layer, const float *rows, size_t columns)
{
    if (run->rc == 0)
        run->rc = tp_shown_add(run->shown, run->stages->device, name, layer, rows, run->n, columns,
                               run->error);
}

static void show_router(struct run *run, size_t layer)
{
    const struct tp_stages *s = run->stages;
    const struct tp_routing *routing = &s->routing;
    if (s->model->config.n_experts == 0)
        return;
    show(run, "router_logits", layer, s->router_logits, routing->n_experts);
    if (run->rc == 0)
        run->rc = tp_shown_add_numbers(run->shown, s->device, "router_experts", layer,
                                       routing->chosen, run->n, routing->n_per_token, run->error);
    show(run, "router_weights", layer, routing->weights, routing->n_per_token);
}

static void embed(struct run *run, const struct tp_gpu_layer *first)
{
    struct tp_stages *s = run->stages;
    struct tp_few_embed a = {.embedding = s->weights->embedding,
                             .tokens = s->inputs.tokens,
                             .weight = first->input_norm,
                             .x = s->x,
                             .columns = s->columns,
                             .squares = s->embed_squares};
    launch(run, tp_few_embed, &a, sizeof a, run->n, TP_ROW_THREADS,
           TP_ROW_THREADS / 32 * sizeof(float));
}

static struct tp_places places_of(const struct tp_stages *s)
{
    return (struct tp_places){s->inputs.positions, s->inputs.sequence_of};
}

static struct tp_gpu_cache cache_of(const struct tp_stages *s, size_t layer)
{
    struct tp_gpu_cache cache = tp_cache_layer(s->plan, layer);
    cache.sequences = s->inputs.sequences;
    return cache;
}

/* In one launch where q, k and v are of one type, as they are in every published checkpoint. */
static void project_heads(struct run *run, size_t i)
{
    struct tp_stages *s = run->stages;
    const struct tp_model_config *c = &s->model->config;
    const struct tp_gpu_layer *layer = &s->weights->layers[i];
    uint32_t half = (uint32_t)c->head_dim / 2, n_heads = (uint32_t)c->n_heads,
             n_kv = (uint32_t)c->n_kv_heads;
    const struct {
        const struct tp_gpu_matrix *matrix;
        uint32_t n_units;
    } matrices[] = {
        {&layer->q, n_heads * half}, {&layer->k, n_kv * half}, {&layer->v, n_kv * half}};
    struct tp_few_heads a = {.q = layer->q,
                             .k = layer->k,
                             .v = layer->v,
                             .q_bias = layer->q_bias,
                             .k_bias = layer->k_bias,
                             .v_bias = layer->v_bias,
                             .columns = s->columns,
                             .squares = i == 0 ? s->embed_squares : s->squares,
                             .n_tokens = (uint32_t)run->n,
                             .n_heads = n_heads,
                             .cosines = s->inputs.cosines,
                             .sines = s->inputs.sines,
                             .places = places_of(s),
                             .cache = cache_of(s, i),
                             .queries = s->queries};
    for (size_t j = 0; j < 3; j++) {
        a.n_units += matrices[j].n_units;
        if (j < 2 && matrices[j].matrix->type == matrices[j + 1].matrix->type)
            continue;
        launch_stage(run, heads_kernels, matrices[j].matrix, &a, sizeof a,
                     (a.n_units + TP_TILE_UNITS - 1) / TP_TILE_UNITS);
        a.first_unit += a.n_units;
        a.n_units = 0;
    }
}

static void attend(struct run *run, size_t i)
{
    struct tp_stages *s = run->stages;
    const struct tp_model_config *c = &s->model->config;
    size_t window = c->windows[i], group = c->n_heads / c->n_kv_heads;
    size_t positions = window > 0 ? least(window, run->longest) : run->longest;
    size_t n_splits = least(splits_of(positions), splits_of(s->context));
    struct tp_attend a = {.places = places_of(s),
                          .cache = cache_of(s, i),
                          .n_heads = (uint32_t)c->n_heads,
                          .window = (uint32_t)window,
                          .scale = 1 / sqrtf((float)c->head_dim),
                          .sinks = s->weights->layers[i].sinks,
                          .queries = s->queries,
                          .n_splits = (uint32_t)n_splits,
                          .mixed = s->mixed,
                          .sums = s->mixed_sums,
                          .arrived = s->arrived,
                          .columns = s->mixed_columns};
    struct tp_launch l = {.kernel = tp_attend,
                          .arguments = &a,
                          .argument_bytes = sizeof a,
                          .grid = {(unsigned)run->n, (unsigned)c->n_kv_heads, (unsigned)n_splits},
                          .threads = TP_ATTEND_THREADS,
                          .shared_bytes =
                              tp_attend_shared_bytes((uint32_t)group, (uint32_t)c->head_dim),
                          .follows = true};
    if (run->rc == 0)
        run->rc = tp_device_launch(s->device, &l, run->error);
}

/* What makes the inner vectors, and what takes them: of all experts, or of the dense layer. */
static const struct tp_gpu_matrix *gate_up_of(const struct tp_stages *s, size_t i)
{
    const struct tp_gpu_layer *layer = &s->weights->layers[i];
    return s->model->config.n_experts > 0 ? &layer->gate_up : &layer->gate;
}

static const struct tp_gpu_matrix *down_of(const struct tp_stages *s, size_t i)
{
    const struct tp_gpu_layer *layer = &s->weights->layers[i];
    return s->model->config.n_experts > 0 ? &layer->experts_down : &layer->down;
}

static void project_output(struct run *run, size_t i)
{
    struct tp_stages *s = run->stages;
    const struct tp_gpu_layer *layer = &s->weights->layers[i];
    struct tp_few_output a = {.o = layer->o,
                              .bias = layer->o_bias,
                              .mixed = s->mixed_columns,
                              .n_tokens = (uint32_t)run->n,
                              .x = s->x,
                              .weight = layer->mlp_norm,
                              .columns = columns_for(s, &s->mlp_columns, gate_up_of(s, i)),
                              .squares = s->squares,
                              .router = layer->router,
                              .router_bias = layer->router_bias,
                              .router_sums = s->router_sums,
                              .router_logits = s->router_logits,
                              .routing = s->routing,
                              .arrived = s->arrived + TP_FEW * s->model->config.n_kv_heads};
    launch_stage(run, output_kernels, &layer->o, &a, sizeof a, tiles_of(layer->o.rows));
}

/* Experts that the tokens choose together, at most. */
static size_t most_active(const struct run *run)
{
    const struct tp_routing *routing = &run->stages->routing;
    return least(run->n * routing->n_per_token, routing->n_experts);
}

static void multiply_gate_up(struct run *run, size_t i)
{
    struct tp_stages *s = run->stages;
    const struct tp_model_config *c = &s->model->config;
    const struct tp_gpu_layer *layer = &s->weights->layers[i];
    const struct tp_gpu_matrix *w = gate_up_of(s, i);
    struct tp_few_gate_up a = {.gate_up = layer->gate_up,
                               .gate = layer->gate,
                               .up = layer->up,
                               .bias = layer->gate_up_bias,
                               .gate_bias = layer->gate_bias,
                               .up_bias = layer->up_bias,
                               .columns = columns_for(s, &s->mlp_columns, w),
                               .routing = s->routing,
                               .n_tokens = (uint32_t)run->n,
                               .inner = (uint32_t)c->intermediate_size,
                               .alpha = c->swiglu_alpha,
                               .limit = c->swiglu_limit,
                               .inners = columns_for(s, &s->inner_columns, down_of(s, i))};
    size_t n_tiles = (c->intermediate_size + TP_TILE_UNITS - 1) / TP_TILE_UNITS;
    launch_stage(run, gate_up_kernels, w, &a, sizeof a, most_active(run) * n_tiles);
}

static void multiply_down(struct run *run, size_t i)
{
    struct tp_stages *s = run->stages;
    const struct tp_model_config *c = &s->model->config;
    const struct tp_gpu_layer *layer = &s->weights->layers[i];
    bool is_last = i + 1 == c->n_layers;
    struct tp_few_down a = {.down = *down_of(s, i),
                            .bias = c->n_experts > 0 ? layer->experts_down_bias : layer->down_bias,
                            .inners = columns_for(s, &s->inner_columns, down_of(s, i)),
                            .routing = s->routing,
                            .n_tokens = (uint32_t)run->n,
                            .outputs = s->outputs,
                            .arrived = s->arrived + TP_FEW * c->n_kv_heads + 1,
                            .x = s->x,
                            .weight = is_last ? s->weights->final_norm
                                              : s->weights->layers[i + 1].input_norm,
                            .columns = s->columns,
                            .squares = s->squares};
    launch_stage(run, down_kernels, &a.down, &a, sizeof a,
                 most_active(run) * tiles_of(a.down.rows));
}

static void multiply_head(struct run *run)
{
    struct tp_stages *s = run->stages;
    struct tp_few_head a = {.head = s->weights->head,
                            .columns = s->columns,
                            .squares = s->squares,
                            .rows = s->inputs.rows,
                            .n_tokens = (uint32_t)run->n,
                            .n_rows = (uint32_t)run->n_rows,
                            .logits = s->logits};
    launch_stage(run, head_kernels, &a.head, &a, sizeof a, tiles_of(a.head.rows));
}

int tp_stages_run(struct tp_stages *stages, size_t n, size_t n_rows, size_t longest,
                  struct tp_shown *shown, struct tp_error *error)
{
    const struct tp_model_config *c = &stages->model->config;
    struct run run = {stages, n, n_rows, longest, shown, error, 0};
    embed(&run, &stages->weights->layers[0]);
    show(&run, "embedding", 0, stages->x, c->hidden_size);
    for (size_t i = 0; i < c->n_layers; i++) {
        project_heads(&run, i);
        show(&run, "queries", i, stages->queries, c->n_heads * c->head_dim);
        attend(&run, i);
        project_output(&run, i);
        show_router(&run, i);
        multiply_gate_up(&run, i);
        multiply_down(&run, i);
        show(&run, "residual", i, stages->x, c->hidden_size);
    }
    if (n_rows > 0)
        multiply_head(&run);
    return run.rc;
}

int tp_stages_run_one(struct tp_stages *stages, enum tp_stage stage, size_t layer, size_t n,
                      size_t longest, struct tp_error *error)
{
    struct tp_shown nothing = {0};
    struct run run = {stages, n, n, longest, &nothing, error, 0};
    switch (stage) {
    case TP_STAGE_EMBED:
        embed(&run, &stages->weights->layers[0]);
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
        multiply_head(&run);
        break;
    }
    return run.rc;
}

/* ---- opening ---- */

int tp_stages_init(struct tp_stages *stages, struct tp_error *error)
{
    struct arena arena = {NULL, 0};
    stages->memory_bytes = tp_stages_bytes(stages);
    int rc = tp_device_allocate(stages->device, stages->memory_bytes, &stages->memory, error);
    if (rc < 0)
        return rc;
    arena.memory = stages->memory;
    take_all(&arena, stages);
    /* Padding of columns and counters of arrivals stay zeros. */
    return tp_device_zero(stages->device, stages->memory, stages->memory_bytes, error);
}

void tp_stages_fini(struct tp_stages *stages)
{
    tp_device_free(stages->device, stages->memory);
    stages->memory = NULL;
}
