#include "infer/model/fingerprint.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "decode/codec.h"

enum {
    SAMPLES = 4,         /* places of a matrix */
    SAMPLE_COLUMNS = 64, /* numbers at each; a multiple of MXFP4's blocks */
};

/* ---- the configuration */

static void add_size(XXH3_state_t *state, uint64_t value)
{
    XXH3_128bits_update(state, &value, sizeof value);
}

static void add_number(XXH3_state_t *state, double value)
{
    XXH3_128bits_update(state, &value, sizeof value);
}

static void add_rope(XXH3_state_t *state, const struct tp_rope_config *rope)
{
    const double numbers[] = {rope->theta,
                              rope->factor,
                              rope->original_context,
                              rope->low_frequency_factor,
                              rope->high_frequency_factor,
                              rope->beta_fast,
                              rope->beta_slow,
                              rope->concentration};
    add_size(state, rope->kind);
    add_size(state, rope->truncate);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        add_number(state, numbers[i]);
}

static void add_config(XXH3_state_t *state, const struct tp_model_config *config)
{
    const uint64_t sizes[] = {config->architecture,   config->vocab_size,
                              config->hidden_size,    config->intermediate_size,
                              config->n_layers,       config->n_heads,
                              config->n_kv_heads,     config->head_dim,
                              config->n_experts,      config->n_experts_per_token,
                              config->attention_bias, config->mlp_bias,
                              config->sinks,          config->tied};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        add_size(state, sizes[i]);
    for (size_t i = 0; i < config->n_layers; i++)
        add_size(state, config->windows[i]);
    add_number(state, (double)config->rms_norm_eps);
    add_number(state, (double)config->swiglu_limit);
    add_number(state, (double)config->swiglu_alpha);
    add_rope(state, &config->rope);
}

/* ---- weights */

static void add_vector(XXH3_state_t *state, const float *vector, size_t n)
{
    if (vector != NULL)
        XXH3_128bits_update(state, vector, n * sizeof *vector);
}

/* The first numbers of a row, as float32. Scalar codecs are quick enough, and the same anywhere. */
static void add_row(XXH3_state_t *state, const struct tp_matrix *matrix, size_t row)
{
    const struct tp_codecs *codecs = tp_codecs_by_name("scalar");
    enum tp_dtype dtype = matrix->type == TP_MATRIX_F16 ? TP_F16 : TP_BF16; /* of those left */
    size_t n = matrix->columns < SAMPLE_COLUMNS ? matrix->columns : SAMPLE_COLUMNS;
    size_t blocks = matrix->columns / TP_MXFP4_BLOCK_ELEMENTS;
    const uint8_t *values = matrix->values;
    float numbers[SAMPLE_COLUMNS];
    if (matrix->type == TP_MATRIX_F32)
        memcpy(numbers, values + row * matrix->columns * sizeof *numbers, n * sizeof *numbers);
    else if (matrix->type == TP_MATRIX_MXFP4)
        codecs->mxfp4[TP_TARGET_F32](values + row * blocks * TP_MXFP4_BLOCK_BYTES,
                                     matrix->scales + row * blocks, numbers,
                                     n / TP_MXFP4_BLOCK_ELEMENTS);
    else
        codecs->convert[dtype][TP_TARGET_F32](values + row * matrix->columns * sizeof(uint16_t),
                                              numbers, n);
    add_vector(state, numbers, n);
}

static void add_matrix(XXH3_state_t *state, const struct tp_matrix *matrix)
{
    for (size_t i = 0; matrix->values != NULL && i < SAMPLES; i++)
        add_row(state, matrix, (2 * i + 1) * matrix->rows / (2 * SAMPLES));
}

/* Places among all experts. */
static void add_experts(XXH3_state_t *state, const struct tp_matrices *experts)
{
    for (size_t i = 0; experts->first.values != NULL && i < SAMPLES; i++) {
        struct tp_matrix expert = tp_matrices_at(experts, i * experts->n / SAMPLES);
        add_row(state, &expert, (2 * i + 1) * expert.rows / (2 * SAMPLES));
    }
}

static void add_layer(XXH3_state_t *state, const struct tp_model_config *config,
                      const struct tp_model_layer *layer)
{
    const struct tp_matrix *matrices[] = {&layer->q,      &layer->k,    &layer->v,  &layer->o,
                                          &layer->router, &layer->gate, &layer->up, &layer->down};
    add_vector(state, layer->input_norm, config->hidden_size);
    add_vector(state, layer->mlp_norm, config->hidden_size);
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        add_matrix(state, matrices[i]);
    add_experts(state, &layer->experts_gate_up);
    add_experts(state, &layer->experts_down);
}

int tp_model_fingerprint(const struct tp_model *model, struct tp_fingerprint *ret_fingerprint)
{
    XXH128_canonical_t canonical;
    XXH3_state_t *state = XXH3_createState();
    if (state == NULL)
        return -ENOMEM;
    XXH3_128bits_reset(state);
    add_config(state, &model->config);
    add_matrix(state, &model->embedding);
    add_matrix(state, &model->head);
    add_vector(state, model->final_norm, model->config.hidden_size);
    for (size_t i = 0; i < model->config.n_layers; i++)
        add_layer(state, &model->config, &model->layers[i]);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
    XXH3_freeState(state);
    memcpy(ret_fingerprint->bytes, canonical.digest, sizeof ret_fingerprint->bytes);
    return 0;
}
