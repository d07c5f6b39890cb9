/* The forward pass on the CPU.
 *
 * Shapes: T tokens of all sequences in the step, H hidden, Q = heads * head size, KV = KV heads *
 * head size, I inner size of an expert or of the dense layer, K experts a token, V vocabulary. */
#include "infer/backend.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "infer/cpu/attention.h"
#include "infer/cpu/layers.h"
#include "infer/cpu/mixture.h"
#include "infer/cpu/multiply.h"
#include "infer/cpu/peaks.h"
#include "infer/cpu/quantized.h"
#include "infer/cpu/sequence.h"
#include "infer/cpu/workspace.h"

struct tp_backend {
    const struct tp_model *model;
    struct tp_backend_options options;
    enum tp_activations activations;
    struct tp_workspace workspace;
    struct tp_quantized quantized; /* where options.int8_dense: then `model` is its model */
    struct tp_mixture mixture;
    /* [T][...], T up to options.step_max */
    float *x;                        /* [H]: the residual stream */
    float *normed;                   /* [H] */
    float *queries;                  /* [Q]; what attention mixes takes its place in `mixed` */
    float *keys, *values;            /* [KV] */
    float *mixed;                    /* [Q] */
    float *update;                   /* [H]: what a layer adds */
    float *gate, *up;                /* [I]: dense models */
    float *cosines, *sines;          /* [head size / 2] */
    struct tp_attention *attentions; /* [T]: one for each sequence */
};

static float **float_buffers(struct tp_backend *cpu, size_t i, size_t *ret_columns)
{
    const struct tp_model_config *c = &cpu->model->config;
    size_t inner = c->n_experts > 0 ? 0 : c->intermediate_size;
    struct {
        float **buffer;
        size_t columns;
    } all[] = {
        {&cpu->x, c->hidden_size},
        {&cpu->normed, c->hidden_size},
        {&cpu->queries, c->n_heads * c->head_dim},
        {&cpu->keys, c->n_kv_heads * c->head_dim},
        {&cpu->values, c->n_kv_heads * c->head_dim},
        {&cpu->mixed, c->n_heads * c->head_dim},
        {&cpu->update, c->hidden_size},
        {&cpu->gate, inner},
        {&cpu->up, inner},
        {&cpu->cosines, c->head_dim / 2},
        {&cpu->sines, c->head_dim / 2},
    };
    if (i >= sizeof all / sizeof *all)
        return NULL;
    *ret_columns = all[i].columns;
    return all[i].buffer;
}

static void cpu_close(struct tp_backend *cpu)
{
    size_t columns;
    float **buffer;
    for (size_t i = 0; (buffer = float_buffers(cpu, i, &columns)) != NULL; i++)
        free(*buffer);
    free(cpu->attentions);
    tp_mixture_fini(&cpu->mixture);
    tp_quantized_clear(&cpu->quantized);
    tp_workspace_fini(&cpu->workspace);
    free(cpu);
}

static int allocate(struct tp_backend *cpu)
{
    size_t columns;
    float **buffer;
    for (size_t i = 0; (buffer = float_buffers(cpu, i, &columns)) != NULL; i++) {
        *buffer = calloc(cpu->options.step_max, (columns + 1) * sizeof **buffer);
        if (*buffer == NULL)
            return -ENOMEM;
    }
    cpu->attentions = calloc(cpu->options.step_max, sizeof *cpu->attentions);
    const struct tp_model_config *c = &cpu->model->config;
    struct tp_mixture_shape shape = {c->n_experts, c->n_experts_per_token, c->hidden_size,
                                     c->intermediate_size};
    return cpu->attentions == NULL ? -ENOMEM
                                   : tp_mixture_init(&shape, cpu->options.step_max, &cpu->mixture);
}

static int cpu_open(const struct tp_model *model, const struct tp_backend_options *options,
                    struct tp_backend **ret_backend, struct tp_error *error)
{
    struct tp_backend *cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    cpu->model = model;
    cpu->options = *options;
    cpu->activations = options->bf16_activations ? TP_ACTIVATIONS_BF16 : TP_ACTIVATIONS_F32;
    int rc =
        tp_workspace_init(&cpu->workspace, tp_kernels(), options->n_threads, options->pin, error);
    if (rc == 0 && (rc = allocate(cpu)) < 0)
        tp_error_set(error, rc, "out of memory");
    if (rc == 0 && options->int8_dense) {
        rc = tp_quantized_init(&cpu->quantized, model, &cpu->workspace, error);
        cpu->model = &cpu->quantized.model;
    }
    if (rc < 0)
        cpu_close(cpu);
    else
        *ret_backend = cpu;
    return rc;
}

