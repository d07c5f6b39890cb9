/* A step feeds the token that was chosen last and, with lookup, a draft of those that may follow:
 *
 *     fed      [t0 d1 d2 d3]      t0 is certain, d1.. are guesses
 *     logits   [r0 r1 r2 r3]      r0 is what t0 alone would have given, bit for bit
 *
 * The token chosen from r0 decides about d1: if it is d1, that was fed already and r1 is what to
 * choose the next token from; if not, d1 and all after it are cut from the session and the token is
 * fed in the next step. Choosing knows the text so far and the position only, so the tokens are
 * those that single steps would have given. Without lookup the draft is empty. */
#include "infer/engine/generate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/clock.h"
#include "infer/engine/lookup.h"

/* Logits of a chunk of the prompt when all are wanted: 83 tokens of a vocabulary of 200,000. */
enum { LOGITS_BYTES_MAX = 64 << 20 };

struct generation {
    struct tp_session *session;
    const struct tp_generate_options *options;
    struct tp_sampler *sampler;
    struct tp_lookup *lookup; /* NULL: none wanted */
    tp_generate_token_fn *take;
    void *context; /* of `take` */

    uint32_t *fed; /* [n_fed]: the tokens of the last step, in room for 1 + the longest draft */
    float *logits; /* [n_rows][vocabulary]: after each of them */
    size_t n_rows, n_fed;
    size_t at;     /* which of them is the text's last token so far; those after it are guesses */
    size_t length; /* of the text, that one included */

    bool over;
    double start;
    struct tp_generate_report report;
};

static bool has(const uint32_t *tokens, size_t n, uint32_t token)
{
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] == token)
            return true;
    }
    return false;
}

static bool ends_text(const struct generation *g, uint32_t token)
{
    const struct tp_model_config *config = g->session->config;
    for (size_t i = 0; i < config->n_eos_tokens; i++) {
        if (config->eos_tokens[i] == token)
            return true;
    }
    return has(g->options->end_tokens, g->options->n_end_tokens, token);
}

static bool end(struct generation *g, enum tp_generate_end why)
{
    g->report.end = why;
    g->over = true;
    return true;
}

static bool end_if_interrupted(struct generation *g)
{
    return g->options->interrupted != NULL && *g->options->interrupted != 0 &&
           end(g, TP_END_INTERRUPTED);
}

static bool wants_logits(const struct tp_generate_options *options)
{
    return options->observer != NULL && options->observer->see_logits != NULL;
}

static int show_logits(struct generation *g, const float *logits, size_t n, struct tp_error *error)
{
    const struct tp_generate_observer *observer = g->options->observer;
    return wants_logits(g->options) ? observer->see_logits(observer->context, logits, n, error) : 0;
}

static void note(struct generation *g, uint32_t token)
{
    tp_sampler_note(g->sampler, token);
    if (g->lookup != NULL)
        tp_lookup_append(g->lookup, token);
}

/* ---- the prompt ---- */

static int take_in(struct generation *g, const uint32_t *prompt, size_t n, struct tp_error *error)
{
    bool all = wants_logits(g->options);
    size_t chunk = all && g->n_rows < g->options->chunk ? g->n_rows : g->options->chunk;
    g->report.n_prompt = n;
    g->report.n_reused = tp_session_keep(g->session, prompt, n);
    g->length = g->report.n_reused;
    for (size_t i = 0; i < n; i++)
        note(g, prompt[i]);
    for (size_t at = g->report.n_reused; at < n && !end_if_interrupted(g); at += chunk) {
        size_t now = n - at < chunk ? n - at : chunk;
        size_t n_logits = all ? now : at + now == n;
        int rc = tp_session_step(g->session, prompt + at, now, n_logits, g->logits, error);
        if (rc < 0)
            return rc;
        g->length += now;
        g->n_fed = n_logits; /* 0 before the last chunk, where nothing is chosen */
        g->at = n_logits - 1;
        if (all && (rc = show_logits(g, g->logits, now, error)) < 0)
            return rc;
    }
    return 0;
}

/* ---- what follows ---- */

/* Feeds the token, which has no place in the last step, and a draft of what may follow. */
static int feed(struct generation *g, uint32_t token, struct tp_error *error)
{
    struct tp_session *session = g->session;
    size_t most = g->options->lookup;
    if (most > session->context - g->length - 1)
        most = session->context - g->length - 1;
    if (most > g->options->n_most - g->report.n_generated - 1)
        most = g->options->n_most - g->report.n_generated - 1;
    if (most > g->n_rows - 1)
        most = g->n_rows - 1;
    g->fed[0] = token;
    g->n_fed = 1 + (g->lookup != NULL ? tp_lookup_draft(g->lookup, most, g->fed + 1) : 0);
    g->at = 0;
    g->report.n_drafted += g->n_fed - 1;
    int rc = tp_session_step(session, g->fed, g->n_fed, g->n_fed, g->logits, error);
    if (rc < 0)
        return rc;
    g->length++;
    return show_logits(g, g->logits, 1, error);
}

/* Cuts what was guessed and is not the text's. */
static int cut(struct generation *g, struct tp_error *error)
{
    if (g->session->length <= g->length)
        return 0;
    int rc = tp_session_cut(g->session, g->length);
    return rc < 0 ? tp_error_set(error, rc, "cannot take drafted tokens back: %s", strerror(-rc))
                  : 0;
}

