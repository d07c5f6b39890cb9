/* The keys and values of a sequence on a device; see struct tp_gpu_sequence for how they lie. */
#ifndef TENSORPORT_CUDA_SEQUENCE_H
#define TENSORPORT_CUDA_SEQUENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "infer/model/config.h"
#include "infer/model/held.h"

/* What all sequences of a backend have in common. */
struct tp_cache_plan {
    struct tp_device *device;
    const struct tp_model_config *config;
    size_t ring_capacity; /* of layers with a window, which is the same for all of them */
    size_t context_max;   /* tokens of a sequence: what the workspace is made for */
    bool bf16;
};

struct tp_sequence {
    const struct tp_cache_plan *plan;
    size_t context;
    struct tp_held held;
    uint8_t *memory; /* the device's */
};

/* A layer of all sequences, for kernels; `sequences` is the caller's to set. */
struct tp_gpu_cache tp_cache_layer(const struct tp_cache_plan *plan, size_t layer);

/* See struct tp_backend_kind. */
int tp_gpu_sequence_bytes(const struct tp_cache_plan *plan, size_t context, uint64_t *ret_bytes);
int tp_gpu_sequence_new(const struct tp_cache_plan *plan, size_t context,
                        struct tp_sequence **ret_sequence, struct tp_error *error);
void tp_gpu_sequence_free(struct tp_sequence *sequence);
size_t tp_gpu_sequence_width(const struct tp_sequence *sequence);
int tp_gpu_sequence_export(const struct tp_sequence *sequence, size_t layer, size_t first, size_t n,
                           void *target);
int tp_gpu_sequence_import(struct tp_sequence *sequence, size_t layer, size_t first, size_t n,
                           const void *source);

#endif
