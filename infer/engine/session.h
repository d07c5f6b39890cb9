/* A text in progress: the tokens that a sequence holds keys and values of. */
#ifndef TENSORPORT_INFER_ENGINE_SESSION_H
#define TENSORPORT_INFER_ENGINE_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/backend.h"

struct tp_session {
    const struct tp_backend_kind *kind;
    struct tp_backend *backend; /* the caller's */
    const struct tp_model_config *config;
    size_t context; /* tokens it may have */
    struct tp_sequence *sequence;
    uint32_t *tokens; /* [length] in room for [context] */
    size_t length;
    const struct tp_trace *trace; /* the caller's, told of every step; NULL at first */
};

/* An empty one. -ENOMEM or -EOVERFLOW, with a message. */
int tp_session_open(const struct tp_backend_kind *kind, struct tp_backend *backend,
                    const struct tp_model_config *config, size_t context,
                    struct tp_session *ret_session, struct tp_error *error);

/* Of a session that is all zeros, too. */
void tp_session_close(struct tp_session *session);

/* Cuts the session to the beginning that it has in common with `text` [n], so that only the rest
 * need be computed; where a window's memory has moved on it becomes empty. At most `n` - 1 tokens
 * stay: somebody wants the logits after the last. Gives their number. */
size_t tp_session_keep(struct tp_session *session, const uint32_t *text, size_t n);

/* Appends tokens, at most the backend's step_max; `logits` [n_logits][vocabulary] are those after
 * the last ones. -ENOSPC when they do not fit the context; -ENOMEM; both with a message. */
int tp_session_step(struct tp_session *session, const uint32_t *tokens, size_t n, size_t n_logits,
                    float *logits, struct tp_error *error);

/* Whether its backend can go on without being told each token; nobody sees logits or steps then. */
bool tp_session_can_decode(const struct tp_session *session);

/* Appends `token`, and up to n_most - 1 tokens that are chosen after it as `sampling` says. `take`
 * is told each token that was chosen, when the session has those before it; it ends with that one
 * if it returns false. `seen` [vocabulary] is needed with a repetition penalty: tokens of the text.
 * Errors as above. */
typedef bool tp_session_token_fn(void *context, uint32_t token);
int tp_session_decode(struct tp_session *session, uint32_t token,
                      const struct tp_sampling *sampling, const bool *seen, size_t n_most,
                      tp_session_token_fn *take, void *context, struct tp_error *error);

/* Forgets the tokens from `length` on. Always possible for the last few, fewer than step_max. */
int tp_session_cut(struct tp_session *session, size_t length);

#endif
