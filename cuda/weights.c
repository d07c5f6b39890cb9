#include "cuda/weights.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/upload.h"

/* Everything goes into one piece of memory. A walk over the model places each array; without a list
 * it only counts. */

/* What is to be copied, in the order of the memory. */
struct list {
    struct tp_upload_array *arrays;
    bool **are_large; /* of scales: where to say that some are too large; NULL of others */
    size_t n, room;
};

struct walk {
    const struct tp_model *model;
    struct list *list; /* NULL: only count */
    uint8_t *memory;   /* the device's */
    uint64_t bytes;    /* placed so far */
    bool out_of_memory;
};

static bool make_room(struct list *list)
{
    size_t room = list->room + list->room / 2 + 64;
    struct tp_upload_array *arrays = realloc(list->arrays, room * sizeof *arrays);
    if (arrays != NULL)
        list->arrays = arrays;
    bool **are_large = realloc(list->are_large, room * sizeof(bool *));
    if (are_large != NULL)
        list->are_large = are_large;
    if (arrays == NULL || are_large == NULL)
        return false;
    list->room = room;
    return true;
}

/* Where the array will be; NULL while only counting, or if there is none. `are_large` is what is to
 * be known of scales, or NULL. */
static const void *place_array(struct walk *walk, const void *source, size_t bytes, bool *are_large)
{
    struct list *list = walk->list;
    uint64_t offset = walk->bytes;
    if (source == NULL || bytes == 0)
        return NULL;
    walk->bytes += (bytes + TP_UPLOAD_ALIGNMENT - 1) / TP_UPLOAD_ALIGNMENT * TP_UPLOAD_ALIGNMENT;
    if (list == NULL)
        return NULL;
    if (list->n == list->room && !make_room(list)) {
        walk->out_of_memory = true;
        return NULL;
    }
    list->are_large[list->n] = are_large;
    list->arrays[list->n++] = (struct tp_upload_array){
        .source = source, .bytes = bytes, .offset = offset, .is_scales = are_large != NULL};
    return walk->memory + offset;
}

static const float *place_vector(struct walk *walk, const float *source, size_t n)
{
    return place_array(walk, source, n * sizeof *source, NULL);
}

static void place_matrices(struct walk *walk, const struct tp_matrices *matrices,
                           struct tp_gpu_matrix *gpu)
{
    const struct tp_matrix *first = &matrices->first;
    *gpu = (struct tp_gpu_matrix){
        .type = first->type, .rows = (uint32_t)first->rows, .columns = (uint32_t)first->columns};
    if (first->values == NULL)
        return;
    gpu->values = place_array(walk, first->values, matrices->n * tp_matrix_bytes(first), NULL);
    if (first->type == TP_MATRIX_MXFP4)
        gpu->scales =
            place_array(walk, first->scales, matrices->n * first->rows * (first->columns / 32),
                        &gpu->has_large_scales);
}

static void place_matrix(struct walk *walk, const struct tp_matrix *matrix,
                         struct tp_gpu_matrix *gpu)
{
    place_matrices(walk, &(struct tp_matrices){1, *matrix}, gpu);
}

static void place_layer(struct walk *walk, const struct tp_model_layer *layer,
                        struct tp_gpu_layer *gpu)
{
    const struct tp_model_config *c = &walk->model->config;
    size_t query = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    size_t hidden = c->hidden_size, inner = c->intermediate_size, n = c->n_experts;
    gpu->input_norm = place_vector(walk, layer->input_norm, hidden);
    gpu->mlp_norm = place_vector(walk, layer->mlp_norm, hidden);
    place_matrix(walk, &layer->q, &gpu->q);
    place_matrix(walk, &layer->k, &gpu->k);
    place_matrix(walk, &layer->v, &gpu->v);
    place_matrix(walk, &layer->o, &gpu->o);
    gpu->q_bias = place_vector(walk, layer->q_bias, query);
    gpu->k_bias = place_vector(walk, layer->k_bias, kv);
    gpu->v_bias = place_vector(walk, layer->v_bias, kv);
    gpu->o_bias = place_vector(walk, layer->o_bias, hidden);
    gpu->sinks = place_vector(walk, layer->sinks, c->n_heads);
    place_matrix(walk, &layer->router, &gpu->router);
    gpu->router_bias = place_vector(walk, layer->router_bias, n);
    place_matrices(walk, &layer->experts_gate_up, &gpu->gate_up);
    place_matrices(walk, &layer->experts_down, &gpu->experts_down);
    gpu->gate_up_bias = place_vector(walk, layer->experts_gate_up_bias, n * 2 * inner);
    gpu->experts_down_bias = place_vector(walk, layer->experts_down_bias, n * hidden);
    place_matrix(walk, &layer->gate, &gpu->gate);
    place_matrix(walk, &layer->up, &gpu->up);
    place_matrix(walk, &layer->down, &gpu->down);
    gpu->gate_bias = place_vector(walk, layer->gate_bias, inner);
    gpu->up_bias = place_vector(walk, layer->up_bias, inner);
    gpu->down_bias = place_vector(walk, layer->down_bias, hidden);
}

