#include "infer/model/model.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode/codec.h"
#include "fs/base/bytes.h"
#include "infer/model/faults.h"
#include "infer/model/memory.h"

enum {
    CONFIG_BYTES_MAX = 1 << 20,
    NAME_MAX_BYTES = 192,
    RANK_MAX = 4,
    SHAPE_TEXT_MAX = 96,
};

/* What binding carries along. */
struct binding {
    const struct tp_weights_view *view;
    struct tp_model *model;
    size_t n_workers;
    bool *bound; /* [n_tensors]: those that have their place */
    struct tp_faults faults;
    char prefix[64]; /* of the names: "model.layers.7." */
    bool no_memory;
};

struct shape {
    size_t rank;
    size_t sizes[RANK_MAX];
};

/* ---- one tensor ---- */

static void format_shape(const uint64_t *sizes, size_t rank, char text[SHAPE_TEXT_MAX])
{
    size_t at = (size_t)snprintf(text, SHAPE_TEXT_MAX, "[");
    for (size_t i = 0; i < rank && at < SHAPE_TEXT_MAX; i++)
        at += (size_t)snprintf(text + at, SHAPE_TEXT_MAX - at, "%s%" PRIu64, i > 0 ? ", " : "",
                               sizes[i]);
    if (at < SHAPE_TEXT_MAX)
        snprintf(text + at, SHAPE_TEXT_MAX - at, "]");
}

static bool has_shape(const struct tp_manifest_tensor *tensor, const struct shape *shape)
{
    if (tensor->rank != shape->rank)
        return false;
    for (size_t i = 0; i < shape->rank; i++) {
        if (tensor->shape[i] != shape->sizes[i])
            return false;
    }
    return true;
}

static void blame(struct binding *binding, const struct tp_manifest_tensor *tensor,
                  const struct shape *shape, const char *type)
{
    uint64_t sizes[RANK_MAX];
    char expected[SHAPE_TEXT_MAX], found[SHAPE_TEXT_MAX];
    for (size_t i = 0; i < shape->rank; i++)
        sizes[i] = shape->sizes[i];
    format_shape(sizes, shape->rank, expected);
    format_shape(tensor->shape, tensor->rank, found);
    tp_faults_add(&binding->faults, TP_FAULT_WRONG, "%s (expected %s %s, found %s %s)",
                  tensor->name, type, expected, tp_dtype_numpy_name(tensor->dtype), found);
}

/* The tensor called prefix + name, which then has its place; NULL when there is none. */
static const struct tp_weights_array *find(struct binding *binding, const char *name)
{
    char full[NAME_MAX_BYTES];
    snprintf(full, sizeof full, "%s%s", binding->prefix, name);
    const struct tp_weights_array *array = tp_weights_view_find(binding->view, full);
    if (array != NULL)
        binding->bound[array - binding->view->arrays] = true;
    return array;
}

static const struct tp_weights_array *find_needed(struct binding *binding, const char *name)
{
    const struct tp_weights_array *array = find(binding, name);
    if (array == NULL)
        tp_faults_add(&binding->faults, TP_FAULT_MISSING, "%s%s", binding->prefix, name);
    return array;
}

static bool matrix_type(enum tp_dtype dtype, enum tp_matrix_type *ret_type)
{
    if (dtype != TP_F32 && dtype != TP_F16 && dtype != TP_BF16)
        return false;
    *ret_type = dtype == TP_F32 ? TP_MATRIX_F32 : dtype == TP_F16 ? TP_MATRIX_F16 : TP_MATRIX_BF16;
    return true;
}

/* ---- MXFP4 ---- */

static const struct tp_weights_array *find_blocks(struct binding *binding, const char *name)
{
    char blocks_name[NAME_MAX_BYTES];
    snprintf(blocks_name, sizeof blocks_name, "%s_blocks", name);
    return find(binding, blocks_name);
}

