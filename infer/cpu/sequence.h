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

struct tp_sequence {
    size_t context; /* tokens it may have */
    size_t length;  /* tokens it has */
    size_t longest; /* tokens it had at most since it was empty: what rings have dropped */
    size_t n_layers;
    const size_t *windows;      /* [n_layers], the configuration's */
    struct tp_kv_cache *caches; /* [n_layers] */
    size_t *firsts; /* [n_layers]: positions before were never stored; not 0 after an import */
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
int tp_sequence_cut(struct tp_sequence *sequence, size_t length);
size_t tp_sequence_width(const struct tp_sequence *sequence);
size_t tp_sequence_first(const struct tp_sequence *sequence, size_t layer);
int tp_sequence_export(const struct tp_sequence *sequence, size_t layer, size_t first, size_t n,
                       void *target);
int tp_sequence_import(struct tp_sequence *sequence, size_t layer, size_t first, size_t n,
                       const void *source);
int tp_sequence_resume(struct tp_sequence *sequence, const size_t *firsts, size_t length);

#endif
