#include "fs/export/synth/synth_weights.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Each of the 2 L residual contributions adds share / 2 L to the variance of the stream, which
 * starts at 1 (the embedding). */
static const double share = 0.8;

struct list {
    const struct tp_synth_config *config;
    enum tp_dtype dtype;
    struct tp_synth_tensor *tensors;
    size_t n, capacity;
    uint64_t bytes;
    double alpha; /* deviation of one residual contribution */
    int rc;       /* the first failure; later calls do nothing */
    struct tp_error *error;
};

static void fail(struct list *list, int code, const char *what)
{
    if (list->rc == 0)
        list->rc = tp_error_set(list->error, code, "%s", what);
}

static void add(struct list *list, const struct tp_synth_tensor *tensor)
{
    struct tp_synth_tensor copy = *tensor;
    if (list->n == list->capacity) {
        size_t capacity = list->capacity == 0 ? 512 : 2 * list->capacity;
        void *grown = realloc(list->tensors, capacity * sizeof *list->tensors);
        if (grown == NULL) {
            fail(list, -ENOMEM, "out of memory");
            return;
        }
        list->tensors = grown;
        list->capacity = capacity;
    }
    if (!tp_shape_bytes(copy.shape, copy.rank, copy.dtype, &copy.bytes) ||
        __builtin_add_overflow(list->bytes, copy.bytes, &list->bytes) || list->bytes > INT64_MAX) {
        fail(list, -EINVAL, "these dimensions make a checkpoint of more than 2^63 bytes");
        return;
    }
    list->tensors[list->n++] = copy;
}

static void name_tensor(struct tp_synth_tensor *tensor, const char *prefix, const char *name)
{
    snprintf(tensor->name, sizeof tensor->name, "%s%s", prefix, name);
}

static void add_vector(struct list *list, const char *prefix, const char *name, uint64_t size,
                       double deviation, double mean)
{
    struct tp_synth_tensor tensor = {
        .dtype = list->dtype,
        .rank = 1,
        .shape = {size},
        .fill = TP_SYNTH_NORMAL,
        .deviation = deviation,
        .mean = mean,
    };
    name_tensor(&tensor, prefix, name);
    add(list, &tensor);
}

static void add_matrix(struct list *list, const char *prefix, const char *name, uint64_t rows,
                       uint64_t columns, enum tp_synth_fill fill, double deviation)
{
    struct tp_synth_tensor tensor = {
        .dtype = list->dtype,
        .rank = 2,
        .shape = {rows, columns},
        .fill = fill,
        .deviation = deviation,
    };
    name_tensor(&tensor, prefix, name);
    add(list, &tensor);
}

/* The two tensors of a matrix [rows, columns] for each expert. */
static void add_mxfp4(struct list *list, const char *prefix, const char *name, uint64_t rows,
                      uint64_t columns, double deviation)
{
    uint64_t groups = columns / 32;
    struct tp_synth_tensor tensor = {
        .dtype = TP_U8,
        .rank = 4,
        .shape = {list->config->experts, rows, groups, 16},
        .fill = TP_SYNTH_CODES,
        .deviation = deviation,
    };
    snprintf(tensor.name, sizeof tensor.name, "%s%s_blocks", prefix, name);
    add(list, &tensor);
    tensor.rank = 3;
    tensor.fill = TP_SYNTH_SCALES;
    snprintf(tensor.name, sizeof tensor.name, "%s%s_scales", prefix, name);
    add(list, &tensor);
}

static void add_attention(struct list *list, const char *layer)
{
    const struct tp_synth_config *config = list->config;
    uint64_t width = config->width;
    uint64_t q = config->heads * config->head_dim, kv = config->kv_heads * config->head_dim;
    double root = sqrt((double)width);

    add_vector(list, layer, "input_layernorm.weight", width, 0.2, 1.0);
    add_vector(list, layer, "post_attention_layernorm.weight", width, 0.2, 1.0);
    add_matrix(list, layer, "self_attn.q_proj.weight", q, width, TP_SYNTH_NORMAL, 1.2 / root);
    add_matrix(list, layer, "self_attn.k_proj.weight", kv, width, TP_SYNTH_NORMAL, 1.2 / root);
    add_matrix(list, layer, "self_attn.v_proj.weight", kv, width, TP_SYNTH_NORMAL, 1.0 / root);
    /* Averaging over several positions shrinks the values: this makes up for it. */
    add_matrix(list, layer, "self_attn.o_proj.weight", width, q, TP_SYNTH_NORMAL,
               2.5 * list->alpha / sqrt((double)q));
    if (config->arch != TP_SYNTH_GPT_OSS)
        return;
    add_vector(list, layer, "self_attn.q_proj.bias", q, 0.3, 0);
    add_vector(list, layer, "self_attn.k_proj.bias", kv, 0.3, 0);
    add_vector(list, layer, "self_attn.v_proj.bias", kv, 0.2, 0);
    add_vector(list, layer, "self_attn.o_proj.bias", width, 0.05, 0);
    add_vector(list, layer, "self_attn.sinks", config->heads, 1.0, 1.0);
}

