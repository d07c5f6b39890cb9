/* The forward pass on a GPU: see kernels.h for how it is cut into kernels. */
#include "cuda/backend.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/device.h"
#include "cuda/few_stages.h"
#include "cuda/many_stages.h"
#include "cuda/peaks.h"
#include "cuda/plan.h"
#include "cuda/sequence.h"
#include "cuda/shown.h"
#include "cuda/stage_times.h"
#include "cuda/weights.h"

/* Inputs of steps that the device may not have read yet. */
enum { N_INPUTS = 16 };

/* The kernels of a step of few tokens: the same for all with these. */
struct recorded {
    size_t n, n_rows, longest;
    struct tp_recording *recording;
};

struct tp_backend {
    const struct tp_model *model;
    struct tp_backend_options options;
    struct tp_device *device;
    struct tp_device_facts facts;
    struct tp_gpu_weights weights;
    struct tp_cache_plan plan;
    struct tp_step_model of;
    struct tp_few_stages few;
    struct tp_many_stages many;
    bool has_many;      /* steps of many tokens are computed as such, not in pieces of few */
    void *memory;       /* the device's, of all stages */
    uint8_t *inputs;    /* [N_INPUTS][input_bytes], for the device to read */
    void *input;        /* the device's */
    size_t input_bytes; /* of the largest step */
    size_t next_input;
    float *logits;             /* [TP_FEW][vocabulary], for the device to write */
    struct recorded *recorded; /* [n_recorded]: steps of few tokens */
    size_t n_recorded;
    char instructions[16];
};

/* ---- opening ---- */

static void cuda_close(struct tp_backend *cuda)
{
    if (cuda->device != NULL) {
        (void)tp_device_wait(cuda->device, NULL); /* nothing is read any more */
        for (size_t i = 0; i < cuda->n_recorded; i++)
            tp_device_recording_free(cuda->device, cuda->recorded[i].recording);
        tp_device_free(cuda->device, cuda->memory);
        tp_gpu_weights_free(cuda->device, &cuda->weights);
        tp_device_free_host(cuda->device, cuda->inputs);
        tp_device_free_host(cuda->device, cuda->logits);
        tp_device_close(cuda->device);
    }
    free(cuda->recorded);
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
    if (c->n_kv_heads > GRID_MAX || cuda->few.context / TP_GPU_KEY_SPLIT + 2 > GRID_MAX)
        return tp_error_set(error, -EOPNOTSUPP,
                            "%s: expected a context below %d tokens, found %zu; give a smaller "
                            "--context",
                            cuda->facts.name, (GRID_MAX - 2) * TP_GPU_KEY_SPLIT, cuda->few.context);
    return 0;
}

static size_t window_of(const struct tp_model_config *config)
{
    size_t window = 0;
    for (size_t i = 0; i < config->n_layers; i++)
        window = config->windows[i] > window ? config->windows[i] : window;
    return window;
}

/* All memory of the stages; without any of it they only count. */
static void take_stages(struct tp_backend *cuda, struct tp_arena *arena)
{
    cuda->input = tp_arena_take(arena, 1, cuda->input_bytes);
    tp_few_stages_take(&cuda->few, arena);
    if (cuda->has_many)
        tp_many_stages_take(&cuda->many, arena);
}