/* Binds NAME_blocks, which were found, and NAME_scales: `n` matrices of that size, or one where n
 * is 0 and they have a dimension less. */
static void bind_packed(struct binding *binding, const char *name,
                        const struct tp_weights_array *blocks, size_t n, size_t rows,
                        size_t columns, struct tp_matrix *matrix)
{
    char scales_name[NAME_MAX_BYTES];
    snprintf(scales_name, sizeof scales_name, "%s_scales", name);
    const struct tp_weights_array *scales = find_needed(binding, scales_name);
    size_t groups = columns / TP_MXFP4_BLOCK_ELEMENTS;
    struct shape of_blocks = {4, {n, rows, groups, TP_MXFP4_BLOCK_BYTES}};
    struct shape of_scales = {3, {n, rows, groups}};
    if (n == 0) {
        of_blocks = (struct shape){3, {rows, groups, TP_MXFP4_BLOCK_BYTES}};
        of_scales = (struct shape){2, {rows, groups}};
    }
    if (columns % TP_MXFP4_BLOCK_ELEMENTS != 0)
        tp_faults_add(&binding->faults, TP_FAULT_WRONG,
                      "%s%s_blocks (expected no MXFP4, as %zu columns are no multiple of 32)",
                      binding->prefix, name, columns);
    else if (!has_shape(blocks->tensor, &of_blocks) || blocks->tensor->dtype != TP_U8)
        blame(binding, blocks->tensor, &of_blocks, "uint8");
    if (scales == NULL)
        return;
    if (!has_shape(scales->tensor, &of_scales) || scales->tensor->dtype != TP_U8)
        blame(binding, scales->tensor, &of_scales, "uint8");
    *matrix = (struct tp_matrix){
        .type = TP_MATRIX_MXFP4,
        .rows = rows,
        .columns = columns,
        .values = blocks->data,
        .scales = scales->data,
    };
}

/* ---- dense weights ---- */

/* Binds NAME, or NAME_blocks and NAME_scales. */
static void bind_matrix(struct binding *binding, const char *name, size_t rows, size_t columns,
                        struct tp_matrix *matrix)
{
    const struct tp_weights_array *blocks = find_blocks(binding, name);
    if (blocks != NULL) {
        bind_packed(binding, name, blocks, 0, rows, columns, matrix);
        return;
    }
    const struct tp_weights_array *array = find_needed(binding, name);
    struct shape shape = {2, {rows, columns}};
    if (array == NULL)
        return;
    if (!has_shape(array->tensor, &shape) || !matrix_type(array->tensor->dtype, &matrix->type)) {
        blame(binding, array->tensor, &shape, "floats");
        return;
    }
    matrix->rows = rows;
    matrix->columns = columns;
    matrix->values = array->data;
}

/* Converts to float32: [n], or [rows][n] when rows is not 0. */
static const float *bind_vector(struct binding *binding, const char *name, size_t rows, size_t n)
{
    const struct tp_weights_array *array = find_needed(binding, name);
    struct shape shape = {rows == 0 ? 1 : 2, {rows == 0 ? n : rows, n}};
    enum tp_matrix_type type;
    if (array == NULL)
        return NULL;
    if (!has_shape(array->tensor, &shape) || !matrix_type(array->tensor->dtype, &type)) {
        blame(binding, array->tensor, &shape, "floats");
        return NULL;
    }
    size_t elements = (rows == 0 ? 1 : rows) * n;
    float *vector = tp_model_memory_take(&binding->model->memory, elements * sizeof *vector);
    if (vector == NULL) {
        binding->no_memory = true;
        return NULL;
    }
    tp_convert_fn *convert = tp_codecs()->convert[array->tensor->dtype][TP_TARGET_F32];
    if (convert != NULL)
        convert(array->data, vector, elements);
    else
        memcpy(vector, array->data, elements * sizeof *vector);
    return vector;
}

/* ---- experts ---- */

