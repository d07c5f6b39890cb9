/* A text goes through one engine, or through two side by side, in steps of a few tokens; somebody
 * sees the logits after each position. Memory does not grow with the text. */
#ifndef TENSORPORT_INFER_VALIDATE_FEED_H
#define TENSORPORT_INFER_VALIDATE_FEED_H

#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/engine/session.h"

enum { TP_FEED_ENGINES_MAX = 2 };

struct tp_feed {
    struct tp_session sessions[TP_FEED_ENGINES_MAX]; /* of one model */
    size_t n_engines;
    size_t chunk;                       /* tokens in a step, at most the backends' step_max */
    float *logits[TP_FEED_ENGINES_MAX]; /* [n_rows][vocabulary] */
    size_t n_rows;                      /* that a step gives at most */
};

/* An engine: a backend that somebody has opened. */
struct tp_feed_engine {
    const struct tp_backend_kind *kind;
    struct tp_backend *backend;
};

/* Empty sessions of `context` tokens. -ENOMEM and the like, with a message. */
int tp_feed_open(const struct tp_feed_engine *engines, size_t n,
                 const struct tp_model_config *config, size_t context, size_t chunk,
                 struct tp_feed *ret_feed, struct tp_error *error);
void tp_feed_close(struct tp_feed *feed);

/* `rows`: of each engine, [vocabulary]. */
typedef void tp_feed_row_fn(void *context, size_t position, const float *const *rows);

/* Reads the tokens of `text` from the first that the sessions do not hold to number `end`, and
 * shows the logits after the positions from `first_row` on. `see` may be NULL if there are none. */
int tp_feed_text(struct tp_feed *feed, const uint32_t *text, size_t end, size_t first_row,
                 tp_feed_row_fn *see, void *context, struct tp_error *error);

#endif
