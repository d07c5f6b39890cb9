/* What computes a model: the CPU here, a GPU in a plugin.
 *
 * The interface is at the level of the model, so that a backend may fuse everything behind it. A
 * step takes tokens of several sequences at once, any number of each: prompts in pieces and single
 * tokens mixed. What comes out for a sequence depends neither on the others in the step nor on how
 * its tokens were cut into steps, bit for bit.
 */
#ifndef TENSORPORT_INFER_BACKEND_H
#define TENSORPORT_INFER_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/model/model.h"

struct tp_backend_options {
    size_t n_threads; /* 0: one for each physical core */
    bool pin;         /* each to a processor */
    bool bf16_activations;
    bool bf16_cache; /* keys and values */
    size_t step_max; /* tokens of all sequences in one step, at least 1 */
};

/* What a sequence leaves behind: its keys and values. */
struct tp_sequence;

/* Tokens of one sequence, which follow those that it has. Logits are wanted of the last so many. */
struct tp_step_item {
    struct tp_sequence *sequence;
    const uint32_t *tokens; /* [n_tokens], each below the vocabulary's size */
    size_t n_tokens, n_logits;
};

/* For looking into a step: called with values [rows][columns] as they are made, in the order of the
 * items' tokens. `layer` counts from 0. Names: "embedding", "attention" and "mlp" (what is added to
 * the residual stream), "router" (the chosen experts' numbers, as float), "residual" (after a
 * layer), "norm" (the last one). */
struct tp_trace {
    void (*see)(void *context, const char *name, size_t layer, const float *values, size_t rows,
                size_t columns);
    void *context;
};

struct tp_backend; /* an open one */

struct tp_backend_kind {
    const char *name;

    /* `model` must outlive it. -ENOMEM and what threads cost, with a message. */
    int (*open)(const struct tp_model *model, const struct tp_backend_options *options,
                struct tp_backend **ret_backend, struct tp_error *error);
    void (*close)(struct tp_backend *backend);

    /* Bytes that a sequence of so many tokens at most will take, and an empty one. */
    int (*sequence_bytes)(const struct tp_backend *backend, size_t context, uint64_t *ret_bytes);
    int (*sequence_new)(struct tp_backend *backend, size_t context,
                        struct tp_sequence **ret_sequence, struct tp_error *error);
    void (*sequence_free)(struct tp_sequence *sequence);
    size_t (*sequence_length)(const struct tp_sequence *sequence);
    size_t (*sequence_context)(const struct tp_sequence *sequence);

    /* Forgets the tokens from `length` on. -ERANGE when what was before has left a window's memory
     * already: then only 0 will do. */
    int (*sequence_cut)(struct tp_sequence *sequence, size_t length);

    /* A sequence outside its backend, for keeping it in a file. Positions of a layer are
     *
     *     [positions][2: keys, values][KV heads][head size]
     *
     * little-endian numbers of sequence_width() bytes: 4, float32, or 2, BF16. Keys are as the
     * rotary embedding has turned them; nothing is padded, however the backend keeps it. What is
     * exported and imported again computes the same bits. */
    size_t (*sequence_width)(const struct tp_sequence *sequence);

    /* The first position that a layer still has: 0, unless a window's memory has moved on. */
    size_t (*sequence_first)(const struct tp_sequence *sequence, size_t layer);

    /* Positions first .. first + n - 1 of a layer, all of them between sequence_first() and
     * sequence_length(). Negative errnos of a device. */
    int (*sequence_export)(const struct tp_sequence *sequence, size_t layer, size_t first, size_t n,
                           void *target);

    /* The way back, into a sequence without tokens: each layer's positions ascending and without
     * gaps, all below the context. Then sequence_resume() gives it `length` tokens: layer i was
     * imported from position firsts[i] up to there. -ERANGE when a layer lacks a position that the
     * next token sees; the sequence is empty then. */
    int (*sequence_import)(struct tp_sequence *sequence, size_t layer, size_t first, size_t n,
                           const void *source);
    int (*sequence_resume)(struct tp_sequence *sequence, const size_t *firsts, size_t length);

    /* Computes. `logits` [sum of n_logits][vocabulary], item by item; every sequence once.
     * `trace` may be NULL. -ENOMEM; -ENOSPC when a sequence would exceed its context: nothing has
     * changed then. */
    int (*step)(struct tp_backend *backend, const struct tp_step_item *items, size_t n,
                float *logits, const struct tp_trace *trace);
};

extern const struct tp_backend_kind tp_backend_cpu;

#endif