/* A stack of matrices as it was found, before it is known which way round it is. */
struct stack {
    const struct tp_weights_array *array; /* NULL: none, or packed, or at fault */
    size_t rows, columns;                 /* as wanted */
    bool straight, turned;                /* the shapes that it has */
};

/* Finds NAME_blocks and NAME_scales, or NAME. `stack` says what is left to decide. */
static void find_stack(struct binding *binding, const char *name, struct stack *stack,
                       struct tp_matrices *matrices)
{
    const struct tp_weights_array *blocks = find_blocks(binding, name);
    if (blocks != NULL) {
        bind_packed(binding, name, blocks, matrices->n, stack->rows, stack->columns,
                    &matrices->first);
        return;
    }
    const struct tp_weights_array *array = find_needed(binding, name);
    if (array == NULL)
        return;
    struct shape straight = {3, {matrices->n, stack->rows, stack->columns}};
    struct shape turned = {3, {matrices->n, stack->columns, stack->rows}};
    stack->straight = has_shape(array->tensor, &straight);
    stack->turned = has_shape(array->tensor, &turned);
    if ((!stack->straight && !stack->turned) ||
        !matrix_type(array->tensor->dtype, &matrices->first.type)) {
        blame(binding, array->tensor, &straight, "floats");
        return;
    }
    stack->array = array;
}

static void bind_stack(struct binding *binding, const struct stack *stack, bool turned,
                       struct tp_matrices *matrices)
{
    if (stack->array == NULL)
        return;
    const struct tp_manifest_tensor *tensor = stack->array->tensor;
    if (turned ? !stack->turned : !stack->straight) {
        struct shape shape = {3,
                              {matrices->n, turned ? stack->columns : stack->rows,
                               turned ? stack->rows : stack->columns}};
        blame(binding, tensor, &shape, "floats");
        return;
    }
    matrices->first.rows = stack->rows;
    matrices->first.columns = stack->columns;
    matrices->first.values = stack->array->data;
    if (!turned)
        return;
    void *copy = tp_model_memory_take(&binding->model->memory, tensor->nbytes);
    if (copy == NULL) {
        binding->no_memory = true;
        return;
    }
    tp_transpose(stack->array->data, copy, matrices->n, stack->columns, stack->rows,
                 tp_dtype_size(tensor->dtype), binding->n_workers);
    matrices->first.values = copy;
}

static void bind_experts(struct binding *binding, struct tp_model_layer *layer)
{
    const struct tp_model_config *config = &binding->model->config;
    size_t n = config->n_experts, hidden = config->hidden_size, inner = config->intermediate_size;
    struct stack gate_up = {.rows = 2 * inner, .columns = hidden};
    struct stack down = {.rows = hidden, .columns = inner};
    layer->experts_gate_up.n = layer->experts_down.n = n;
    bind_matrix(binding, "mlp.router.weight", n, hidden, &layer->router);
    layer->router_bias = bind_vector(binding, "mlp.router.bias", 0, n);
    find_stack(binding, "mlp.experts.gate_up_proj", &gate_up, &layer->experts_gate_up);
    find_stack(binding, "mlp.experts.down_proj", &down, &layer->experts_down);
    bool turned = (gate_up.turned && !gate_up.straight) || (down.turned && !down.straight);
    bind_stack(binding, &gate_up, turned, &layer->experts_gate_up);
    bind_stack(binding, &down, turned, &layer->experts_down);
    layer->experts_gate_up_bias =
        bind_vector(binding, "mlp.experts.gate_up_proj_bias", n, 2 * inner);
    layer->experts_down_bias = bind_vector(binding, "mlp.experts.down_proj_bias", n, hidden);
}

/* ---- the model ---- */

