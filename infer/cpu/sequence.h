/* The keys and values of a sequence: for each layer a cache of the whole context, or a ring of the
 * layer's window. */
#ifndef TENSORPORT_INFER_CPU_SEQUENCE_H
#define TENSORPORT_INFER_CPU_SEQUENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/cpu/kv_cache.h"
#include "infer/model/config.h"
#include "infer/model/held.h"

struct tp_sequence {
    size_t context;             /* tokens it may have */
    struct tp_held held;        /* tokens it has */
    struct tp_kv_cache *caches; /* [n_layers] */
    void *memory;
    size_t memory_bytes;
};

/* A ring has room for its window and for a step, whose tokens are stored before any of them looks
 * back. -EOVERFLOW. */
int tp_sequence_bytes(const struct tp_model_config *config, size_t context, size_t step_max,
                      bool bf16, uint64_t *ret_bytes);

/* An empty one. Its memory is reserved whole and taken as it is used. -ENOMEM with a message. */
int tp_sequence_new(const struct tp_model_config *config, size_t context, size_t step_max,
                    bool bf16, struct tp_sequence **ret_sequence, struct tp_error *error);
void tp_sequence_free(struct tp_sequence *sequence);

/* See struct tp_backend_kind. */
size_t tp_sequence_width(const struct tp_sequence *sequence);
int tp_sequence_export(const struct tp_sequence *sequence, size_t layer, size_t first, size_t n,
                       void *target);
int tp_sequence_import(struct tp_sequence *sequence, size_t layer, size_t first, size_t n,
                       const void *source);

#endif
