#include "infer/engine/generate.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/base/clock.h"

struct generation {
    struct tp_session *session;
    const struct tp_generate_options *options;
    struct tp_sampler *sampler;
    float *logits; /* [vocabulary] of the last token */
    struct tp_generate_report report;
};

static bool is_interrupted(const struct generation *g)
{
    return g->options->interrupted != NULL && *g->options->interrupted != 0;
}

static int take_in(struct generation *g, const uint32_t *prompt, size_t n, struct tp_error *error)
{
    g->report.n_prompt = n;
    g->report.n_reused = tp_session_keep(g->session, prompt, n);
    for (size_t i = 0; i < n; i++)
        tp_sampler_note(g->sampler, prompt[i]);
    for (size_t at = g->report.n_reused; at < n && !is_interrupted(g); at += g->options->chunk) {
        size_t now = n - at < g->options->chunk ? n - at : g->options->chunk;
        int rc = tp_session_step(g->session, prompt + at, now, at + now == n, g->logits, error);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static bool ends_text(const struct tp_model_config *config, uint32_t token)
{
    for (size_t i = 0; i < config->n_eos_tokens; i++) {
        if (config->eos_tokens[i] == token)
            return true;
    }
    return false;
}

static int go_on(struct generation *g, tp_generate_token_fn *take, void *context,
                 struct tp_error *error)
{
    struct tp_session *session = g->session;
    g->report.end = is_interrupted(g) ? TP_END_INTERRUPTED : TP_END_LENGTH;
    while (!is_interrupted(g) && g->report.n_generated < g->options->n_most) {
        uint32_t token = tp_sampler_choose(g->sampler, g->logits, session->length);
        tp_sampler_note(g->sampler, token);
        g->report.n_generated++;
        bool wanted = take(context, token);
        if (!g->options->ignore_eos && ends_text(session->config, token)) {
            g->report.end = TP_END_EOS;
            return 0;
        }
        if (!wanted) {
            g->report.end = TP_END_STOPPED;
            return 0;
        }
        if (g->report.n_generated == g->options->n_most)
            return 0;
        if (session->length == session->context) {
            g->report.end = TP_END_CONTEXT;
            return 0;
        }
        int rc = tp_session_step(session, &token, 1, 1, g->logits, error);
        if (rc < 0)
            return rc;
        if (is_interrupted(g))
            g->report.end = TP_END_INTERRUPTED;
    }
    return 0;
}

static int generate(struct generation *g, const uint32_t *prompt, size_t n_prompt,
                    tp_generate_token_fn *take, void *context, struct tp_error *error)
{
    double start = tp_clock_seconds();
    int rc = take_in(g, prompt, n_prompt, error);
    double middle = tp_clock_seconds();
    if (rc == 0)
        rc = go_on(g, take, context, error);
    g->report.prompt_seconds = middle - start;
    g->report.decode_seconds = tp_clock_seconds() - middle;
    return rc;
}

int tp_generate(struct tp_session *session, const uint32_t *prompt, size_t n_prompt,
                const struct tp_generate_options *options, tp_generate_token_fn *take,
                void *context, struct tp_generate_report *ret_report, struct tp_error *error)
{
    struct generation g = {.session = session, .options = options};
    size_t vocabulary = session->config->vocab_size;
    if (n_prompt == 0)
        return tp_error_set(error, -EINVAL, "the prompt is empty: expected at least one token");
    if (n_prompt > session->context)
        return tp_error_set(error, -ENOSPC,
                            "the prompt has %zu tokens, the context room for %zu; give a larger "
                            "--context",
                            n_prompt, session->context);
    g.logits = calloc(vocabulary, sizeof *g.logits);
    int rc =
        g.logits == NULL ? -ENOMEM : tp_sampler_new(&options->sampling, vocabulary, &g.sampler);
    if (rc < 0)
        tp_error_set(error, rc, "out of memory");
    else
        rc = generate(&g, prompt, n_prompt, take, context, error);
    tp_sampler_free(g.sampler);
    free(g.logits);
    if (rc == 0)
        *ret_report = g.report;
    return rc;
}
