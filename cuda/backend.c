/* The forward pass on a GPU: see kernels.h for how it is cut into kernels. */
#include "cuda/backend.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/decoding.h"
#include "cuda/device.h"
#include "cuda/peaks.h"
#include "cuda/plan.h"
#include "cuda/runner.h"
#include "cuda/sequence.h"
#include "cuda/shown.h"
#include "cuda/stage_times.h"
#include "cuda/weights.h"

struct tp_backend {
    const struct tp_model *model;
    struct tp_backend_options options;
    struct tp_device *device;
    struct tp_device_facts facts;
    struct tp_gpu_weights weights;
    struct tp_cache_plan plan;
    struct tp_step_model of;
    struct tp_runner runner;
    struct tp_decoding decoding;
    char instructions[16];
};

/* ---- opening ---- */

static void cuda_close(struct tp_backend *cuda)
{
    if (cuda->device != NULL) {
        (void)tp_device_wait(cuda->device, NULL); /* nothing is read any more */
        if (cuda->runner.of != NULL) {
            tp_decoding_free(&cuda->decoding);
            tp_runner_free(&cuda->runner);
        }
        tp_gpu_weights_free(cuda->device, &cuda->weights);
        tp_device_close(cuda->device);
    }
    free(cuda);
}

/* Kernels for MXFP4 are those of MLPs and experts. */
static int check_types(const struct tp_model *model, struct tp_error *error)
{
    bool fits = model->embedding.type != TP_MATRIX_MXFP4 && model->head.type != TP_MATRIX_MXFP4;
    for (size_t i = 0; fits && i < model->config.n_layers; i++) {
        const struct tp_model_layer *layer = &model->layers[i];
        const struct tp_matrix *const matrices[] = {&layer->q, &layer->k, &layer->v, &layer->o,
                                                    &layer->router};
        for (size_t j = 0; j < sizeof matrices / sizeof *matrices; j++)
            fits = fits && matrices[j]->type != TP_MATRIX_MXFP4;
    }
    return fits ? 0
                : tp_error_set(error, -EOPNOTSUPP,
                               "attention, router, embedding or lm_head is MXFP4: expected that of "
                               "MLPs and experts only; give --backend cpu, or quantise with "
                               "--include '*mlp*'");
}

/* What is not built for a GPU, and what no kernel could address. */
static int check_model(const struct tp_model *model, const struct tp_backend_options *options,
                       struct tp_error *error)
{
    const struct tp_model_config *c = &model->config;
    size_t window = 0;
    if (options->int8_dense)
        return tp_error_set(error, -EOPNOTSUPP,
                            "--dense int8 is for the CPU; leave it out, or give --backend cpu");
    for (size_t i = 0; i < c->n_layers; i++) {
        if (window > 0 && c->windows[i] > 0 && c->windows[i] != window)
            return tp_error_set(error, -EOPNOTSUPP,
                                "layers with windows of %zu and of %zu keys: expected one size; "
                                "give --backend cpu",
                                window, c->windows[i]);
        window = c->windows[i] > 0 ? c->windows[i] : window;
        if (c->n_experts == 0 && model->layers[i].gate.type != model->layers[i].up.type)
            return tp_error_set(error, -EOPNOTSUPP,
                                "layer %zu: gate and up are of different types: expected one; give "
                                "--backend cpu",
                                i);
    }
    return 0;
}

/* What is larger than a device's blocks and grids. */
static int check_kernels(const struct tp_backend *cuda, struct tp_error *error)
{
    enum { GRID_MAX = 65535, GROUPS_MAX = TP_PARTS_MAX };
    const struct tp_model_config *c = &cuda->model->config;
    size_t has = cuda->facts.shared_bytes_max;
    size_t heads =
        tp_attend_shared_bytes((uint32_t)(c->n_heads / c->n_kv_heads), (uint32_t)c->head_dim);
    size_t experts = tp_few_shared_bytes(GROUPS_MAX, TP_FEW, (uint32_t)c->n_experts);
    if (heads > has || experts > has)
        return tp_error_set(error, -EOPNOTSUPP,
                            "%s: a block has %zu bytes of memory, %s take %zu; give --backend cpu",
                            cuda->facts.name, has,
                            heads > has ? "a key's heads and their size" : "so many experts",
                            heads > has ? heads : experts);
    if (c->n_kv_heads > GRID_MAX || cuda->runner.few.context / TP_GPU_KEY_SPLIT + 2 > GRID_MAX)
        return tp_error_set(error, -EOPNOTSUPP,
                            "%s: expected a context below %d tokens, found %zu; give a smaller "
                            "--context",
                            cuda->facts.name, (GRID_MAX - 2) * TP_GPU_KEY_SPLIT,
                            cuda->runner.few.context);
    return 0;
}