static void add_experts(struct list *list, const char *layer)
{
    const struct tp_synth_config *config = list->config;
    uint64_t width = config->width, inner = config->inner, experts = config->experts;
    double root = sqrt((double)width);

    add_matrix(list, layer, "mlp.router.weight", experts, width, TP_SYNTH_NORMAL, 2 / root);
    add_vector(list, layer, "mlp.router.bias", experts, 0.5, 0);
    /* Gate and up values of deviation 3: about 2 % of them meet the clamp at 7. */
    add_mxfp4(list, layer, "mlp.experts.gate_up_proj", 2 * inner, width, 3 / root);
    add_matrix(list, layer, "mlp.experts.gate_up_proj_bias", experts, 2 * inner, TP_SYNTH_NORMAL,
               0.3);
    /* The gated activation then has a root mean square of about 6.5, and mixing
     * num_experts_per_tok experts by a softmax halves it. */
    add_mxfp4(list, layer, "mlp.experts.down_proj", width, inner,
              2 * list->alpha / (6.5 * sqrt((double)inner)));
    add_matrix(list, layer, "mlp.experts.down_proj_bias", experts, width, TP_SYNTH_NORMAL, 0.05);
}

static void add_dense(struct list *list, const char *layer)
{
    uint64_t width = list->config->width, inner = list->config->inner;
    double root = sqrt((double)width);

    add_matrix(list, layer, "mlp.gate_proj.weight", inner, width, TP_SYNTH_NORMAL, 2 / root);
    add_matrix(list, layer, "mlp.up_proj.weight", inner, width, TP_SYNTH_NORMAL, 2 / root);
    add_matrix(list, layer, "mlp.down_proj.weight", width, inner, TP_SYNTH_NORMAL,
               list->alpha / (2.5 * sqrt((double)inner)));
}

enum { LAYER_NAME_SIZE = 32 };

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* In the order of the published shards, which is that of the layers' names: 0, 1, 10, 11, ...,
 * 19, 2, 20, ... */
static void add_layers(struct list *list)
{
    uint64_t n = list->config->layers;
    char(*names)[LAYER_NAME_SIZE] = calloc(n, sizeof *names);
    if (names == NULL) {
        fail(list, -ENOMEM, "out of memory");
        return;
    }
    for (uint64_t i = 0; i < n; i++)
        snprintf(names[i], sizeof names[i], "model.layers.%u.", (unsigned)i);
    qsort(names, n, sizeof *names, compare_names);
    for (uint64_t i = 0; i < n; i++) {
        add_attention(list, names[i]);
        if (list->config->arch == TP_SYNTH_GPT_OSS)
            add_experts(list, names[i]);
        else
            add_dense(list, names[i]);
    }
    free(names);
}

/* The embedding and the head lie in the last file. */
static void add_ends(struct list *list)
{
    const struct tp_synth_config *config = list->config;

    add_matrix(list, "model.", "embed_tokens.weight", config->vocab, config->width, TP_SYNTH_NORMAL,
               1.0);
    if (config->tied) {
        /* A tied head would predict the current token for ever; a final norm weight of either
         * sign removes that. */
        add_vector(list, "model.", "norm.weight", config->width, 1.0, 0);
        return;
    }
    add_vector(list, "model.", "norm.weight", config->width, 0.1, 1.0);
    add_matrix(list, "", "lm_head.weight", config->vocab, config->width, TP_SYNTH_HEAD, 0);
}

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The smallest number from ratio * n on that has no factor in common with n, so that
 * multiplying by it permutes 0..n-1. */
static uint64_t permuting_factor(double ratio, uint64_t n)
{
    uint64_t factor = (uint64_t)(ratio * (double)n);
    while (greatest_common_divisor(factor, n) != 1)
        factor++;
    return factor;
}

static struct tp_synth_head plan_head(const struct tp_synth_config *config)
{
    double width = (double)config->width;
    double lift = sqrt(2 * log((double)config->vocab)) + 2.0; /* successor's logit, in sigmas */
    double stream_share = 1 / (1 + share); /* of the embedding in the final stream */
    double room = width * stream_share - 1.64 * (lift * lift);
    double first = room > 0 ? fmin(2.0, sqrt(lift * lift / room)) : 2.0;
    double second = 0.8 * first;

    return (struct tp_synth_head){
        .weights = {first, second},
        .factors = {permuting_factor(0.6180339887, config->n_text),
                    permuting_factor(0.7548776662, config->n_text)},
        .sigma = 2.0 / sqrt(width * (1 + first * first + second * second)),
    };
}

uint64_t tp_synth_predecessor(const struct tp_synth_weights *weights, uint64_t id, unsigned k)
{
    return (id * weights->head.factors[k - 1] + UINT64_C(101) * k) % weights->n_text;
}

int tp_synth_weights_make(const struct tp_synth_config *config, enum tp_dtype dtype,
                          struct tp_synth_weights *ret_weights, struct tp_error *error)
{
    struct list list = {
        .config = config,
        .dtype = dtype,
        .alpha = sqrt(share / (2 * (double)config->layers)),
        .error = error,
    };
    add_layers(&list);
    add_ends(&list);
    if (list.rc < 0) {
        free(list.tensors);
        return list.rc;
    }
    *ret_weights = (struct tp_synth_weights){
        .tensors = list.tensors,
        .n_tensors = list.n,
        .bytes = list.bytes,
        .n_text = config->n_text,
        .head = plan_head(config),
    };
    return 0;
}

void tp_synth_weights_clear(struct tp_synth_weights *weights)
{
    free(weights->tensors);
    *weights = (struct tp_synth_weights){0};
}