/* ---- the pieces of a layer; T rows each ---- */

static void see(const struct tp_trace *trace, const char *name, size_t layer, const float *values,
                size_t rows, size_t columns)
{
    if (trace != NULL)
        trace->see(trace->context, name, layer, values, rows, columns);
}

static void see_router(const struct tp_trace *trace, struct tp_mixture *mixture,
                       const struct tp_model_config *config, size_t layer, size_t rows)
{
    size_t k = config->n_experts_per_token;
    if (trace == NULL)
        return;
    see(trace, "router_logits", layer, mixture->logits, rows, config->n_experts);
    see(trace, "router_experts", layer, tp_mixture_choices(mixture, rows), rows, k);
    see(trace, "router_weights", layer, mixture->weights, rows, k);
}

static struct tp_vectors vectors_of(const float *x, size_t rows, size_t columns)
{
    return (struct tp_vectors){
        .x = x, .n_x = rows, .columns = columns, .stride = columns, .n = rows};
}

static struct tp_product product_of(struct tp_matrix w, const float *bias, float *y, size_t rows)
{
    return (struct tp_product){.w = w, .bias = bias, .n = rows, .y = y, .y_stride = w.rows};
}

/* y[T][rows of w] = x w^T + bias */
static int project(struct tp_backend *cpu, const float *x, const struct tp_matrix *w,
                   const float *bias, size_t rows, float *y)
{
    struct tp_vectors vectors = vectors_of(x, rows, w->columns);
    struct tp_product product = product_of(*w, bias, y, rows);
    return tp_multiply(&cpu->workspace, &vectors, cpu->activations, &product, 1);
}

/* Queries, keys and values of the new tokens, turned to their positions. Of float32 activations
 * whatever the others are: rounded ones here cost more precision than anywhere else, in scores and
 * then in what the routers choose, for an eighth of the work. */
static int project_heads(struct tp_backend *cpu, const struct tp_model_layer *layer, size_t rows)
{
    const struct tp_model_config *c = &cpu->model->config;
    struct tp_vectors vectors = vectors_of(cpu->normed, rows, c->hidden_size);
    struct tp_product products[] = {
        product_of(layer->q, layer->q_bias, cpu->queries, rows),
        product_of(layer->k, layer->k_bias, cpu->keys, rows),
        product_of(layer->v, layer->v_bias, cpu->values, rows),
    };
    int rc = tp_multiply(&cpu->workspace, &vectors, TP_ACTIVATIONS_F32, products, 3);
    if (rc < 0)
        return rc;
    tp_rotate_rows(&cpu->workspace, cpu->queries, rows, c->n_heads * c->head_dim, c->n_heads,
                   c->head_dim, cpu->cosines, cpu->sines);
    tp_rotate_rows(&cpu->workspace, cpu->keys, rows, c->n_kv_heads * c->head_dim, c->n_kv_heads,
                   c->head_dim, cpu->cosines, cpu->sines);
    return 0;
}

/* Puts keys and values into the caches, and mixes what each token attends to: [T][Q]. */
static int attend(struct tp_backend *cpu, const struct tp_step_item *items, size_t n, size_t i)
{
    const struct tp_model_config *c = &cpu->model->config;
    const struct tp_model_layer *layer = &cpu->model->layers[i];
    size_t query = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim, row = 0;
    for (size_t item = 0; item < n; item++) {
        struct tp_sequence *sequence = items[item].sequence;
        for (size_t t = 0; t < items[item].n_tokens; t++)
            tp_kv_cache_store(&sequence->caches[i], sequence->held.length + t,
                              cpu->keys + (row + t) * kv, cpu->values + (row + t) * kv);
        cpu->attentions[item] = (struct tp_attention){
            .cache = &sequence->caches[i],
            .n_heads = c->n_heads,
            .first = sequence->held.length,
            .n = items[item].n_tokens,
            .window = c->windows[i],
            .scale = 1 / sqrtf((float)c->head_dim),
            .sinks = layer->sinks,
            .queries = cpu->queries + row * query,
            .mixed = cpu->mixed + row * query,
        };
        row += items[item].n_tokens;
    }
    return tp_attend(&cpu->workspace, cpu->attentions, n);
}