static void bind_attention(struct binding *binding, struct tp_model_layer *layer)
{
    const struct tp_model_config *config = &binding->model->config;
    size_t hidden = config->hidden_size, query = config->n_heads * config->head_dim;
    size_t kv = config->n_kv_heads * config->head_dim;
    bind_matrix(binding, "self_attn.q_proj.weight", query, hidden, &layer->q);
    bind_matrix(binding, "self_attn.k_proj.weight", kv, hidden, &layer->k);
    bind_matrix(binding, "self_attn.v_proj.weight", kv, hidden, &layer->v);
    bind_matrix(binding, "self_attn.o_proj.weight", hidden, query, &layer->o);
    if (config->attention_bias) {
        layer->q_bias = bind_vector(binding, "self_attn.q_proj.bias", 0, query);
        layer->k_bias = bind_vector(binding, "self_attn.k_proj.bias", 0, kv);
        layer->v_bias = bind_vector(binding, "self_attn.v_proj.bias", 0, kv);
        layer->o_bias = bind_vector(binding, "self_attn.o_proj.bias", 0, hidden);
    }
    if (config->sinks)
        layer->sinks = bind_vector(binding, "self_attn.sinks", 0, config->n_heads);
}

static void bind_dense(struct binding *binding, struct tp_model_layer *layer)
{
    const struct tp_model_config *config = &binding->model->config;
    size_t hidden = config->hidden_size, inner = config->intermediate_size;
    bind_matrix(binding, "mlp.gate_proj.weight", inner, hidden, &layer->gate);
    bind_matrix(binding, "mlp.up_proj.weight", inner, hidden, &layer->up);
    bind_matrix(binding, "mlp.down_proj.weight", hidden, inner, &layer->down);
    if (config->mlp_bias) {
        layer->gate_bias = bind_vector(binding, "mlp.gate_proj.bias", 0, inner);
        layer->up_bias = bind_vector(binding, "mlp.up_proj.bias", 0, inner);
        layer->down_bias = bind_vector(binding, "mlp.down_proj.bias", 0, hidden);
    }
}

static void bind_layer(struct binding *binding, size_t i)
{
    const struct tp_model_config *config = &binding->model->config;
    struct tp_model_layer *layer = &binding->model->layers[i];
    snprintf(binding->prefix, sizeof binding->prefix, "model.layers.%zu.", i);
    layer->input_norm = bind_vector(binding, "input_layernorm.weight", 0, config->hidden_size);
    layer->mlp_norm =
        bind_vector(binding, "post_attention_layernorm.weight", 0, config->hidden_size);
    bind_attention(binding, layer);
    if (config->n_experts > 0)
        bind_experts(binding, layer);
    else
        bind_dense(binding, layer);
    binding->prefix[0] = '\0';
}

/* A tied head may be stored all the same, but then it has to be the embedding. */
static void bind_tied_head(struct binding *binding)
{
    struct tp_model *model = binding->model;
    const struct tp_weights_array *stored = find(binding, "lm_head.weight");
    const struct tp_weights_array *embedding = find(binding, "model.embed_tokens.weight");
    model->head = model->embedding;
    if (stored == NULL || embedding == NULL)
        return;
    if (stored->tensor->dtype != embedding->tensor->dtype ||
        stored->tensor->nbytes != embedding->tensor->nbytes ||
        memcmp(stored->data, embedding->data, stored->tensor->nbytes) != 0)
        tp_faults_add(&binding->faults, TP_FAULT_WRONG,
                      "lm_head.weight (expected the embedding, as tie_word_embeddings says, found "
                      "other values)");
}

/* Older writers stored the rotary embedding's frequencies, which config.json gives exactly. */
static bool is_harmless(const struct tp_manifest_tensor *tensor)
{
    return tp_bytes_end_with(tensor->name, tensor->name_length, ".rotary_emb.inv_freq");
}