static int go_on_with(struct generation *g, uint32_t token, struct tp_error *error)
{
    size_t vocabulary = g->session->config->vocab_size;
    if (g->at + 1 < g->n_fed && g->fed[g->at + 1] == token) {
        g->at++;
        g->length++;
        g->report.n_accepted++;
        return show_logits(g, g->logits + g->at * vocabulary, 1, error);
    }
    int rc = cut(g, error);
    return rc < 0 ? rc : feed(g, token, error);
}

static int choose(struct generation *g, uint32_t *ret_token, struct tp_error *error)
{
    const struct tp_generate_observer *observer = g->options->observer;
    const float *logits = g->logits + g->at * g->session->config->vocab_size;
    uint32_t token = tp_sampler_choose(g->sampler, logits, g->length);
    if (g->report.n_generated++ == 0)
        g->report.first_token_seconds = tp_clock_seconds() - g->start;
    note(g, token);
    *ret_token = token;
    return observer != NULL && observer->see_choice != NULL
               ? observer->see_choice(observer->context, logits, token, error)
               : 0;
}

/* Why there is no next token, if so. */
static bool end_after(struct generation *g, uint32_t token, bool wanted)
{
    const struct tp_generate_options *options = g->options;
    if (!options->ignore_eos && ends_text(g, token))
        return end(g, TP_END_EOS);
    if (!wanted || has(options->stop_tokens, options->n_stop_tokens, token))
        return end(g, TP_END_STOPPED);
    if (g->report.n_generated == options->n_most)
        return end(g, TP_END_LENGTH);
    if (g->length == g->session->context)
        return end(g, TP_END_CONTEXT);
    return end_if_interrupted(g);
}

/* A tp_session_token_fn: the session has the text but for this token. */
static bool take_chosen(void *context, uint32_t token)
{
    struct generation *g = context;
    g->length++;
    g->report.n_generated++;
    note(g, token);
    bool wanted = g->take(g->context, token);
    return !end_after(g, token, wanted);
}

/* Where nobody wants to see logits, the backend may choose. */
static bool can_decode(const struct generation *g)
{
    const struct tp_generate_observer *observer = g->options->observer;
    bool is_seen =
        observer != NULL && (observer->see_logits != NULL || observer->see_choice != NULL);
    return !is_seen && g->lookup == NULL && tp_session_can_decode(g->session);
}

static int decode(struct generation *g, uint32_t token, struct tp_error *error)
{
    const struct tp_generate_options *options = g->options;
    size_t n = options->n_most - g->report.n_generated, room = g->session->context - g->length;
    return tp_session_decode(g->session, token, &options->sampling, tp_sampler_seen(g->sampler),
                             n < room ? n : room, take_chosen, g, error);
}

static int go_on(struct generation *g, struct tp_error *error)
{
    bool decodes = can_decode(g);
    while (!g->over) {
        uint32_t token;
        int rc = choose(g, &token, error);
        if (rc < 0)
            return rc;
        bool wanted = g->take(g->context, token);
        if (end_after(g, token, wanted))
            return 0;
        rc = decodes ? decode(g, token, error) : go_on_with(g, token, error);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int generate(struct generation *g, const uint32_t *prompt, size_t n_prompt,
                    struct tp_error *error)
{
    g->start = tp_clock_seconds();
    int rc = take_in(g, prompt, n_prompt, error);
    double middle = tp_clock_seconds();
    if (rc == 0 && !g->over && g->options->n_most == 0)
        end(g, TP_END_LENGTH);
    if (rc == 0)
        rc = go_on(g, error);
    int rc_cut = cut(g, rc < 0 ? NULL : error);
    g->report.prompt_seconds = middle - g->start;
    g->report.decode_seconds = tp_clock_seconds() - middle;
    return rc < 0 ? rc : rc_cut;
}

/* ---- beginning and end ---- */

static int allocate(struct generation *g)
{
    const struct tp_generate_options *options = g->options;
    size_t vocabulary = g->session->config->vocab_size;
    size_t lookup = options->lookup < options->chunk ? options->lookup : options->chunk - 1;
    size_t n_rows = lookup + 1, n_many = LOGITS_BYTES_MAX / sizeof *g->logits / vocabulary;
    if (n_many > options->chunk)
        n_many = options->chunk;
    if (wants_logits(options) && n_rows < n_many)
        n_rows = n_many;
    g->n_rows = n_rows;
    g->fed = calloc(n_rows, sizeof *g->fed);
    g->logits = calloc(n_rows, vocabulary * sizeof *g->logits);
    if (g->fed == NULL || g->logits == NULL)
        return -ENOMEM;
    int rc = tp_sampler_new(&options->sampling, vocabulary, &g->sampler);
    return rc < 0 || options->lookup == 0 ? rc : tp_lookup_new(g->session->context, &g->lookup);
}

int tp_generate(struct tp_session *session, const uint32_t *prompt, size_t n_prompt,
                const struct tp_generate_options *options, tp_generate_token_fn *take,
                void *context, struct tp_generate_report *ret_report, struct tp_error *error)
{
    struct generation g = {
        .session = session, .options = options, .take = take, .context = context};
    if (n_prompt == 0)
        return tp_error_set(error, -EINVAL, "the prompt is empty: expected at least one token");
    if (n_prompt > session->context)
        return tp_error_set(error, -ENOSPC,
                            "the prompt has %zu tokens, the context room for %zu; give a larger "
                            "--context",
                            n_prompt, session->context);
    int rc = allocate(&g);
    if (rc < 0)
        tp_error_set(error, rc, "out of memory");
    else
        rc = generate(&g, prompt, n_prompt, error);
    tp_lookup_free(g.lookup);
    tp_sampler_free(g.sampler);
    free(g.logits);
    free(g.fed);
    if (rc == 0)
        *ret_report = g.report;
    return rc;
}
