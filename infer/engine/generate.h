/* Generating text: what the session does not hold of the prompt in chunks, then token by token.
 *
 * The simple case needs an initialised struct tp_generate_options with `sampling`, `n_most` and
 * `chunk`, the rest zeros, and a function that takes the tokens. What else there is does not change
 * what is generated, only when it ends, how fast it comes, and what can be seen of it.
 */
#ifndef TENSORPORT_INFER_ENGINE_GENERATE_H
#define TENSORPORT_INFER_ENGINE_GENERATE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/engine/sampler.h"
#include "infer/engine/session.h"

/* For whoever wants to see the numbers. Each may be NULL; a negative result ends the generation and
 * is passed on, with the message that was set. */
struct tp_generate_observer {
    void *context;

    /* Logits [n][vocabulary] after each of the next n tokens that were fed, the prompt's and then
     * those that were generated. Prompts are computed in shorter chunks then. */
    int (*see_logits)(void *context, const float *logits, size_t n, struct tp_error *error);

    /* A token and the logits [vocabulary] it was chosen from, as the model gave them; before the
     * token is handed on. */
    int (*see_choice)(void *context, const float *logits, uint32_t token, struct tp_error *error);
};

struct tp_generate_options {
    struct tp_sampling sampling;
    size_t n_most;   /* tokens to generate at most; with 0 the prompt is taken in and that is all */
    size_t chunk;    /* tokens in one step, at least 1, at most the backend's step_max */
    bool ignore_eos; /* go on after tokens that end a text */

    const uint32_t *end_tokens; /* [n_end_tokens] that end a text beside the model's own: a chat
                                   format's */
    size_t n_end_tokens;
    const uint32_t *stop_tokens; /* [n_stop_tokens] that stop the generation, whatever ignore_eos
                                    says */
    size_t n_stop_tokens;
    size_t lookup; /* tokens to draft for a step at most (engine/lookup.h); 0: none */
    const volatile sig_atomic_t *interrupted;    /* NULL, or not 0 once no further step is wanted: a
                                                    signal's handler may set it */
    const struct tp_generate_observer *observer; /* or NULL */
};

enum tp_generate_end {
    TP_END_LENGTH,      /* n_most tokens */
    TP_END_EOS,         /* a token that ends a text */
    TP_END_CONTEXT,     /* the context is full */
    TP_END_STOPPED,     /* a stop token, or the caller wants no more */
    TP_END_INTERRUPTED, /* perhaps with the prompt not taken in */
};

struct tp_generate_report {
    enum tp_generate_end end;
    size_t n_prompt;
    size_t n_reused; /* tokens of the prompt that the session held already */
    size_t n_generated;
    size_t n_drafted, n_accepted;          /* by lookup */
    double prompt_seconds, decode_seconds; /* the first token comes with the prompt */
    double first_token_seconds;            /* from the beginning; 0: there is none */
};

/* Each token as it is chosen; false ends the generation after it. */
typedef bool tp_generate_token_fn(void *context, uint32_t token);

/* Makes `prompt` the session's text and generates what follows. A token that ends or stops it is
 * handed on too. The session then holds all but the last token. -ENOSPC when the prompt does not
 * fit the context; -EINVAL when it is empty; -ENOMEM; all with a message. */
int tp_generate(struct tp_session *session, const uint32_t *prompt, size_t n_prompt,
                const struct tp_generate_options *options, tp_generate_token_fn *take,
                void *context, struct tp_generate_report *ret_report, struct tp_error *error);

#endif
