/* The forward pass on a GPU: see kernels.h for how it is cut into kernels. */
#include "cuda/backend.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/device.h"
#include "cuda/plan.h"
#include "cuda/sequence.h"
#include "cuda/shown.h"
#include "cuda/stages.h"
#include "cuda/weights.h"

/* Inputs of steps that the device may not have read yet. */
enum { N_INPUTS = 16 };

struct tp_backend {
    const struct tp_model *model;
    struct tp_backend_options options;
    struct tp_device *device;
    struct tp_device_facts facts;
    struct tp_gpu_weights weights;
    struct tp_cache_plan plan;
    struct tp_stages stages;
    uint8_t *inputs; /* [N_INPUTS][stages.input_bytes], for the device to read */
    size_t next_input;
    float *logits; /* [TP_FEW][vocabulary], for the device to write */
};

/* ---- opening ---- */

static void cuda_close(struct tp_backend *cuda)
{
    if (cuda->device != NULL) {
        (void)tp_device_wait(cuda->device, NULL); /* nothing is read any more */
        tp_stages_fini(&cuda->stages);
        tp_gpu_weights_free(cuda->device, &cuda->weights);
        tp_device_free_host(cuda->device, cuda->inputs);
        tp_device_free_host(cuda->device, cuda->logits);
        tp_device_close(cuda->device);
    }
    free(cuda);
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
    if (c->n_kv_heads > GRID_MAX || cuda->stages.context / TP_GPU_KEY_SPLIT + 2 > GRID_MAX)
        return tp_error_set(error, -EOPNOTSUPP,
                            "%s: expected a context below %d tokens, found %zu; give a smaller "
                            "--context",
                            cuda->facts.name, (GRID_MAX - 2) * TP_GPU_KEY_SPLIT,
                            cuda->stages.context);
    return 0;
}

static size_t window_of(const struct tp_model_config *config)
{
    size_t window = 0;
    for (size_t i = 0; i < config->n_layers; i++)
        window = config->windows[i] > window ? config->windows[i] : window;
    return window;
}

static uint64_t workspace_bytes(const void *owner, size_t context)
{
    struct tp_stages stages = *(const struct tp_stages *)owner;
    stages.context = context;
    return tp_stages_bytes(&stages);
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
        .owner = &cuda->stages,
    };
    return tp_memory_plan_check(&plan, error);
}

static int allocate_host(struct tp_backend *cuda, struct tp_error *error)
{
    void *inputs, *logits;
    int rc =
        tp_device_allocate_host(cuda->device, N_INPUTS * cuda->stages.input_bytes, &inputs, error);
    if (rc < 0)
        return rc;
    cuda->inputs = inputs;
    rc = tp_device_allocate_host(
        cuda->device, TP_FEW * cuda->model->config.vocab_size * sizeof(float), &logits, error);
    if (rc == 0)
        cuda->logits = logits;
    return rc;
}

