#include "cuda/weights.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Everything goes into one piece of memory. A walk over the model places each array; the first one
 * only counts, the second copies as well. */
enum { ALIGNMENT = 256, SCALE_MAX = 128, SCALE_NAN = 255 };

/* Arrays are copied in pieces, through memory that the device reads by itself: while it reads one
 * piece the next is copied. */
enum { PIECE_BYTES = 32 << 20, N_PIECES = 2 };

struct walk {
    const struct tp_model *model;
    struct tp_gpu_weights *weights;
    struct tp_device *device; /* NULL: only count */
    uint8_t *memory;          /* the device's */
    uint64_t bytes;           /* placed so far */
    uint8_t *pieces[N_PIECES];
    size_t next_piece;
    struct tp_error *error;
    int rc;
};

static int copy(struct walk *walk, void *target, const void *source, size_t bytes)
{
    const uint8_t *from = source;
    uint8_t *to = target;
    int rc = 0;
    for (size_t done = 0; rc == 0 && done < bytes;) {
        size_t n = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
        uint8_t *piece = walk->pieces[walk->next_piece];
        memcpy(piece, from + done, n);
        /* The piece before last has been read when the last one has been asked for and waited for.
         */
        rc = tp_device_wait(walk->device, walk->error);
        if (rc == 0)
            rc = tp_device_upload(walk->device, to + done, piece, n, walk->error);
        walk->next_piece = (walk->next_piece + 1) % N_PIECES;
        done += n;
    }
    return rc;
}

/* Where the array will be; NULL while only counting, or if there is none. */
static const void *place(struct walk *walk, const void *source, size_t bytes)
{
    if (source == NULL)
        return NULL;
    uint8_t *target = walk->memory + walk->bytes;
    walk->bytes += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (walk->device == NULL)
        return NULL;
    if (walk->rc == 0)
        walk->rc = copy(walk, target, source, bytes);
    return target;
}

static const float *place_vector(struct walk *walk, const float *source, size_t n)
{
    return place(walk, source, n * sizeof *source);
}

/* See struct tp_gpu_matrix. */
static int32_t shift_of(const uint8_t *scales, size_t n)
{
    int largest = 0;
    for (size_t i = 0; i < n; i++) {
        int scale = scales[i] == SCALE_NAN ? 0 : scales[i];
        largest = scale > largest ? scale : largest;
    }
    return largest > SCALE_MAX ? largest - SCALE_MAX : 0;
}

static struct tp_gpu_matrix place_matrices(struct walk *walk, const struct tp_matrices *matrices)
{
    const struct tp_matrix *first = &matrices->first;
    struct tp_gpu_matrix gpu = {
        .type = first->type, .rows = (uint32_t)first->rows, .columns = (uint32_t)first->columns};
    if (first->values == NULL)
        return gpu;
    gpu.values = place(walk, first->values, matrices->n * tp_matrix_bytes(first));
    if (first->type == TP_MATRIX_MXFP4) {
        size_t n = matrices->n * first->rows * (first->columns / 32);
        gpu.scales = place(walk, first->scales, n);
        gpu.shift = walk->device != NULL ? shift_of(first->scales, n) : 0;
    }
    return gpu;
}

static struct tp_gpu_matrix place_matrix(struct walk *walk, const struct tp_matrix *matrix)
{
    return place_matrices(walk, &(struct tp_matrices){1, *matrix});
}

