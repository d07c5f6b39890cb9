/* What computes a model: the CPU here, a GPU in a plugin.
 *
 * The interface is at the level of the model, so that a backend may fuse everything behind it. A
 * step takes tokens of several sequences at once, any number of each: prompts in pieces and single
 * tokens mixed. What comes out for a sequence depends neither on the others in the step nor on how
 * its tokens were cut into steps, bit for bit: on the CPU in any step, on a GPU among steps of up
 * to 8 tokens, and among those of more.
 */
#ifndef TENSORPORT_INFER_BACKEND_H
#define TENSORPORT_INFER_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/model/model.h"
#include "infer/model/sampling.h"

struct tp_backend_options {
    size_t n_threads; /* 0: one for each physical core */
    bool pin;         /* each to a processor */
    bool bf16_activations;
    bool bf16_prompts; /* of steps of many tokens, where a device is several times faster so */
    bool bf16_cache;   /* keys and values */
    bool int8_dense;   /* dense matrices in 8 bits, in memory of the backend's own */
    size_t step_max;   /* tokens of all sequences in one step, at least 1 */
    size_t context;    /* tokens that a sequence may have at most; 0: as many as the model allows */

    /* Sequences of that context that there must be memory for, where a backend has memory of its
     * own: if there is not, open() says so before it reads anything. */
    size_t n_sequences;

    /* Told while open() runs, by any thread, that so many more bytes of the weights were read; of 0
     * bytes before the first, when nothing is left but to read them. May be NULL. Only of a kind
     * that loads_by_itself. */
    void (*see_loaded)(void *context, uint64_t bytes);
    void *see_context;
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
 * items' tokens. T tokens, N tokens whose logits are wanted, K experts a token; `layer` counts from
 * 0, and is the number of layers for "norm". What is called, in this order:
 *
 *     "embedding"       [T][hidden]          the residual stream before the first layer
 *     of each layer:
 *     "input_norm"      [T][hidden]          what queries, keys and values are made of
 *     "queries"         [T][heads][head]     turned to their positions, not scaled
 *     "keys", "values"  [T][KV heads][head]  keys turned; as --kv-type f32 keeps them
 *     "mixed"           [T][heads][head]     values, weighted by the attention
 *     "attention"       [T][hidden]          mixed by o: what is added to the residual stream
 *     "mlp_norm"        [T][hidden]          what the experts (or the dense layer) are given
 *     "router_logits"   [T][experts]         bias included; mixtures only, like the next two
 *     "router_experts"  [T][K]               the numbers of the chosen, as float, best first
 *     "router_weights"  [T][K]               their shares
 *     "mlp"             [T][hidden]          what is added to the residual stream
 *     "residual"        [T][hidden]          the stream after the layer
 *     in the end:
 *     "norm"            [N][hidden]          what the head is given
 *
 * What grows with the square of the text (scores) or with its experts' inner size is left out: it
 * follows from these and the weights. */
struct tp_trace {
    void (*see)(void *context, const char *name, size_t layer, const float *values, size_t rows,
                size_t columns);
    void *context;
    const char *only; /* a name: nothing else is wanted; NULL: everything */
};

/* What the machine does at most, with the backend's threads and instructions. */
struct tp_backend_limits {
    const char *device;       /* "NVIDIA H200"; NULL: the processor */
    const char *instructions; /* "avx512", "sm_90" */
    size_t n_threads;         /* of a device: multiprocessors */
    /* Bytes a second, of memory far larger than the caches. A device's is that of copying, bytes
     * read and bytes written together. */
    double read_bandwidth;
    double read_bandwidth_small_pages; /* the same in pages as files have them; 0: has none */
    double multiply_adds;              /* a second, of the kind that products use; 0: not known */
};

/* A kind of work in a step, done again and again by itself. */
struct tp_backend_stage {
    const char *name;  /* "gate_up"; "step": all of it, in its order */
    size_t n_launches; /* in a step */
    double seconds;    /* that they take one after the other, the best of several rounds */
    uint64_t bytes;    /* weights and cache that they read at least, once each */
};
typedef void tp_backend_stage_fn(void *context, const struct tp_backend_stage *stage);

/* A text that goes on by itself: see decode_begin(). */
struct tp_decoding_text {
    struct tp_sequence *sequence;
    uint32_t token;   /* that follows what the sequence has, and is not fed yet */
    uint64_t seed;    /* of its draws */
    const bool *seen; /* [vocabulary]: tokens of the text; read if there is a penalty */
};

struct tp_backend; /* an open one */

struct tp_backend_kind {
    const char *name;
    /* Options of those names where nobody asked. */
    bool bf16_cache_by_default, bf16_prompts_by_default;
    bool same_bits_in_any_steps; /* see above */
    bool loads_by_itself; /* open() reads every weight, once: nobody need bring them into memory */

