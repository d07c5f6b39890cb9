/* Generating text: what the session does not hold of the prompt in chunks, then token by token. */
#ifndef TENSORPORT_INFER_ENGINE_GENERATE_H
#define TENSORPORT_INFER_ENGINE_GENERATE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/engine/sampler.h"
#include "infer/engine/session.h"

struct tp_generate_options {
    struct tp_sampling sampling;
    size_t n_most;   /* tokens to generate at most */
    size_t chunk;    /* tokens of the prompt in one step, at most the backend's step_max */
    bool ignore_eos; /* go on after a token that ends the text */
    const volatile sig_atomic_t *interrupted; /* NULL, or not 0 once no further step is wanted: a
                                                 signal's handler may set it */
};

enum tp_generate_end {
    TP_END_LENGTH,
    TP_END_EOS,
    TP_END_CONTEXT,
    TP_END_STOPPED,
    TP_END_INTERRUPTED, /* perhaps with the prompt not taken in */
};

struct tp_generate_report {
    enum tp_generate_end end;
    size_t n_prompt;
    size_t n_reused; /* tokens of the prompt that the session held already */
    size_t n_generated;
    double prompt_seconds, decode_seconds;
};

/* Each token as it is chosen; false ends the generation after it. */
typedef bool tp_generate_token_fn(void *context, uint32_t token);

/* Makes `prompt` the session's text and generates what follows. A token that ends the text is
 * handed on too. The session then holds all but the last token. -ENOSPC when the prompt does not
 * fit the context; -EINVAL when it is empty; -ENOMEM; all with a message. */
int tp_generate(struct tp_session *session, const uint32_t *prompt, size_t n_prompt,
                const struct tp_generate_options *options, tp_generate_token_fn *take,
                void *context, struct tp_generate_report *ret_report, struct tp_error *error);

#endif
