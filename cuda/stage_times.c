#include "cuda/stage_times.h"

#include <errno.h>
#include <stdlib.h>

enum { LAUNCHES_LEAST = 32, REPLAYS_MAX = 256, N_ROUNDS = 5 };

/* A round of a quick stage takes so long; what is slower is measured once. */
static const double ROUND_SECONDS = 5e-3, SLOW_SECONDS = 0.02;

/* Layers that a stage is measured in. */
enum which { NO_LAYER, EVERY_LAYER, WINDOWED_LAYERS, WHOLE_LAYERS };

static const struct row {
    const char *name;
    enum tp_stage stage;
    enum which which;
} rows[] = {
    {"embed", TP_STAGE_EMBED, NO_LAYER},       {"heads", TP_STAGE_HEADS, EVERY_LAYER},
    {"attend", TP_STAGE_ATTEND, WHOLE_LAYERS}, {"attend_window", TP_STAGE_ATTEND, WINDOWED_LAYERS},
    {"output", TP_STAGE_OUTPUT, EVERY_LAYER},  {"gate_up", TP_STAGE_GATE_UP, EVERY_LAYER},
    {"down", TP_STAGE_DOWN, EVERY_LAYER},      {"head", TP_STAGE_HEAD, NO_LAYER},
};

struct measuring {
    struct tp_few_stages *stages;
    void *input; /* the device's: of a step */
    size_t n, depth;
    struct tp_sequence *sequences[TP_FEW];
    uint32_t n_active; /* experts that the tokens chose together */
    struct tp_device_clock *clock;
    struct tp_error *error;
};

/* ---- bytes ---- */

static uint64_t matrix_bytes(const struct tp_matrix *matrix)
{
    uint64_t scales = matrix->scales != NULL ? matrix->rows * (matrix->columns / 32) : 0;
    return matrix->values != NULL ? tp_matrix_bytes(matrix) + scales : 0;
}

static uint64_t vector_bytes(const float *vector, size_t n)
{
    return vector != NULL ? n * sizeof *vector : 0;
}

static uint64_t embed_bytes(const struct measuring *m)
{
    const struct tp_model *model = m->stages->of->model;
    return m->n * (matrix_bytes(&model->embedding) / model->config.vocab_size) +
           vector_bytes(model->layers[0].input_norm, model->config.hidden_size);
}

static uint64_t attend_bytes(const struct measuring *m, size_t layer)
{
    const struct tp_model *model = m->stages->of->model;
    const struct tp_model_config *c = &model->config;
    size_t window = c->windows[layer], seen = m->depth + 1;
    uint64_t width = m->stages->of->plan->bf16 ? 2 : 4;
    uint64_t position_bytes = 2 * c->n_kv_heads * c->head_dim * width;
    if (window > 0 && window < seen)
        seen = window;
    return m->n * seen * position_bytes + vector_bytes(model->layers[layer].sinks, c->n_heads);
}

static uint64_t gate_up_bytes(const struct measuring *m, const struct tp_model_layer *l)
{
    const struct tp_model_config *c = &m->stages->of->model->config;
    size_t inner = c->intermediate_size;
    if (c->n_experts > 0)
        return m->n_active * (matrix_bytes(&l->experts_gate_up.first) +
                              vector_bytes(l->experts_gate_up_bias, 2 * inner));
    return matrix_bytes(&l->gate) + matrix_bytes(&l->up) + vector_bytes(l->gate_bias, inner) +
           vector_bytes(l->up_bias, inner);
}

/* With the norm of what follows, which it multiplies by. */
static uint64_t down_bytes(const struct measuring *m, const struct tp_model_layer *l)
{
    const struct tp_model_config *c = &m->stages->of->model->config;
    size_t hidden = c->hidden_size;
    uint64_t norm = hidden * sizeof(float);
    if (c->n_experts > 0)
        return norm + m->n_active * (matrix_bytes(&l->experts_down.first) +
                                     vector_bytes(l->experts_down_bias, hidden));
    return norm + matrix_bytes(&l->down) + vector_bytes(l->down_bias, hidden);
}

static uint64_t stage_bytes(const struct measuring *m, enum tp_stage stage, size_t layer)
{
    const struct tp_model *model = m->stages->of->model;
    const struct tp_model_config *c = &model->config;
    const struct tp_model_layer *l = &model->layers[layer];
    size_t kv = c->n_kv_heads * c->head_dim;
    switch (stage) {
    case TP_STAGE_EMBED:
        return embed_bytes(m);
    case TP_STAGE_HEADS:
        return matrix_bytes(&l->q) + matrix_bytes(&l->k) + matrix_bytes(&l->v) +
               vector_bytes(l->q_bias, c->n_heads * c->head_dim) + vector_bytes(l->k_bias, kv) +
               vector_bytes(l->v_bias, kv);
    case TP_STAGE_ATTEND:
        return attend_bytes(m, layer);
    case TP_STAGE_OUTPUT:
        return matrix_bytes(&l->o) + vector_bytes(l->o_bias, c->hidden_size) +
               vector_bytes(l->mlp_norm, c->hidden_size) + matrix_bytes(&l->router) +
               vector_bytes(l->router_bias, c->n_experts);
    case TP_STAGE_GATE_UP:
        return gate_up_bytes(m, l);
    case TP_STAGE_DOWN:
        return down_bytes(m, l);
    case TP_STAGE_HEAD:
        return matrix_bytes(&model->head);
    }
    return 0;
}