/* update[T][H] = down (silu(gate x) * (up x)) */
static int dense(struct tp_backend *cpu, const struct tp_model_layer *layer, size_t rows)
{
    struct tp_vectors vectors = vectors_of(cpu->normed, rows, layer->gate.columns);
    struct tp_product products[] = {
        product_of(layer->gate, layer->gate_bias, cpu->gate, rows),
        product_of(layer->up, layer->up_bias, cpu->up, rows),
    };
    int rc = tp_multiply(&cpu->workspace, &vectors, cpu->activations, products, 2);
    if (rc < 0)
        return rc;
    tp_silu_product_rows(&cpu->workspace, cpu->gate, cpu->up, rows, layer->gate.rows, cpu->gate);
    return project(cpu, cpu->gate, &layer->down, layer->down_bias, rows, cpu->update);
}

static int compute_layer(struct tp_backend *cpu, const struct tp_step_item *items, size_t n,
                         size_t i, size_t rows, const struct tp_trace *trace)
{
    const struct tp_model_config *c = &cpu->model->config;
    const struct tp_model_layer *layer = &cpu->model->layers[i];
    struct tp_workspace *workspace = &cpu->workspace;

    tp_rms_norm_rows(workspace, cpu->x, layer->input_norm, rows, c->hidden_size, c->rms_norm_eps,
                     cpu->normed);
    see(trace, "input_norm", i, cpu->normed, rows, c->hidden_size);
    int rc = project_heads(cpu, layer, rows);
    if (rc < 0)
        return rc;
    see(trace, "queries", i, cpu->queries, rows, c->n_heads * c->head_dim);
    see(trace, "keys", i, cpu->keys, rows, c->n_kv_heads * c->head_dim);
    see(trace, "values", i, cpu->values, rows, c->n_kv_heads * c->head_dim);
    rc = attend(cpu, items, n, i);
    if (rc < 0)
        return rc;
    see(trace, "mixed", i, cpu->mixed, rows, c->n_heads * c->head_dim);
    rc = project(cpu, cpu->mixed, &layer->o, layer->o_bias, rows, cpu->update);
    if (rc < 0)
        return rc;
    see(trace, "attention", i, cpu->update, rows, c->hidden_size);
    tp_add_rows(workspace, cpu->x, cpu->update, rows, c->hidden_size);

    tp_rms_norm_rows(workspace, cpu->x, layer->mlp_norm, rows, c->hidden_size, c->rms_norm_eps,
                     cpu->normed);
    see(trace, "mlp_norm", i, cpu->normed, rows, c->hidden_size);
    rc = c->n_experts > 0 ? tp_mixture_compute(&cpu->mixture, workspace, c, layer, cpu->activations,
                                               cpu->normed, rows, cpu->update)
                          : dense(cpu, layer, rows);
    if (rc < 0)
        return rc;
    if (c->n_experts > 0)
        see_router(trace, &cpu->mixture, c, i, rows);
    see(trace, "mlp", i, cpu->update, rows, c->hidden_size);
    tp_add_rows(workspace, cpu->x, cpu->update, rows, c->hidden_size);
    see(trace, "residual", i, cpu->x, rows, c->hidden_size);
    return 0;
}

/* ---- a step ---- */

/* Embeddings, and where each token stands. */
static void begin(struct tp_backend *cpu, const struct tp_step_item *items, size_t n)
{
    const struct tp_model_config *c = &cpu->model->config;
    size_t pairs = c->head_dim / 2, row = 0;
    for (size_t item = 0; item < n; item++) {
        for (size_t t = 0; t < items[item].n_tokens; t++, row++) {
            tp_matrix_row(&cpu->model->embedding, items[item].tokens[t],
                          cpu->x + row * c->hidden_size);
            tp_rope_position(&cpu->model->rope, items[item].sequence->held.length + t,
                             cpu->cosines + row * pairs, cpu->sines + row * pairs);
        }
    }
}

/* The rows whose logits are wanted, side by side. */
static size_t gather(struct tp_backend *cpu, const struct tp_step_item *items, size_t n)
{
    size_t hidden = cpu->model->config.hidden_size, row = 0, n_wanted = 0;
    for (size_t item = 0; item < n; item++) {
        size_t first = row + items[item].n_tokens - items[item].n_logits;
        memmove(cpu->x + n_wanted * hidden, cpu->x + first * hidden,
                items[item].n_logits * hidden * sizeof *cpu->x);
        n_wanted += items[item].n_logits;
        row += items[item].n_tokens;
    }
    return n_wanted;
}

