#include "cuda/runner.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Inputs of steps that the device may not have read yet. */
enum { N_INPUTS = 16 };

/* The kernels of a step of few tokens: the same for all with these. */
struct tp_recorded {
    size_t n, n_rows, longest;
    unsigned
        chooses; /* tp_choosing_kind() and the first text's number; 0 where logits are wanted */
    size_t first_text;
    struct tp_recording *recording;
};

/* ---- memory ---- */

/* All memory of the stages; without any of it they only count. */
static void take_stages(struct tp_runner *runner, struct tp_arena *arena)
{
    runner->input_bytes = tp_step_input_bytes(&runner->of->model->config, runner->many.capacity);
    runner->input = tp_arena_take(arena, 1, runner->input_bytes);
    tp_few_stages_take(&runner->few, arena);
    if (runner->has_many)
        tp_many_stages_take(&runner->many, arena);
    tp_choosing_take(&runner->choosing, arena);
}

uint64_t tp_runner_bytes(const struct tp_runner *runner, size_t context)
{
    struct tp_runner counted = *runner;
    struct tp_arena arena = {NULL, 0};
    counted.few.context = context;
    take_stages(&counted, &arena);
    return arena.bytes;
}

static int allocate_host(struct tp_runner *runner, struct tp_error *error)
{
    struct tp_device *device = runner->of->device;
    size_t vocabulary = runner->of->model->config.vocab_size;
    void *inputs, *logits;
    int rc = tp_device_allocate_host(device, N_INPUTS * runner->input_bytes, &inputs, error);
    if (rc < 0)
        return rc;
    runner->inputs = inputs;
    rc = tp_device_allocate_host(device, TP_FEW * vocabulary * sizeof(float), &logits, error);
    if (rc == 0)
        runner->logits = logits;
    return rc;
}

/* Cleared: padding of columns and counters of arrivals stay zeros. */
int tp_runner_allocate(struct tp_runner *runner, struct tp_error *error)
{
    struct tp_device *device = runner->of->device;
    uint64_t bytes = tp_runner_bytes(runner, runner->few.context);
    struct tp_arena arena = {NULL, 0};
    int rc = tp_device_allocate(device, bytes, &runner->memory, error);
    if (rc < 0)
        return tp_error_prefix(error, rc, "the workspace");
    arena.memory = runner->memory;
    take_stages(runner, &arena);
    rc = tp_device_zero(device, runner->memory, bytes, error);
    return rc < 0 ? rc : allocate_host(runner, error);
}

void tp_runner_free(struct tp_runner *runner)
{
    struct tp_device *device = runner->of->device;
    for (size_t i = 0; i < runner->n_recorded; i++)
        tp_device_recording_free(device, runner->recorded[i].recording);
    free(runner->recorded);
    tp_choosing_end(&runner->choosing);
    tp_device_free(device, runner->memory);
    tp_device_free_host(device, runner->inputs);
    tp_device_free_host(device, runner->logits);
}

/* ---- inputs ---- */

/* The tokens of all items one after the other, and how far they have come. */
struct cursor {
    const struct tp_step_item *items;
    const uint64_t *seeds; /* of items that go on by themselves, with a token each; or NULL */
    size_t item, token;    /* the next one */
    size_t left;           /* tokens */
};

static bool wants_logits(const struct tp_step_item *item, size_t token)
{
    return token >= item->n_tokens - item->n_logits;
}

/* Up to `capacity` tokens. `inputs` is the host's. */
static void fill(const struct tp_runner *runner, struct cursor *cursor, size_t capacity,
                 const struct tp_step_inputs *inputs, struct tp_step *step)
{
    const struct tp_model *model = runner->of->model;
    size_t half = model->config.head_dim / 2;
    while (step->n < capacity && cursor->left > 0) {
        const struct tp_step_item *item = &cursor->items[cursor->item];
        if (cursor->token == item->n_tokens) {
            cursor->item++;
            cursor->token = 0;
            continue;
        }
        size_t position = item->sequence->held.length + cursor->token, i = step->n++;
        if (cursor->seeds != NULL)
            inputs->draws[i] = tp_random_bits(cursor->seeds[cursor->item], position + 1);
        else
            inputs->tokens[i] = item->tokens[cursor->token];
        inputs->positions[i] = (uint32_t)position;
        inputs->sequence_of[i] = (uint32_t)i;
        inputs->sequences[i] =
            (struct tp_gpu_sequence){item->sequence->memory, (uint32_t)item->sequence->context};
        tp_rope_position(&model->rope, position, inputs->cosines + i * half,
                         inputs->sines + i * half);
        if (wants_logits(item, cursor->token))
            inputs->rows[step->n_rows++] = (uint32_t)i;
        step->longest = position + 1 > step->longest ? position + 1 : step->longest;
        cursor->token++;
        cursor->left--;
    }
}