/* Of a tp_memory_plan. */
static uint64_t workspace_bytes(const void *owner, size_t context)
{
    struct tp_backend counted = *(const struct tp_backend *)owner;
    struct tp_arena arena = {NULL, 0};
    counted.few.context = context;
    take_stages(&counted, &arena);
    return arena.bytes;
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

static int allocate_host(struct tp_backend *cuda, struct tp_error *error)
{
    void *inputs, *logits;
    int rc = tp_device_allocate_host(cuda->device, N_INPUTS * cuda->input_bytes, &inputs, error);
    if (rc < 0)
        return rc;
    cuda->inputs = inputs;
    rc = tp_device_allocate_host(
        cuda->device, TP_FEW * cuda->model->config.vocab_size * sizeof(float), &logits, error);
    if (rc == 0)
        cuda->logits = logits;
    return rc;
}

/* What there will be, of a model whose weights need not be there yet. */
static void describe(struct tp_backend *cuda)
{
    const struct tp_model_config *c = &cuda->model->config;
    bool rounds = cuda->options.bf16_activations;
    size_t context = cuda->options.context > 0 ? cuda->options.context : c->context;
    size_t step_max = cuda->options.step_max > TP_FEW ? cuda->options.step_max : TP_FEW;
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
    cuda->few = (struct tp_few_stages){
        .of = &cuda->of, .n_parts = rounds ? 1 : TP_PARTS_MAX, .context = context};
    cuda->many = (struct tp_many_stages){
        .of = &cuda->of,
        .few = &cuda->few,
        .capacity = step_max,
        .n_parts = rounds || cuda->options.bf16_prompts ? 1 : TP_PARTS_MAX,
        .n_head_parts = rounds ? 1 : TP_PARTS_MAX,
    };
    cuda->has_many = tp_many_stages_can(&cuda->of);
    cuda->input_bytes = tp_step_input_bytes(c, step_max);
}

/* Cleared: padding of columns and counters of arrivals stay zeros. */
static int allocate_stages(struct tp_backend *cuda, struct tp_error *error)
{
    uint64_t bytes = workspace_bytes(cuda, cuda->few.context);
    struct tp_arena arena = {NULL, 0};
    int rc = tp_device_allocate(cuda->device, bytes, &cuda->memory, error);
    if (rc < 0)
        return tp_error_prefix(error, rc, "the workspace");
    arena.memory = cuda->memory;
    take_stages(cuda, &arena);
    return tp_device_zero(cuda->device, cuda->memory, bytes, error);
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
        rc = allocate_stages(cuda, error);
    cuda->has_many = rc == 0 && tp_many_stages_can_with(&cuda->of);
    return rc < 0 ? rc : allocate_host(cuda, error);
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

/* ---- a step, in pieces where it has to be ---- */

/* The tokens of all items one after the other, and how far they have come. */
struct cursor {
    const struct tp_step_item *items;
    size_t item, token; /* the next one */
    size_t left;        /* tokens */
};

static bool wants_logits(const struct tp_step_item *item, size_t token)
{
    return token >= item->n_tokens - item->n_logits;
}

/* Up to `capacity` tokens. `inputs` is the host's. */
static void fill(const struct tp_backend *cuda, struct cursor *cursor, size_t capacity,
                 const struct tp_step_inputs *inputs, struct tp_step *step)
{
    size_t half = cuda->model->config.head_dim / 2;
    while (step->n < capacity && cursor->left > 0) {
        const struct tp_step_item *item = &cursor->items[cursor->item];
        if (cursor->token == item->n_tokens) {
            cursor->item++;
            cursor->token = 0;
            continue;
        }
        size_t position = item->sequence->held.length + cursor->token, i = step->n++;
        inputs->tokens[i] = item->tokens[cursor->token];
        inputs->positions[i] = (uint32_t)position;
        inputs->sequence_of[i] = (uint32_t)i;
        inputs->sequences[i] =
            (struct tp_gpu_sequence){item->sequence->memory, (uint32_t)item->sequence->context};
        tp_rope_position(&cuda->model->rope, position, inputs->cosines + i * half,
                         inputs->sines + i * half);
        if (wants_logits(item, cursor->token))
            inputs->rows[step->n_rows++] = (uint32_t)i;
        step->longest = position + 1 > step->longest ? position + 1 : step->longest;
        cursor->token++;
        cursor->left--;
    }
}

/* Where the step's logits go. */
struct logits_target {
    struct tp_backend *cuda;
    float *next;
};

/* A tp_take_logits_fn. */
static int take_logits(void *context, const float *logits, size_t n, struct tp_error *error)
{
    struct logits_target *target = context;
    struct tp_backend *cuda = target->cuda;
    size_t numbers = n * cuda->model->config.vocab_size;
    int rc = tp_device_download(cuda->device, cuda->logits, logits, numbers * sizeof(float), error);
    if (rc == 0)
        rc = tp_device_wait(cuda->device, error);
    if (rc < 0)
        return rc;
    memcpy(target->next, cuda->logits, numbers * sizeof(float));
    target->next += numbers;
    return 0;
}

/* Steps of few tokens are recorded once and replayed from then on, whose kernels the host need not
 * start one by one. How many splits attention has grows with the text: in powers of two, so that
 * one recording serves many steps. */
static size_t round_up_length(const struct tp_backend *cuda, size_t longest)
{
    size_t length = TP_GPU_KEY_SPLIT;
    while (length < longest)
        length *= 2;
    return length < cuda->few.context ? length : cuda->few.context;
}

/* -ENOMEM when there is no room for another one. */
static int record(struct tp_backend *cuda, struct tp_step *step, struct recorded **ret_recorded)
{
    struct recorded *recorded =
        realloc(cuda->recorded, (cuda->n_recorded + 1) * sizeof *cuda->recorded);
    struct tp_recording *recording = NULL;
    if (recorded == NULL)
        return tp_error_set(step->error, -ENOMEM, "out of memory");
    cuda->recorded = recorded;
    int rc = tp_device_record_begin(cuda->device, step->error);
    if (rc < 0)
        return rc;
    tp_few_stages_run(&cuda->few, step);
    rc = tp_device_record_end(cuda->device, &recording, step->rc < 0 ? NULL : step->error);
    if (step->rc < 0 && rc == 0)
        tp_device_recording_free(cuda->device, recording);
    if (step->rc < 0 || rc < 0)
        return step->rc < 0 ? step->rc : rc;
    recorded[cuda->n_recorded] = (struct recorded){step->n, step->n_rows, step->longest, recording};
    *ret_recorded = &recorded[cuda->n_recorded++];
    return 0;
}

static void run_few(struct tp_backend *cuda, struct tp_step *step)
{
    struct recorded *found = NULL;
    bool stops = step->shown->trace != NULL && !tp_shown_wants_experts_only(step->shown);
    if (step->rc < 0 || stops) {
        tp_few_stages_run(&cuda->few, step);
        return;
    }
    step->longest = round_up_length(cuda, step->longest);
    for (size_t i = 0; i < cuda->n_recorded && found == NULL; i++) {
        struct recorded *r = &cuda->recorded[i];
        if (r->n == step->n && r->n_rows == step->n_rows && r->longest == step->longest)
            found = r;
    }
    if (found == NULL)
        step->rc = record(cuda, step, &found);
    if (step->rc == 0)
        step->rc = tp_device_replay(cuda->device, found->recording, step->error);
}

static int show_experts(const struct tp_backend *cuda, struct tp_shown *shown, bool is_many,
                        size_t n, struct tp_error *error)
{
    const struct tp_model_config *c = &cuda->model->config;
    size_t k = c->n_experts_per_token;
    if (c->n_experts == 0 || !tp_shown_wants_experts_only(shown))
        return 0;
    return tp_shown_add_experts(
        shown, cuda->device, is_many ? cuda->many.slots.chosen : cuda->few.routing.chosen,
        c->n_layers, (is_many ? cuda->many.capacity : (size_t)TP_FEW) * k, n, k, error);
}

static int run_piece(struct tp_backend *cuda, struct cursor *cursor, struct logits_target *target,
                     struct tp_shown *shown, struct tp_error *error)
{
    const struct tp_model_config *c = &cuda->model->config;
    bool is_many = cuda->has_many && cursor->left > TP_FEW;
    size_t capacity = is_many ? cuda->many.capacity : (size_t)TP_FEW;
    int rc = cuda->next_input == 0 ? tp_device_wait(cuda->device, error) : 0;
    if (rc < 0)
        return rc;
    void *memory = cuda->inputs + cuda->next_input * cuda->input_bytes;
    struct tp_step_inputs inputs = tp_step_inputs_at(c, capacity, memory);
    struct tp_step step = {.of = &cuda->of,
                           .inputs = tp_step_inputs_at(c, capacity, cuda->input),
                           .shown = shown,
                           .error = error};
    fill(cuda, cursor, capacity, &inputs, &step);
    step.n_tiles = is_many ? tp_many_tiles(c, &cuda->facts, &inputs, step.n) : 0;
    cuda->next_input = (cuda->next_input + 1) % N_INPUTS;
    step.rc = tp_device_upload(cuda->device, cuda->input, memory, tp_step_input_bytes(c, capacity),
                               error);
    if (is_many)
        tp_many_stages_run(&cuda->many, &step, take_logits, target);
    else
        run_few(cuda, &step);
    if (step.rc == 0 && !is_many && step.n_rows > 0)
        step.rc = take_logits(target, cuda->few.logits, step.n_rows, error);
    if (step.rc == 0)
        step.rc = show_experts(cuda, shown, is_many, step.n, error);
    shown->first += step.n;
    return step.rc;
}

static int check(const struct tp_backend *cuda, const struct tp_step_item *items, size_t n)
{
    size_t rows = 0;
    for (size_t i = 0; i < n; i++) {
        const struct tp_sequence *sequence = items[i].sequence;
        if (items[i].n_tokens > sequence->context - sequence->held.length)
            return -ENOSPC;
        if (items[i].n_logits > items[i].n_tokens ||
            items[i].n_tokens > cuda->options.step_max - rows)
            return -EINVAL;
        for (size_t t = 0; t < items[i].n_tokens; t++) {
            if (items[i].tokens[t] >= cuda->model->config.vocab_size)
                return -EINVAL;
        }
        rows += items[i].n_tokens;
    }
    return 0;
}

static int cuda_step(struct tp_backend *cuda, const struct tp_step_item *items, size_t n,
                     float *logits, const struct tp_trace *trace, struct tp_error *error)
{
    struct cursor cursor = {.items = items};
    struct logits_target target = {cuda, logits};
    struct tp_shown shown = {.trace = trace};
    int rc = check(cuda, items, n);
    if (rc < 0)
        return tp_error_set(error, rc, "cannot compute: %s", strerror(-rc));
    for (size_t i = 0; i < n; i++)
        cursor.left += items[i].n_tokens;
    shown.n_rows = cursor.left;
    while (rc == 0 && cursor.left > 0)
        rc = run_piece(cuda, &cursor, &target, &shown, error);
    if (rc == 0)
        tp_shown_emit(&shown);
    tp_shown_free(&shown);
    for (size_t i = 0; rc == 0 && i < n; i++)
        items[i].sequence->held.length += items[i].n_tokens;
    return rc;
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
        .multiply_adds = peaks.multiply_adds / cuda->few.n_parts, /* each is a product */
    };
    return 0;
}

static int cuda_measure_stages(struct tp_backend *cuda, size_t n, size_t depth,
                               tp_backend_stage_fn *see, void *context, struct tp_error *error)
{
    return tp_stage_times(&cuda->few, cuda->input, n, depth, see, context, error);
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
    .measure = cuda_measure,
    .measure_stages = cuda_measure_stages,
};

extern const struct tp_plugin tp_plugin;
__attribute__((visibility("default")))
const struct tp_plugin tp_plugin = {TP_PLUGIN_INTERFACE, &tp_backend_cuda};