static int step(struct tp_backend *cpu, const struct tp_step_item *items, size_t n, float *logits,
                const struct tp_trace *trace)
{
    const struct tp_model *model = cpu->model;
    const struct tp_model_config *c = &model->config;
    size_t rows = 0;
    int rc = tp_step_check(&tp_backend_cpu, items, n, cpu->options.step_max, c->vocab_size);
    for (size_t i = 0; i < n; i++)
        rows += items[i].n_tokens;
    if (rc < 0 || rows == 0)
        return rc;
    begin(cpu, items, n);
    see(trace, "embedding", 0, cpu->x, rows, c->hidden_size);
    for (size_t i = 0; rc == 0 && i < c->n_layers; i++)
        rc = compute_layer(cpu, items, n, i, rows, trace);
    if (rc < 0)
        return rc;
    size_t n_wanted = gather(cpu, items, n);
    if (n_wanted > 0) {
        tp_rms_norm_rows(&cpu->workspace, cpu->x, model->final_norm, n_wanted, c->hidden_size,
                         c->rms_norm_eps, cpu->normed);
        see(trace, "norm", c->n_layers, cpu->normed, n_wanted, c->hidden_size);
        rc = project(cpu, cpu->normed, &model->head, NULL, n_wanted, logits);
    }
    for (size_t i = 0; rc == 0 && i < n; i++)
        items[i].sequence->held.length += items[i].n_tokens;
    return rc;
}

static int cpu_step(struct tp_backend *cpu, const struct tp_step_item *items, size_t n,
                    float *logits, const struct tp_trace *trace, struct tp_error *error)
{
    int rc = step(cpu, items, n, logits, trace);
    return rc < 0 ? tp_error_set(error, rc, "cannot compute: %s", strerror(-rc)) : 0;
}

/* ---- sequences ---- */

static int cpu_sequence_bytes(const struct tp_backend *cpu, size_t context, uint64_t *ret_bytes)
{
    return tp_sequence_bytes(&cpu->model->config, context, cpu->options.step_max,
                             cpu->options.bf16_cache, ret_bytes);
}

static int cpu_sequence_new(struct tp_backend *cpu, size_t context,
                            struct tp_sequence **ret_sequence, struct tp_error *error)
{
    return tp_sequence_new(&cpu->model->config, context, cpu->options.step_max,
                           cpu->options.bf16_cache, ret_sequence, error);
}

static size_t cpu_sequence_length(const struct tp_sequence *sequence)
{
    return sequence->held.length;
}

static int cpu_sequence_cut(struct tp_sequence *sequence, size_t length)
{
    return tp_held_cut(&sequence->held, length);
}

static size_t cpu_sequence_first(const struct tp_sequence *sequence, size_t layer)
{
    return tp_held_first(&sequence->held, layer);
}

static int cpu_sequence_resume(struct tp_sequence *sequence, const size_t *firsts, size_t length)
{
    return tp_held_resume(&sequence->held, firsts, length);
}

static size_t cpu_sequence_context(const struct tp_sequence *sequence)
{
    return sequence->context;
}

/* ---- what it could do at most ---- */

static int cpu_measure(struct tp_backend *cpu, bool small_pages,
                       struct tp_backend_limits *ret_limits, struct tp_error *error)
{
    return tp_peaks_measure(&cpu->workspace, cpu->options.bf16_activations, small_pages, ret_limits,
                            error);
}

const struct tp_backend_kind tp_backend_cpu = {
    .name = "cpu",
    .same_bits_in_any_steps = true,
    .open = cpu_open,
    .close = cpu_close,
    .sequence_bytes = cpu_sequence_bytes,
    .sequence_new = cpu_sequence_new,
    .sequence_free = tp_sequence_free,
    .sequence_length = cpu_sequence_length,
    .sequence_context = cpu_sequence_context,
    .sequence_cut = cpu_sequence_cut,
    .sequence_width = tp_sequence_width,
    .sequence_first = cpu_sequence_first,
    .sequence_export = tp_sequence_export,
    .sequence_import = tp_sequence_import,
    .sequence_resume = cpu_sequence_resume,
    .step = cpu_step,
    .measure = cpu_measure,
};