void tp_runner_has_read(struct tp_runner *runner, size_t n)
{
    runner->n_unread = n < runner->n_unread ? n : runner->n_unread;
}

/* Memory of the host whose last step the device has read. */
static int next_input(struct tp_runner *runner, void **ret_memory, struct tp_error *error)
{
    int rc = runner->n_unread == N_INPUTS ? tp_device_wait(runner->of->device, error) : 0;
    if (rc < 0)
        return rc;
    if (runner->n_unread == N_INPUTS)
        runner->n_unread = 0;
    *ret_memory = runner->inputs + runner->next_input * runner->input_bytes;
    runner->next_input = (runner->next_input + 1) % N_INPUTS;
    runner->n_unread++;
    return 0;
}

/* ---- results ---- */

/* Where they go: logits to the host, or tokens that are chosen of them stay where they are. */
struct results {
    struct tp_runner *runner;
    bool chooses;  /* these, not those */
    float *logits; /* the next */
    size_t first;  /* of the piece's rows, among all */
};

static int download_logits(struct results *results, const float *logits, size_t n,
                           struct tp_error *error)
{
    struct tp_runner *runner = results->runner;
    struct tp_device *device = runner->of->device;
    size_t numbers = n * runner->of->model->config.vocab_size;
    int rc = tp_device_download(device, runner->logits, logits, numbers * sizeof(float), error);
    if (rc == 0)
        rc = tp_device_wait(device, error);
    if (rc < 0)
        return rc;
    tp_runner_has_read(runner, 0);
    memcpy(results->logits, runner->logits, numbers * sizeof(float));
    results->logits += numbers;
    return 0;
}

/* A tp_take_logits_fn. */
static void take_logits(void *context, struct tp_step *step, float *logits, size_t first, size_t n)
{
    struct results *results = context;
    if (step->rc < 0)
        return;
    if (results->chooses)
        tp_choosing_run(&results->runner->choosing, step, logits, step->inputs.draws + first,
                        results->first + first, n);
    else
        step->rc = download_logits(results, logits, n, step->error);
}

/* ---- recording ---- */

/* Steps of few tokens are recorded once and replayed from then on, whose kernels the host need not
 * start one by one. How many splits attention has grows with the text: in powers of two, so that
 * one recording serves many steps. */
static size_t round_up_length(const struct tp_runner *runner, size_t longest)
{
    size_t length = TP_GPU_KEY_SPLIT;
    while (length < longest)
        length *= 2;
    return length < runner->few.context ? length : runner->few.context;
}

/* What of it can be recorded: all but logits that go to the host. */
static void run_kernels(struct tp_runner *runner, struct tp_step *step, struct results *results)
{
    tp_few_stages_run(&runner->few, step);
    if (results->chooses && step->n_rows > 0)
        take_logits(results, step, runner->few.logits, 0, step->n_rows);
}

/* -ENOMEM when there is no room for another one. */
static int record(struct tp_runner *runner, struct tp_step *step, struct results *results,
                  const struct tp_recorded *like, struct tp_recorded **ret_recorded)
{
    struct tp_device *device = runner->of->device;
    struct tp_recorded *recorded =
        realloc(runner->recorded, (runner->n_recorded + 1) * sizeof *recorded);
    struct tp_recording *recording = NULL;
    if (recorded == NULL)
        return tp_error_set(step->error, -ENOMEM, "out of memory");
    runner->recorded = recorded;
    int rc = tp_device_record_begin(device, step->error);
    if (rc < 0)
        return rc;
    run_kernels(runner, step, results);
    rc = tp_device_record_end(device, &recording, step->rc < 0 ? NULL : step->error);
    if (step->rc < 0 && rc == 0)
        tp_device_recording_free(device, recording);
    if (step->rc < 0 || rc < 0)
        return step->rc < 0 ? step->rc : rc;
    recorded[runner->n_recorded] = *like;
    recorded[runner->n_recorded].recording = recording;
    *ret_recorded = &recorded[runner->n_recorded++];
    return 0;
}

static bool is_like(const struct tp_recorded *a, const struct tp_recorded *b)
{
    return a->n == b->n && a->n_rows == b->n_rows && a->longest == b->longest &&
           a->chooses == b->chooses && a->first_text == b->first_text;
}

