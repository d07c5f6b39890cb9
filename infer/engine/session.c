#include "infer/engine/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int tp_session_open(const struct tp_backend_kind *kind, struct tp_backend *backend,
                    const struct tp_model_config *config, size_t context,
                    struct tp_session *ret_session, struct tp_error *error)
{
    struct tp_session session = {
        .kind = kind, .backend = backend, .config = config, .context = context};
    session.tokens = calloc(context + 1, sizeof *session.tokens);
    if (session.tokens == NULL)
        return tp_error_set(error, -ENOMEM, "no memory for the ids of %zu tokens", context);
    int rc = kind->sequence_new(backend, context, &session.sequence, error);
    if (rc < 0)
        free(session.tokens);
    else
        *ret_session = session;
    return rc;
}

void tp_session_close(struct tp_session *session)
{
    if (session->sequence != NULL)
        session->kind->sequence_free(session->sequence);
    free(session->tokens);
    *session = (struct tp_session){0};
}

int tp_session_cut(struct tp_session *session, size_t length)
{
    int rc = session->kind->sequence_cut(session->sequence, length);
    if (rc == 0)
        session->length = length;
    return rc;
}

size_t tp_session_keep(struct tp_session *session, const uint32_t *text, size_t n)
{
    size_t common = 0;
    while (common < session->length && common + 1 < n && session->tokens[common] == text[common])
        common++;
    if (tp_session_cut(session, common) < 0)
        tp_session_cut(session, 0);
    return session->length;
}

int tp_session_step(struct tp_session *session, const uint32_t *tokens, size_t n, size_t n_logits,
                    float *logits, struct tp_error *error)
{
    struct tp_step_item item = {session->sequence, tokens, n, n_logits};
    int rc = session->kind->step(session->backend, &item, 1, logits, session->trace, error);
    if (rc == -ENOSPC)
        return tp_error_set(error, rc,
                            "the text no longer fits the context of %zu tokens; give a larger "
                            "--context",
                            session->context);
    if (rc < 0)
        return rc;
    memcpy(session->tokens + session->length, tokens, n * sizeof *tokens);
    session->length += n;
    return 0;
}

bool tp_session_can_decode(const struct tp_session *session)
{
    return session->kind->decode_begin != NULL && session->trace == NULL;
}

int tp_session_decode(struct tp_session *session, uint32_t token,
                      const struct tp_sampling *sampling, const bool *seen, size_t n_most,
                      tp_session_token_fn *take, void *context, struct tp_error *error)
{
    const struct tp_backend_kind *kind = session->kind;
    const struct tp_decoding_text text = {session->sequence, token, sampling->seed, seen};
    int rc = kind->decode_begin(session->backend, &text, 1, sampling, n_most, error);
    if (rc < 0)
        return rc;
    bool goes_on = true;
    for (size_t i = 0; rc == 0 && goes_on && i < n_most; i++) {
        uint32_t next;
        rc = kind->decode_next(session->backend, &next, error);
        if (rc < 0)
            break;
        session->tokens[session->length++] = token;
        token = next;
        goes_on = take(context, token);
    }
    int rc_end = kind->decode_end(session->backend, rc < 0 ? NULL : error);
    return rc < 0 ? rc : rc_end;
}