/* `layers` [n_layers], or one that is overwritten when only counting. */
static void place_all(struct walk *walk, struct tp_gpu_weights *weights)
{
    const struct tp_model *model = walk->model;
    place_matrix(walk, &model->embedding, &weights->embedding);
    if (model->head.values == model->embedding.values)
        weights->head = weights->embedding;
    else
        place_matrix(walk, &model->head, &weights->head);
    weights->final_norm = place_vector(walk, model->final_norm, model->config.hidden_size);
    for (size_t i = 0; i < model->config.n_layers; i++)
        place_layer(walk, &model->layers[i], &weights->layers[walk->list != NULL ? i : 0]);
}

uint64_t tp_gpu_weights_bytes(const struct tp_model *model)
{
    struct walk walk = {.model = model};
    struct tp_gpu_layer layer;
    struct tp_gpu_weights counted = {.layers = &layer};
    place_all(&walk, &counted);
    return walk.bytes;
}

/* See struct tp_gpu_matrix. */
static void tell_large_scales(const struct list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        if (list->are_large[i] != NULL)
            *list->are_large[i] = list->arrays[i].largest > TP_SCALE_MAX + 1;
    }
}

static int fill(struct tp_device *device, const struct tp_model *model,
                const struct tp_backend_options *options, struct tp_gpu_weights *weights,
                struct tp_error *error)
{
    struct list list = {0};
    struct walk walk = {.model = model, .list = &list, .memory = weights->memory};
    place_all(&walk, weights);
    const struct tp_upload upload = {.device = device,
                                     .memory = weights->memory,
                                     .bytes = weights->bytes,
                                     .arrays = list.arrays,
                                     .n = list.n,
                                     .n_readers = options->n_threads,
                                     .see_loaded = options->see_loaded,
                                     .see_context = options->see_context};
    int rc = walk.out_of_memory ? tp_error_set(error, -ENOMEM, "out of memory")
                                : tp_upload_run(&upload, error);
    if (rc == 0)
        tell_large_scales(&list);
    free(list.arrays);
    free(list.are_large);
    return rc;
}

int tp_gpu_weights_load(struct tp_device *device, const struct tp_model *model,
                        const struct tp_backend_options *options,
                        struct tp_gpu_weights *ret_weights, struct tp_error *error)
{
    struct tp_gpu_weights weights = {.bytes = tp_gpu_weights_bytes(model)};
    weights.layers = calloc(model->config.n_layers, sizeof *weights.layers);
    if (weights.layers == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    int rc = tp_device_allocate(device, weights.bytes, &weights.memory, error);
    if (rc < 0)
        weights.memory = NULL;
    else
        rc = fill(device, model, options, &weights, error);
    if (rc < 0) {
        tp_error_format_prefix(error, "loading the weights");
        tp_gpu_weights_free(device, &weights);
        return rc;
    }
    *ret_weights = weights;
    return 0;
}

void tp_gpu_weights_free(struct tp_device *device, struct tp_gpu_weights *weights)
{
    tp_device_free(device, weights->memory);
    free(weights->layers);
    *weights = (struct tp_gpu_weights){0};
}