static struct tp_gpu_layer place_layer(struct walk *walk, const struct tp_model_layer *layer)
{
    const struct tp_model_config *c = &walk->model->config;
    size_t query = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    size_t hidden = c->hidden_size, inner = c->intermediate_size, n = c->n_experts;
    struct tp_gpu_layer gpu;
    gpu.input_norm = place_vector(walk, layer->input_norm, hidden);
    gpu.mlp_norm = place_vector(walk, layer->mlp_norm, hidden);
    gpu.q = place_matrix(walk, &layer->q);
    gpu.k = place_matrix(walk, &layer->k);
    gpu.v = place_matrix(walk, &layer->v);
    gpu.o = place_matrix(walk, &layer->o);
    gpu.q_bias = place_vector(walk, layer->q_bias, query);
    gpu.k_bias = place_vector(walk, layer->k_bias, kv);
    gpu.v_bias = place_vector(walk, layer->v_bias, kv);
    gpu.o_bias = place_vector(walk, layer->o_bias, hidden);
    gpu.sinks = place_vector(walk, layer->sinks, c->n_heads);
    gpu.router = place_matrix(walk, &layer->router);
    gpu.router_bias = place_vector(walk, layer->router_bias, n);
    gpu.gate_up = place_matrices(walk, &layer->experts_gate_up);
    gpu.experts_down = place_matrices(walk, &layer->experts_down);
    gpu.gate_up_bias = place_vector(walk, layer->experts_gate_up_bias, n * 2 * inner);
    gpu.experts_down_bias = place_vector(walk, layer->experts_down_bias, n * hidden);
    gpu.gate = place_matrix(walk, &layer->gate);
    gpu.up = place_matrix(walk, &layer->up);
    gpu.down = place_matrix(walk, &layer->down);
    gpu.gate_bias = place_vector(walk, layer->gate_bias, inner);
    gpu.up_bias = place_vector(walk, layer->up_bias, inner);
    gpu.down_bias = place_vector(walk, layer->down_bias, hidden);
    return gpu;
}

static void place_all(struct walk *walk)
{
    const struct tp_model *model = walk->model;
    struct tp_gpu_weights ignored, *weights = walk->weights != NULL ? walk->weights : &ignored;
    walk->bytes = 0;
    weights->embedding = place_matrix(walk, &model->embedding);
    weights->head = model->head.values == model->embedding.values
                        ? weights->embedding
                        : place_matrix(walk, &model->head);
    weights->final_norm = place_vector(walk, model->final_norm, model->config.hidden_size);
    for (size_t i = 0; i < model->config.n_layers; i++) {
        struct tp_gpu_layer layer = place_layer(walk, &model->layers[i]);
        if (walk->weights != NULL)
            weights->layers[i] = layer;
    }
}

uint64_t tp_gpu_weights_bytes(const struct tp_model *model)
{
    struct walk walk = {.model = model};
    place_all(&walk);
    return walk.bytes;
}

int tp_gpu_weights_load(struct tp_device *device, const struct tp_model *model,
                        struct tp_gpu_weights *ret_weights, struct tp_error *error)
{
    struct tp_gpu_weights weights = {.bytes = tp_gpu_weights_bytes(model),
                                     .layers =
                                         calloc(model->config.n_layers, sizeof *weights.layers)};
    struct walk walk = {.model = model, .weights = &weights, .device = device, .error = error};
    int rc = weights.layers == NULL ? tp_error_set(error, -ENOMEM, "out of memory") : 0;
    if (rc == 0)
        rc = tp_device_allocate(device, weights.bytes, &weights.memory, error);
    for (size_t i = 0; rc == 0 && i < N_PIECES; i++) {
        void *piece;
        rc = tp_device_allocate_host(device, PIECE_BYTES, &piece, error);
        walk.pieces[i] = rc == 0 ? piece : NULL;
    }
    if (rc == 0) {
        walk.memory = weights.memory;
        place_all(&walk);
        rc = walk.rc;
    }
    if (rc == 0)
        rc = tp_device_wait(device, error);
    for (size_t i = 0; i < N_PIECES; i++)
        tp_device_free_host(device, walk.pieces[i]);
    if (rc < 0)
        tp_gpu_weights_free(device, &weights);
    else
        *ret_weights = weights;
    return rc;
}

void tp_gpu_weights_free(struct tp_device *device, struct tp_gpu_weights *weights)
{
    tp_device_free(device, weights->memory);
    free(weights->layers);
    *weights = (struct tp_gpu_weights){0};
}