    /* `model` must outlive it. -ENOMEM, what threads cost, what a device fails with, and -EDOM when
     * int8_dense meets a weight that is not finite; with a message. */
    int (*open)(const struct tp_model *model, const struct tp_backend_options *options,
                struct tp_backend **ret_backend, struct tp_error *error);
    void (*close)(struct tp_backend *backend);

    /* Bytes that all sequences to come can have together. NULL: the machine's memory. */
    uint64_t (*memory_available)(const struct tp_backend *backend);

    /* Bytes that a sequence of so many tokens at most will take, and an empty one. -EINVAL with a
     * message for more tokens than options.context, where that matters. */
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
     * `trace` may be NULL. -ENOSPC when a sequence would exceed its context: nothing has changed
     * then. -ENOMEM; -EIO when a device has failed. All with a message. */
    int (*step)(struct tp_backend *backend, const struct tp_step_item *items, size_t n,
                float *logits, const struct tp_trace *trace, struct tp_error *error);

    /* Texts whose next tokens are chosen where the logits are (model/sampling.h), and fed at once:
     * nobody waits for them. Each text's token is fed, and what is chosen after it, n_most tokens
     * in all; decode_next() gives the tokens [n] that were chosen after the next of them, and may
     * be called n_most times. With decode_end() the sequences have what was fed before those, and
     * no more. In between nothing else is to be asked of the backend or the sequences. All three
     * are NULL where a backend cannot. -ENOSPC when a text has no room for n_most tokens, -EINVAL
     * for more texts than step_max; -ENOMEM; -EIO when a device has failed. All with a message.
     * `sampling`'s seed is the texts'. */
    int (*decode_begin)(struct tp_backend *backend, const struct tp_decoding_text *texts, size_t n,
                        const struct tp_sampling *sampling, size_t n_most, struct tp_error *error);
    int (*decode_next)(struct tp_backend *backend, uint32_t *ret_tokens, struct tp_error *error);
    int (*decode_end)(struct tp_backend *backend, struct tp_error *error);

    /* Measures, in a second or less, and in up to 1/8 of the machine's memory; without the small
     * pages, which are 0 then, in less. -ENOMEM with a message. */
    int (*measure)(struct tp_backend *backend, bool small_pages,
                   struct tp_backend_limits *ret_limits, struct tp_error *error);

    /* Measures the stages of a step with a token of each of `n` texts, which have `depth` tokens
     * already, and shows each. NULL where a step has no stages to be told apart. -EINVAL for more
     * texts than share a launch, -ENOSPC for a depth that the model has not, -ENOMEM; -EIO when the
     * device has failed. All with a message. */
    int (*measure_stages)(struct tp_backend *backend, size_t n, size_t depth,
                          tp_backend_stage_fn *see, void *context, struct tp_error *error);
};

/* Whether a step can be computed: -ENOSPC, -EINVAL. */
int tp_step_check(const struct tp_backend_kind *kind, const struct tp_step_item *items, size_t n,
                  size_t step_max, size_t vocabulary);

extern const struct tp_backend_kind tp_backend_cpu;

/* What a plugin shows, under the name TP_PLUGIN_SYMBOL. The number changes with this header and
 * with infer/model/model.h: a plugin is made for one tpinfer. */
struct tp_plugin {
    unsigned interface;
    const struct tp_backend_kind *kind;
};
#define TP_PLUGIN_INTERFACE 3u
#define TP_PLUGIN_SYMBOL    "tp_plugin"

#endif