/* ---- a step to begin with ---- */

static int make_sequences(struct measuring *m)
{
    const struct tp_cache_plan *plan = m->stages->of->plan;
    uint64_t bytes;
    int rc = tp_gpu_sequence_bytes(plan, m->depth + 1, &bytes);
    if (rc < 0)
        return tp_error_set(m->error, rc, "texts of %zu tokens are too long", m->depth);
    for (size_t i = 0; rc == 0 && i < m->n; i++) {
        rc = tp_gpu_sequence_new(plan, m->depth + 1, &m->sequences[i], m->error);
        if (rc == 0)
            rc = tp_device_zero(m->stages->of->device, m->sequences[i]->memory, bytes, m->error);
    }
    return rc;
}

static int upload_inputs(const struct measuring *m)
{
    struct tp_few_stages *s = m->stages;
    const struct tp_model_config *c = &s->of->model->config;
    size_t half = c->head_dim / 2, bytes = tp_step_input_bytes(c, TP_FEW);
    void *memory = calloc(1, bytes);
    if (memory == NULL)
        return tp_error_set(m->error, -ENOMEM, "out of memory");
    struct tp_step_inputs inputs = tp_step_inputs_at(c, TP_FEW, memory);
    for (size_t i = 0; i < m->n; i++) {
        inputs.tokens[i] = (uint32_t)((i + 1) * c->vocab_size / (TP_FEW + 2));
        inputs.positions[i] = (uint32_t)m->depth;
        inputs.sequence_of[i] = inputs.rows[i] = (uint32_t)i;
        inputs.sequences[i] =
            (struct tp_gpu_sequence){m->sequences[i]->memory, (uint32_t)m->sequences[i]->context};
        tp_rope_position(&s->of->model->rope, m->depth, inputs.cosines + i * half,
                         inputs.sines + i * half);
    }
    int rc = tp_device_upload(s->of->device, m->input, memory, bytes, m->error);
    if (rc == 0)
        rc = tp_device_wait(s->of->device, m->error);
    free(memory);
    return rc;
}

static struct tp_step make_step(const struct measuring *m, struct tp_shown *nothing)
{
    const struct tp_step_model *of = m->stages->of;
    *nothing = (struct tp_shown){0};
    return (struct tp_step){.of = of,
                            .inputs = tp_step_inputs_at(&of->model->config, TP_FEW, m->input),
                            .n = m->n,
                            .n_rows = m->n,
                            .longest = m->depth + 1,
                            .shown = nothing,
                            .error = m->error};
}

static int run_step(const struct measuring *m)
{
    struct tp_shown nothing;
    struct tp_step step = make_step(m, &nothing);
    tp_few_stages_run(m->stages, &step);
    return step.rc;
}

/* Sets everything to what a step leaves behind. */
static int begin(struct measuring *m)
{
    struct tp_few_stages *s = m->stages;
    int rc = run_step(m);
    if (rc == 0)
        rc = tp_device_download(s->of->device, &m->n_active, s->routing.n_active,
                                sizeof m->n_active, m->error);
    return rc < 0 ? rc : tp_device_wait(s->of->device, m->error);
}

/* ---- measuring ---- */

static bool is_among(const struct measuring *m, enum which which, size_t layer)
{
    bool windowed = m->stages->of->model->config.windows[layer] > 0;
    switch (which) {
    case NO_LAYER:
        return layer == 0;
    case EVERY_LAYER:
        return true;
    case WINDOWED_LAYERS:
        return windowed;
    case WHOLE_LAYERS:
        return !windowed;
    }
    return false;
}

/* As many as a step has; NULL: the step itself. */
static int launch(const struct measuring *m, const struct row *row)
{
    struct tp_shown nothing;
    struct tp_step step = make_step(m, &nothing);
    if (row == NULL)
        return run_step(m);
    for (size_t i = 0; i < m->stages->of->model->config.n_layers; i++) {
        if (is_among(m, row->which, i))
            tp_few_stages_run_one(m->stages, &step, row->stage, i);
    }
    return step.rc;
}

static int time_replays(const struct measuring *m, struct tp_recording *recording, size_t n,
                        double *ret_seconds)
{
    struct tp_device *device = m->stages->of->device;
    int rc = tp_device_clock_start(device, m->clock, m->error);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = tp_device_replay(device, recording, m->error);
    return rc < 0 ? rc : tp_device_clock_stop(device, m->clock, ret_seconds, m->error);
}