static size_t window_of(const struct tp_model_config *config)
{
    size_t window = 0;
    for (size_t i = 0; i < config->n_layers; i++)
        window = config->windows[i] > window ? config->windows[i] : window;
    return window;
}

/* Of a tp_memory_plan. */
static uint64_t workspace_bytes(const void *owner, size_t context)
{
    const struct tp_backend *cuda = owner;
    return tp_runner_bytes(&cuda->runner, context);
}

/* Told in advance. */
static int check_memory(const struct tp_backend *cuda, struct tp_error *error)
{
    const struct tp_memory_plan plan = {
        .device = cuda->facts.name,
        .available = cuda->facts.memory_available,
        .weights = tp_gpu_weights_bytes(cuda->model),
        .cache = &cuda->plan,
        .context = cuda->plan.context_max,
        .n_sequences = cuda->options.n_sequences,
        .workspace_bytes = workspace_bytes,
        .owner = cuda,
    };
    return tp_memory_plan_check(&plan, error);
}

static size_t step_max_of(const struct tp_backend *cuda)
{
    return cuda->options.step_max > TP_FEW ? cuda->options.step_max : TP_FEW;
}

/* What there will be, of a model whose weights need not be there yet. */
static void describe(struct tp_backend *cuda)
{
    const struct tp_model_config *c = &cuda->model->config;
    bool rounds = cuda->options.bf16_activations;
    size_t context = cuda->options.context > 0 ? cuda->options.context : c->context;
    size_t step_max = step_max_of(cuda);
    cuda->plan = (struct tp_cache_plan){.device = cuda->device,
                                        .config = c,
                                        .ring_capacity = window_of(c) + step_max,
                                        .context_max = context,
                                        .bf16 = cuda->options.bf16_cache};
    cuda->of = (struct tp_step_model){.device = cuda->device,
                                      .facts = &cuda->facts,
                                      .model = cuda->model,
                                      .weights = &cuda->weights,
                                      .plan = &cuda->plan};
    struct tp_runner *runner = &cuda->runner;
    *runner = (struct tp_runner){
        .of = &cuda->of,
        .few = {.of = &cuda->of, .n_parts = rounds ? 1 : TP_PARTS_MAX, .context = context},
        .many = {.of = &cuda->of,
                 .few = &runner->few,
                 .capacity = step_max,
                 .n_parts = rounds || cuda->options.bf16_prompts ? 1 : TP_PARTS_MAX,
                 .n_head_parts = rounds ? 1 : TP_PARTS_MAX},
        .has_many = tp_many_stages_can(&cuda->of),
        .choosing = {.of = &cuda->of, .capacity = step_max},
    };
}

static int open_all(struct tp_backend *cuda, struct tp_error *error)
{
    int rc = check_model(cuda->model, &cuda->options, error);
    if (rc == 0)
        rc = tp_device_open(&cuda->device, &cuda->facts, error);
    if (rc == 0) /* nothing to tell where there is no GPU */
        rc = check_types(cuda->model, error);
    if (rc < 0)
        return rc;
    describe(cuda);
    rc = check_kernels(cuda, error);
    if (rc == 0)
        rc = check_memory(cuda, error);
    if (rc == 0)
        rc = tp_gpu_weights_load(cuda->device, cuda->model, &cuda->options, &cuda->weights, error);
    if (rc == 0)
        rc = tp_runner_allocate(&cuda->runner, error);
    cuda->runner.has_many = rc == 0 && tp_many_stages_can_with(&cuda->of);
    return rc < 0 ? rc
                  : tp_decoding_allocate(&cuda->decoding, &cuda->runner, step_max_of(cuda), error);
}