static void blame_unbound(struct binding *binding)
{
    const struct tp_manifest *manifest = &binding->view->manifest;
    for (size_t i = 0; i < manifest->n_tensors; i++) {
        const struct tp_manifest_tensor *tensor = &manifest->tensors[i];
        if (!binding->bound[i] && !is_harmless(tensor))
            tp_faults_add(&binding->faults, TP_FAULT_UNEXPECTED, "%.*s",
                          tp_bytes_shown(tensor->name, tensor->name_length), tensor->name);
    }
}

static int bind_all(struct binding *binding, struct tp_error *error)
{
    struct tp_model *model = binding->model;
    const struct tp_model_config *config = &model->config;
    bind_matrix(binding, "model.embed_tokens.weight", config->vocab_size, config->hidden_size,
                &model->embedding);
    for (size_t i = 0; i < config->n_layers; i++)
        bind_layer(binding, i);
    model->final_norm = bind_vector(binding, "model.norm.weight", 0, config->hidden_size);
    if (config->tied)
        bind_tied_head(binding);
    else
        bind_matrix(binding, "lm_head.weight", config->vocab_size, config->hidden_size,
                    &model->head);
    blame_unbound(binding);
    if (binding->no_memory)
        return tp_error_set(error, -ENOMEM, "out of memory");
    return tp_faults_judge(&binding->faults, error);
}

static int bind_model(const struct tp_weights_view *view, size_t n_workers, struct tp_model *model,
                      struct tp_error *error)
{
    struct binding binding = {.view = view, .model = model, .n_workers = n_workers};
    binding.bound = calloc(view->manifest.n_tensors + 1, sizeof *binding.bound);
    model->layers = calloc(model->config.n_layers, sizeof *model->layers);
    int rc = binding.bound == NULL || model->layers == NULL ||
                     tp_rope_new(&model->config.rope, model->config.head_dim, &model->rope) < 0
                 ? tp_error_set(error, -ENOMEM, "out of memory")
                 : bind_all(&binding, error);
    free(binding.bound);
    return rc < 0 ? tp_error_prefix(error, rc, "%s", view->path) : 0;
}

/* ---- the files ---- */

/* Gives NULL when the file is not there and need not be. */
static int read_text(const struct tp_weights_view *view, const char *name, bool needed,
                     char **ret_text, size_t *ret_length, struct tp_error *error)
{
    int rc = tp_weights_view_read_file(view, name, CONFIG_BYTES_MAX, ret_text, ret_length, error);
    if (rc == -ENOENT && !needed) {
        *ret_text = NULL;
        *ret_length = 0;
        return 0;
    }
    return rc;
}

static int read_config(const struct tp_weights_view *view, struct tp_model_config *ret_config,
                       struct tp_error *error)
{
    char *config = NULL, *generation = NULL;
    size_t config_length = 0, generation_length = 0;
    int rc = read_text(view, "config.json", true, &config, &config_length, error);
    if (rc == 0)
        rc = read_text(view, "generation_config.json", false, &generation, &generation_length,
                       error);
    if (rc == 0) {
        rc = tp_model_config_parse(config, config_length, generation, generation_length, ret_config,
                                   error);
        if (rc < 0)
            tp_error_prefix(error, rc, "%s", view->path);
    }
    free(config);
    free(generation);
    return rc;
}

int tp_model_open(const struct tp_weights_view *view, size_t n_workers, struct tp_model **ret_model,
                  struct tp_error *error)
{
    struct tp_model *model = calloc(1, sizeof *model);
    if (model == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    int rc = read_config(view, &model->config, error);
    if (rc == 0)
        rc = bind_model(view, n_workers, model, error);
    if (rc < 0) {
        tp_model_close(model);
        return rc;
    }
    model->private_bytes = tp_model_memory_bytes(model->memory);
    *ret_model = model;
    return 0;
}

void tp_model_close(struct tp_model *model)
{
    if (model == NULL)
        return;
    tp_model_memory_free(model->memory);
    tp_rope_clear(&model->rope);
    tp_model_config_clear(&model->config);
    free(model->layers);
    free(model);
}