/* Seconds of one replay. */
static int time_recording(const struct measuring *m, struct tp_recording *recording,
                          double *ret_seconds)
{
    double best, seconds;
    int rc = time_replays(m, recording, 1, &best);
    if (rc < 0 || best > SLOW_SECONDS) {
        *ret_seconds = rc < 0 ? 0 : best;
        return rc;
    }
    size_t n = best * REPLAYS_MAX < ROUND_SECONDS ? REPLAYS_MAX : (size_t)(ROUND_SECONDS / best);
    n = n > 0 ? n : 1;
    for (size_t i = 0; rc == 0 && i < N_ROUNDS; i++) {
        rc = time_replays(m, recording, n, &seconds);
        if (rc == 0 && seconds / (double)n < best)
            best = seconds / (double)n;
    }
    if (rc == 0)
        *ret_seconds = best;
    return rc;
}

/* One launch between two points in time would measure the points: it is repeated, unless it is
 * slow. */
static int find_repetitions(const struct measuring *m, const struct row *row, size_t n_launches,
                            size_t *ret_n)
{
    double seconds = 0;
    int rc = tp_device_clock_start(m->stages->of->device, m->clock, m->error);
    if (rc == 0)
        rc = launch(m, row);
    if (rc == 0)
        rc = tp_device_clock_stop(m->stages->of->device, m->clock, &seconds, m->error);
    if (rc == 0)
        *ret_n = seconds > ROUND_SECONDS || n_launches >= LAUNCHES_LEAST
                     ? 1
                     : LAUNCHES_LEAST / n_launches;
    return rc;
}

static int measure(const struct measuring *m, const struct row *row, size_t n_launches,
                   double *ret_seconds)
{
    struct tp_device *device = m->stages->of->device;
    struct tp_recording *recording = NULL;
    size_t n = 1;
    double seconds = 0;
    int rc = find_repetitions(m, row, n_launches, &n);
    if (rc == 0)
        rc = tp_device_record_begin(device, m->error);
    if (rc < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = launch(m, row);
    struct tp_error *error = rc == 0 ? m->error : NULL; /* the first message stays */
    int ended = tp_device_record_end(device, &recording, error);
    rc = rc < 0 ? rc : ended;
    if (rc == 0)
        rc = time_recording(m, recording, &seconds);
    tp_device_recording_free(device, recording);
    if (rc == 0)
        *ret_seconds = seconds / (double)n;
    return rc;
}

/* Does nothing where the model has no such layer. */
static int measure_row(struct measuring *m, const struct row *row, struct tp_backend_stage *stage)
{
    size_t n_layers = m->stages->of->model->config.n_layers;
    int rc = begin(m);
    *stage = (struct tp_backend_stage){.name = row->name};
    for (size_t i = 0; i < n_layers; i++) {
        if (is_among(m, row->which, i)) {
            stage->n_launches++;
            stage->bytes += stage_bytes(m, row->stage, i);
        }
    }
    return rc < 0 || stage->n_launches == 0 ? rc
                                            : measure(m, row, stage->n_launches, &stage->seconds);
}

static int measure_all(struct measuring *m, tp_backend_stage_fn *see, void *context)
{
    struct tp_backend_stage stage, step = {.name = "step"};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof rows / sizeof *rows; i++) {
        rc = measure_row(m, &rows[i], &stage);
        if (rc < 0 || stage.n_launches == 0)
            continue;
        step.n_launches += stage.n_launches;
        step.bytes += stage.bytes;
        see(context, &stage);
    }
    if (rc == 0)
        rc = measure(m, NULL, step.n_launches, &step.seconds);
    if (rc == 0)
        see(context, &step);
    return rc;
}

int tp_stage_times(struct tp_few_stages *stages, void *input, size_t n, size_t depth,
                   tp_backend_stage_fn *see, void *context, struct tp_error *error)
{
    struct measuring m = {.stages = stages, .input = input, .n = n, .depth = depth, .error = error};
    if (n < 1 || n > TP_FEW)
        return tp_error_set(error, -EINVAL, "stages take 1 to %d tokens together, found %zu",
                            TP_FEW, n);
    size_t most = stages->of->model->config.context;
    most = stages->context < most ? stages->context : most;
    if (depth >= most)
        return tp_error_set(error, -ENOSPC, "a depth of %zu tokens: the model has room for %zu",
                            depth, most);
    int rc = make_sequences(&m);
    if (rc == 0)
        rc = upload_inputs(&m);
    if (rc == 0)
        rc = tp_device_clock_new(stages->of->device, &m.clock, error);
    if (rc == 0)
        rc = measure_all(&m, see, context);
    tp_device_clock_free(stages->of->device, m.clock);
    for (size_t i = 0; i < n; i++)
        tp_gpu_sequence_free(m.sequences[i]);
    return rc;
}
