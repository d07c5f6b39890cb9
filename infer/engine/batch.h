/* Several texts in progress at once, for measuring: every step takes tokens of all of them, and
 * counts what it read and computed at least. */
#ifndef TENSORPORT_INFER_ENGINE_BATCH_H
#define TENSORPORT_INFER_ENGINE_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/backend.h"
#include "infer/model/cost.h"

/* Of all steps since it was set to zeros. */
struct tp_batch_counts {
    uint64_t steps, tokens;
    uint64_t dense_bytes, expert_bytes, cache_bytes; /* see model/cost.h */
    uint64_t multiply_adds;
    /* If they are counted: different ones that a layer's tokens chose, over all steps and layers.
     */
    uint64_t experts;
};

struct tp_batch {
    const struct tp_backend_kind *kind;
    struct tp_backend *backend; /* the caller's */
    const struct tp_model *model;
    struct tp_model_cost cost;
    size_t n, step_max; /* texts; tokens of all of them in one step */

    struct tp_sequence **sequences; /* [n] */
    float *logits;                  /* [n][vocabulary]: after the last token of each text */
    struct tp_batch_counts counts;
    bool counts_experts; /* by a trace, for which a device stops in every layer; not at first */

    struct tp_step_item *items; /* private: [n] */
    bool *chosen;               /* private: [experts] */
};

/* `n` empty texts, at most options->step_max, of up to `context` tokens each. `options` are those
 * that the backend was opened with. -ENOMEM or -EOVERFLOW with a message. */
int tp_batch_open(const struct tp_backend_kind *kind, struct tp_backend *backend,
                  const struct tp_model *model, const struct tp_backend_options *options, size_t n,
                  size_t context, struct tp_batch *ret_batch, struct tp_error *error);

/* Of a batch that is all zeros, too. */
void tp_batch_close(struct tp_batch *batch);

/* Bytes that opening it takes. -EOVERFLOW. */
int tp_batch_bytes(const struct tp_backend_kind *kind, const struct tp_backend *backend,
                   const struct tp_model *model, size_t n, size_t context, uint64_t *ret_bytes);

/* Called after each step; false ends the work. */
typedef bool tp_batch_step_fn(void *context);

/* Appends to every text i its tokens[i] [lengths[i]], at least one, text after text, as many in a
 * step as it may have. -EINTR if `go_on`, which may be NULL, ended it; -ENOSPC beyond the context;
 * -ENOMEM. The last two come with a message. */
int tp_batch_feed(struct tp_batch *batch, const uint32_t *const *tokens, const size_t *lengths,
                  tp_batch_step_fn *go_on, void *context, struct tp_error *error);

/* Feeds every text its token of tokens [n] and what is chosen after it, n_most tokens each: all
 * without anybody between them, where a backend can (see tp_backend_kind.decode_begin). The same
 * errors. Logits are undefined afterwards. */
int tp_batch_decode(struct tp_batch *batch, const uint32_t *tokens,
                    const struct tp_sampling *sampling, size_t n_most, tp_batch_step_fn *go_on,
                    void *context, struct tp_error *error);

/* Forgets the tokens of each text from lengths[i] on. -ERANGE if one of them cannot; the texts are
 * all empty then. */
int tp_batch_cut(struct tp_batch *batch, const size_t *lengths);

#endif
