#include "infer/engine/generate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/clock.h"

struct generation {
    const struct tp_backend_kind *kind;
    struct tp_backend *backend;
    const struct tp_model_config *config;
    struct tp_sequence *sequence;
    const struct tp_generate_options *options;
    struct tp_sampler *sampler;
    float *logits; /* [vocabulary] of the last token */
};

static int step(struct generation *g, const uint32_t *tokens, size_t n, bool wants_logits,
                struct tp_error *error)
{
    struct tp_step_item item = {g->sequence, tokens, n, wants_logits};
    int rc = g->kind->step(g->backend, &item, 1, g->logits, NULL);
    if (rc == -ENOSPC)
        return tp_error_set(error, rc, "the text no longer fits the context");
    return rc < 0 ? tp_error_set(error, rc, "cannot compute: %s", strerror(-rc)) : 0;
}

static int take_in(struct generation *g, const uint32_t *prompt, size_t n, struct tp_error *error)
{
    for (size_t at = 0; at < n; at += g->options->chunk) {
        size_t now_n = n - at < g->options->chunk ? n - at : g->options->chunk;
        int rc = step(g, prompt + at, now_n, at + now_n == n, error);
        if (rc < 0)
            return rc;
        for (size_t i = 0; i < now_n; i++)
            tp_sampler_note(g->sampler, prompt[at + i]);
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

static int go_on(struct generation *g, size_t context_length, tp_generate_token_fn *take,
                 void *context, struct tp_generate_report *report, struct tp_error *error)
{
    report->end = TP_END_LENGTH;
    while (report->n_generated < g->options->n_most) {
        size_t length = g->kind->sequence_length(g->sequence);
        uint32_t token = tp_sampler_choose(g->sampler, g->logits, length);
        tp_sampler_note(g->sampler, token);
        report->n_generated++;
        bool wanted = take(context, token);
        if (!g->options->ignore_eos && ends_text(g->config, token)) {
            report->end = TP_END_EOS;
            return 0;
        }
        if (!wanted) {
            report->end = TP_END_STOPPED;
            return 0;
        }
        if (report->n_generated == g->options->n_most)
            return 0;
        if (length == context_length) {
            report->end = TP_END_CONTEXT;
            return 0;
        }
        int rc = step(g, &token, 1, true, error);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int generate(struct generation *g, size_t context_length, const uint32_t *prompt,
                    size_t n_prompt, tp_generate_token_fn *take, void *context,
                    struct tp_generate_report *report, struct tp_error *error)
{
    double start = tp_clock_seconds();
    int rc = take_in(g, prompt, n_prompt, error);
    double middle = tp_clock_seconds();
    if (rc == 0)
        rc = go_on(g, context_length, take, context, report, error);
    report->n_prompt = n_prompt;
    report->prompt_seconds = middle - start;
    report->decode_seconds = tp_clock_seconds() - middle;
    return rc;
}

int tp_generate(const struct tp_backend_kind *kind, struct tp_backend *backend,
                const struct tp_model_config *config, struct tp_sequence *sequence,
                const uint32_t *prompt, size_t n_prompt, const struct tp_generate_options *options,
                tp_generate_token_fn *take, void *context, struct tp_generate_report *ret_report,
                struct tp_error *error)
{
    struct generation g = {.kind = kind,
                           .backend = backend,
                           .config = config,
                           .sequence = sequence,
                           .options = options};
    size_t context_length = kind->sequence_context(sequence);
    if (n_prompt == 0)
        return tp_error_set(error, -EINVAL, "the prompt is empty: expected at least one token");
    if (n_prompt > context_length - kind->sequence_length(sequence))
        return tp_error_set(error, -ENOSPC,
                            "the prompt has %zu tokens, the context room for %zu; give a larger "
                            "--context",
                            n_prompt, context_length - kind->sequence_length(sequence));
    struct tp_generate_report report = {0};
    g.logits = calloc(config->vocab_size, sizeof *g.logits);
    int rc = g.logits == NULL ? -ENOMEM
                              : tp_sampler_new(&options->sampling, config->vocab_size, &g.sampler);
    if (rc < 0)
        tp_error_set(error, rc, "out of memory");
    else
        rc = generate(&g, context_length, prompt, n_prompt, take, context, &report, error);
    tp_sampler_free(g.sampler);
    free(g.logits);
    if (rc == 0)
        *ret_report = report;
    return rc;
}