static void replay(struct tp_runner *runner, struct tp_step *step, struct results *results)
{
    bool chooses = results->chooses && step->n_rows > 0;
    step->longest = round_up_length(runner, step->longest);
    const struct tp_recorded like = {.n = step->n,
                                     .n_rows = step->n_rows,
                                     .longest = step->longest,
                                     .chooses = chooses ? tp_choosing_kind(&runner->choosing) : 0,
                                     .first_text = chooses ? results->first : 0};
    struct tp_recorded *found = NULL;
    for (size_t i = 0; i < runner->n_recorded && found == NULL; i++)
        found = is_like(&runner->recorded[i], &like) ? &runner->recorded[i] : NULL;
    if (found == NULL)
        step->rc = record(runner, step, results, &like, &found);
    if (step->rc == 0)
        step->rc = tp_device_replay(runner->of->device, found->recording, step->error);
}

/* ---- steps ---- */

static void run_few(struct tp_runner *runner, struct tp_step *step, struct results *results)
{
    bool stops = step->shown->trace != NULL && !tp_shown_wants_experts_only(step->shown);
    if (step->rc < 0)
        return;
    if (stops)
        run_kernels(runner, step, results);
    else
        replay(runner, step, results);
    if (!results->chooses && step->n_rows > 0)
        take_logits(results, step, runner->few.logits, 0, step->n_rows);
}

static int show_experts(const struct tp_runner *runner, struct tp_shown *shown, bool is_many,
                        size_t n, struct tp_error *error)
{
    const struct tp_model_config *c = &runner->of->model->config;
    size_t k = c->n_experts_per_token;
    if (c->n_experts == 0 || !tp_shown_wants_experts_only(shown))
        return 0;
    return tp_shown_add_experts(
        shown, runner->of->device, is_many ? runner->many.slots.chosen : runner->few.routing.chosen,
        c->n_layers, (is_many ? runner->many.capacity : (size_t)TP_FEW) * k, n, k, error);
}

static int run_piece(struct tp_runner *runner, struct cursor *cursor, struct results *results,
                     struct tp_shown *shown, struct tp_error *error)
{
    const struct tp_model_config *c = &runner->of->model->config;
    bool is_many = runner->has_many && cursor->left > TP_FEW;
    size_t capacity = is_many ? runner->many.capacity : (size_t)TP_FEW;
    void *memory;
    int rc = next_input(runner, &memory, error);
    if (rc < 0)
        return rc;
    struct tp_step_inputs inputs = tp_step_inputs_at(c, capacity, memory);
    struct tp_step step = {.of = runner->of,
                           .inputs = tp_step_inputs_at(c, capacity, runner->input),
                           .shown = shown,
                           .error = error};
    fill(runner, cursor, capacity, &inputs, &step);
    if (cursor->seeds != NULL)
        step.inputs.tokens = runner->choosing.chosen + results->first;
    step.n_tiles = is_many ? tp_many_tiles(c, runner->of->facts, &inputs, step.n) : 0;
    step.rc = tp_device_upload(runner->of->device, runner->input, memory,
                               tp_step_input_bytes(c, capacity), error);
    if (is_many)
        tp_many_stages_run(&runner->many, &step, take_logits, results);
    else
        run_few(runner, &step, results);
    if (step.rc == 0)
        step.rc = show_experts(runner, shown, is_many, step.n, error);
    shown->first += step.n;
    results->first += step.n_rows;
    return step.rc;
}

static int run(struct tp_runner *runner, struct cursor *cursor, struct results *results,
               struct tp_shown *shown, size_t n, struct tp_error *error)
{
    int rc = 0;
    for (size_t i = 0; i < n; i++)
        cursor->left += cursor->items[i].n_tokens;
    shown->n_rows = cursor->left;
    while (rc == 0 && cursor->left > 0)
        rc = run_piece(runner, cursor, results, shown, error);
    return rc;
}

int tp_runner_step(struct tp_runner *runner, const struct tp_step_item *items, size_t n,
                   float *logits, const struct tp_trace *trace, struct tp_error *error)
{
    struct cursor cursor = {.items = items};
    struct results results = {.runner = runner, .logits = logits};
    struct tp_shown shown = {.trace = trace};
    int rc = run(runner, &cursor, &results, &shown, n, error);
    if (rc == 0)
        tp_shown_emit(&shown);
    tp_shown_free(&shown);
    return rc;
}

int tp_runner_go_on(struct tp_runner *runner, const struct tp_step_item *items, size_t n,
                    const uint64_t *seeds, struct tp_error *error)
{
    struct cursor cursor = {.items = items, .seeds = seeds};
    struct results results = {.runner = runner, .chooses = true};
    struct tp_shown shown = {.trace = NULL};
    return run(runner, &cursor, &results, &shown, n, error);
}