static int cuda_open(const struct tp_model *model, const struct tp_backend_options *options,
                     struct tp_backend **ret_backend, struct tp_error *error)
{
    struct tp_backend *cuda = calloc(1, sizeof *cuda);
    if (cuda == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    cuda->model = model;
    cuda->options = *options;
    int rc = open_all(cuda, error);
    if (rc < 0)
        cuda_close(cuda);
    else
        *ret_backend = cuda;
    return rc;
}

/* ---- steps ---- */

static int cuda_step(struct tp_backend *cuda, const struct tp_step_item *items, size_t n,
                     float *logits, const struct tp_trace *trace, struct tp_error *error)
{
    int rc = tp_step_check(&tp_backend_cuda, items, n, cuda->options.step_max,
                           cuda->model->config.vocab_size);
    if (rc < 0)
        return tp_error_set(error, rc, "cannot compute: %s", strerror(-rc));
    rc = tp_runner_step(&cuda->runner, items, n, logits, trace, error);
    for (size_t i = 0; rc == 0 && i < n; i++)
        items[i].sequence->held.length += items[i].n_tokens;
    return rc;
}

static int cuda_decode_begin(struct tp_backend *cuda, const struct tp_decoding_text *texts,
                             size_t n, const struct tp_sampling *sampling, size_t n_most,
                             struct tp_error *error)
{
    return tp_decoding_begin(&cuda->decoding, texts, n, sampling, n_most, error);
}

static int cuda_decode_next(struct tp_backend *cuda, uint32_t *ret_tokens, struct tp_error *error)
{
    return tp_decoding_next(&cuda->decoding, ret_tokens, error);
}

static int cuda_decode_end(struct tp_backend *cuda, struct tp_error *error)
{
    return tp_decoding_end(&cuda->decoding, error);
}

/* ---- sequences ---- */

static uint64_t cuda_memory_available(const struct tp_backend *cuda)
{
    uint64_t bytes;
    return tp_device_memory_available(cuda->device, &bytes, NULL) == 0 ? bytes : 0;
}

static int cuda_sequence_bytes(const struct tp_backend *cuda, size_t context, uint64_t *ret_bytes)
{
    return tp_gpu_sequence_bytes(&cuda->plan, context, ret_bytes);
}

static int cuda_sequence_new(struct tp_backend *cuda, size_t context,
                             struct tp_sequence **ret_sequence, struct tp_error *error)
{
    return tp_gpu_sequence_new(&cuda->plan, context, ret_sequence, error);
}

static size_t cuda_sequence_length(const struct tp_sequence *sequence)
{
    return sequence->held.length;
}

static size_t cuda_sequence_context(const struct tp_sequence *sequence)
{
    return sequence->context;
}

static int cuda_sequence_cut(struct tp_sequence *sequence, size_t length)
{
    return tp_held_cut(&sequence->held, length);
}

static size_t cuda_sequence_first(const struct tp_sequence *sequence, size_t layer)
{
    return tp_held_first(&sequence->held, layer);
}

static int cuda_sequence_resume(struct tp_sequence *sequence, const size_t *firsts, size_t length)
{
    return tp_held_resume(&sequence->held, firsts, length);
}

/* ---- measuring ---- */

static int cuda_measure(struct tp_backend *cuda, bool small_pages,
                        struct tp_backend_limits *ret_limits, struct tp_error *error)
{
    struct tp_peaks peaks;
    int rc = tp_peaks_of_device(cuda->device, &cuda->facts, &peaks, error);
    (void)small_pages;
    if (rc < 0)
        return rc;
    snprintf(cuda->instructions, sizeof cuda->instructions, "sm_%u", cuda->facts.architecture);
    *ret_limits = (struct tp_backend_limits){
        .device = cuda->facts.name,
        .instructions = cuda->instructions,
        .n_threads = cuda->facts.n_multiprocessors,
        .read_bandwidth = peaks.copy_bandwidth,
        .multiply_adds = peaks.multiply_adds / cuda->runner.few.n_parts, /* each is a product */
    };
    return 0;
}

static int cuda_measure_stages(struct tp_backend *cuda, size_t n, size_t depth,
                               tp_backend_stage_fn *see, void *context, struct tp_error *error)
{
    return tp_stage_times(&cuda->runner.few, cuda->runner.input, n, depth, see, context, error);
}

const struct tp_backend_kind tp_backend_cuda = {
    .name = "cuda",
    .bf16_cache_by_default = true,
    .bf16_prompts_by_default = true,
    .loads_by_itself = true,
    .open = cuda_open,
    .close = cuda_close,
    .memory_available = cuda_memory_available,
    .sequence_bytes = cuda_sequence_bytes,
    .sequence_new = cuda_sequence_new,
    .sequence_free = tp_gpu_sequence_free,
    .sequence_length = cuda_sequence_length,
    .sequence_context = cuda_sequence_context,
    .sequence_cut = cuda_sequence_cut,
    .sequence_width = tp_gpu_sequence_width,
    .sequence_first = cuda_sequence_first,
    .sequence_export = tp_gpu_sequence_export,
    .sequence_import = tp_gpu_sequence_import,
    .sequence_resume = cuda_sequence_resume,
    .step = cuda_step,
    .decode_begin = cuda_decode_begin,
    .decode_next = cuda_decode_next,
    .decode_end = cuda_decode_end,
    .measure = cuda_measure,
    .measure_stages = cuda_measure_stages,
};

extern const struct tp_plugin tp_plugin;
__attribute__((visibility("default")))
const struct tp_plugin tp_plugin = {TP_PLUGIN_INTERFACE, &tp_backend_cuda};