static int open_all(struct tp_backend *cuda, struct tp_error *error)
{
    const struct tp_model_config *c = &cuda->model->config;
    size_t context = cuda->options.context > 0 ? cuda->options.context : c->context;
    int rc = check_model(cuda->model, &cuda->options, error);
    if (rc == 0)
        rc = tp_device_open(&cuda->device, &cuda->facts, error);
    if (rc < 0)
        return rc;
    cuda->plan = (struct tp_cache_plan){.device = cuda->device,
                                        .config = c,
                                        .ring_capacity = window_of(c) + TP_FEW,
                                        .context_max = context,
                                        .bf16 = cuda->options.bf16_cache};
    cuda->stages = (struct tp_stages){.device = cuda->device,
                                      .facts = &cuda->facts,
                                      .model = cuda->model,
                                      .weights = &cuda->weights,
                                      .plan = &cuda->plan,
                                      .n_parts = cuda->options.bf16_activations ? 1 : TP_PARTS_MAX,
                                      .context = context};
    rc = check_kernels(cuda, error);
    if (rc == 0)
        rc = check_memory(cuda, error);
    if (rc == 0)
        rc = tp_gpu_weights_load(cuda->device, cuda->model, &cuda->options, &cuda->weights, error);
    if (rc == 0 && (rc = tp_stages_init(&cuda->stages, error)) < 0)
        tp_error_format_prefix(error, "the workspace");
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

/* ---- a step, TP_FEW tokens at a time ---- */

/* The tokens of all items one after the other, and how far they have come. */
struct cursor {
    const struct tp_step_item *items;
    size_t n_items, item, token; /* the next one */
};

/* Of one piece of the step. */
struct piece {
    size_t n, n_rows, longest;
};

static bool wants_logits(const struct tp_step_item *item, size_t token)
{
    return token >= item->n_tokens - item->n_logits;
}

static struct piece fill_inputs(const struct tp_backend *cuda, struct cursor *cursor,
                                const struct tp_step_inputs *inputs)
{
    size_t half = cuda->model->config.head_dim / 2;
    struct piece piece = {0};
    while (piece.n < TP_FEW && cursor->item < cursor->n_items) {
        const struct tp_step_item *item = &cursor->items[cursor->item];
        if (cursor->token == item->n_tokens) {
            cursor->item++;
            cursor->token = 0;
            continue;
        }
        size_t position = item->sequence->held.length + cursor->token, i = piece.n++;
        inputs->tokens[i] = item->tokens[cursor->token];
        inputs->positions[i] = (uint32_t)position;
        inputs->sequence_of[i] = (uint32_t)i;
        inputs->sequences[i] =
            (struct tp_gpu_sequence){item->sequence->memory, (uint32_t)item->sequence->context};
        tp_rope_position(&cuda->model->rope, position, inputs->cosines + i * half,
                         inputs->sines + i * half);
        if (wants_logits(item, cursor->token))
            inputs->rows[piece.n_rows++] = (uint32_t)i;
        piece.longest = position + 1 > piece.longest ? position + 1 : piece.longest;
        cursor->token++;
    }
    return piece;
}

/* *logits moves on behind what was written. */
static int run_piece(struct tp_backend *cuda, struct cursor *cursor, float **logits,
                     struct tp_shown *shown, struct tp_error *error)
{
    size_t vocabulary = cuda->model->config.vocab_size, bytes = cuda->stages.input_bytes;
    int rc = cuda->next_input == 0 ? tp_device_wait(cuda->device, error) : 0;
    if (rc < 0)
        return rc;
    void *memory = cuda->inputs + cuda->next_input * bytes;
    struct tp_step_inputs inputs = tp_step_inputs_at(&cuda->stages, memory);
    struct piece piece = fill_inputs(cuda, cursor, &inputs);
    cuda->next_input = (cuda->next_input + 1) % N_INPUTS;
    if (piece.n == 0)
        return 0;
    rc = tp_device_upload(cuda->device, cuda->stages.inputs.sequences, memory, bytes, error);
    if (rc == 0)
        rc = tp_stages_run(&cuda->stages, piece.n, piece.n_rows, piece.longest, shown, error);
    shown->first += piece.n;
    if (rc < 0 || piece.n_rows == 0)
        return rc;
    size_t n = piece.n_rows * vocabulary;
    rc = tp_device_download(cuda->device, cuda->logits, cuda->stages.logits, n * sizeof(float),
                            error);
    if (rc == 0)
        rc = tp_device_wait(cuda->device, error);
    if (rc < 0)
        return rc;
    memcpy(*logits, cuda->logits, n * sizeof(float));
    *logits += n;
    return 0;
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
    struct cursor cursor = {.items = items, .n_items = n};
    struct tp_shown shown = {.trace = trace};
    int rc = check(cuda, items, n);
    if (rc < 0)
        return tp_error_set(error, rc, "cannot compute: %s", strerror(-rc));
    for (size_t i = 0; i < n; i++)
        shown.n_rows += items[i].n_tokens;
    while (rc == 0 && cursor.item < n)
        rc = run_piece(cuda, &cursor, &logits, &shown, error);
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

const struct tp_backend_kind tp_backend_cuda = {
    .name = "cuda",
    .bf16_cache_by_default = true,
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
};

extern const struct tp_plugin tp_plugin;
__attribute__((visibility("default")))
const struct tp_plugin tp_plugin = {TP_PLUGIN_INTERFACE, &tp_backend_cuda};
