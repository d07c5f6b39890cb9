#include "infer/cli/bench_case.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/amount.h"
#include "fs/base/clock.h"
#include "infer/cli/bench_prompts.h"

const char *const tp_bench_kind_names[] = {"prefill", "decode", NULL};

size_t tp_bench_case_context(const struct tp_bench_case *what,
                             const struct tp_bench_settings *settings)
{
    size_t needed = what->length + (what->kind == TP_BENCH_DECODE ? settings->tokens : 0);
    return settings->context > needed ? settings->context : needed;
}

int tp_bench_case_check(const struct tp_bench_case *what, const struct tp_bench_settings *settings,
                        const struct tp_runtime *runtime, struct tp_error *error)
{
    const struct tp_model *model = runtime->model;
    size_t needed = tp_bench_case_context(what, settings);
    size_t room = settings->context > 0 ? settings->context : model->config.context;
    char needs[TP_AMOUNT_MAX], has[TP_AMOUNT_MAX];
    const struct tp_backend_kind *kind = runtime->kind;
    const char *of = kind->memory_available != NULL ? " of the GPU's memory" : "";
    uint64_t bytes, available = kind->memory_available != NULL
                                    ? kind->memory_available(runtime->backend)
                                    : tp_memory_available();
    if (needed > room)
        return tp_error_set(error, -ENOSPC, "%s needs a context of %zu tokens, %s %zu",
                            tp_bench_kind_names[what->kind], needed,
                            settings->context > 0 ? "--context is" : "the model has", room);
    int rc = tp_batch_bytes(kind, runtime->backend, model, what->n, needed, &bytes);
    if (rc < 0)
        return tp_error_set(error, rc, "%zu texts of %zu tokens are too many", what->n, needed);
    if (bytes <= available)
        return 0;
    tp_format_bytes((double)bytes, needs);
    tp_format_bytes((double)available, has);
    return tp_error_set(error, -ENOMEM,
                        "%zu texts of %zu tokens take %s, %s%s are available; give a smaller "
                        "--batch or length, or --kv-type bf16",
                        what->n, needed, needs, has, of);
}

/* ---- measuring ---- */

struct measuring {
    const struct tp_bench_case *what;
    const struct tp_bench_settings *settings;
    struct tp_batch *batch;
    size_t run;
    bool is_filled; /* the texts hold the prompts */
    const struct tp_bench_observer *observer;
    struct tp_batch_counts counts; /* of the first run: all are the same */

    uint32_t *next;                /* [n] */
    const uint32_t **next_of_text; /* [n], into `next` */
    size_t *ones, *zeros;          /* [n] */
};

/* A tp_batch_step_fn. */
static bool go_on(void *context)
{
    const struct measuring *m = context;
    return m->observer->progress(m->observer->context, m->what, m->run,
                                 m->settings->warm_up + m->settings->repeat);
}

static int feed_prompts(struct measuring *m, struct tp_error *error)
{
    const struct tp_bench_case *what = m->what;
    return tp_batch_feed(m->batch, (const uint32_t *const *)what->prompts, what->lengths, go_on, m,
                         error);
}

/* Likeliest token, the first of equals. */
static uint32_t likeliest(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        if (logits[i] > logits[best])
            best = i;
    }
    return (uint32_t)best;
}

/* Random texts go on at random, prompts as the model goes on with them. */
static void choose(struct measuring *m, size_t step)
{
    const struct tp_bench_case *what = m->what;
    size_t vocabulary = m->batch->model->config.vocab_size;
    for (size_t i = 0; i < what->n; i++)
        m->next[i] =
            what->first_prompt > 0
                ? likeliest(m->batch->logits + i * vocabulary, vocabulary)
                : tp_bench_random_token(m->settings->seed, vocabulary, i, what->lengths[i] + step);
}

/* As `tpinfer run` does, where the backend chooses tokens by itself: random texts draw them. */
static int decode_alone(struct measuring *m, struct tp_error *error)
{
    const struct tp_sampling sampling = {.temperature = m->what->first_prompt > 0 ? 0 : 1,
                                         .top_p = 1,
                                         .repetition_penalty = 1,
                                         .seed = m->settings->seed};
    choose(m, 0);
    return tp_batch_decode(m->batch, m->next, &sampling, m->settings->tokens, go_on, m, error);
}

static int decode(struct measuring *m, struct tp_error *error)
{
    int rc = 0;
    for (size_t step = 0; rc == 0 && step < m->settings->tokens; step++) {
        choose(m, step);
        rc = tp_batch_feed(m->batch, m->next_of_text, m->ones, go_on, m, error);
    }
    return rc;
}

/* Brings the texts to where the clock starts. */
static int prepare(struct measuring *m, struct tp_error *error)
{
    const struct tp_bench_case *what = m->what;
    if (what->kind == TP_BENCH_PREFILL || what->length == 0) {
        tp_batch_cut(m->batch, m->zeros);
        return 0;
    }
    /* Prompts are fed again if the windows' memory has moved on, and where the model chooses the
     * first token: the logits are then those after the prompt. */
    if (m->is_filled && what->first_prompt == 0 && tp_batch_cut(m->batch, what->lengths) == 0)
        return 0;
    tp_batch_cut(m->batch, m->zeros);
    m->is_filled = true;
    return feed_prompts(m, error);
}

static int run_once(struct measuring *m, double *ret_seconds, struct tp_error *error)
{
    m->batch->counts_experts = false;
    int rc = prepare(m, error);
    if (rc < 0)
        return rc;
    m->batch->counts = (struct tp_batch_counts){0};
    m->batch->counts_experts = m->run == 0;
    double start = tp_clock_seconds();
    if (m->what->kind == TP_BENCH_PREFILL)
        rc = feed_prompts(m, error);
    else if (m->run > 0 && m->batch->kind->decode_begin != NULL)
        rc = decode_alone(m, error);
    else
        rc = decode(m, error); /* counts what it does */
    *ret_seconds = tp_clock_seconds() - start;
    if (m->run == 0)
        m->counts = m->batch->counts;
    return rc;
}

static int run_all(struct measuring *m, struct tp_bench_result *result, struct tp_error *error)
{
    const struct tp_bench_observer *observer = m->observer;
    double ignored;
    int rc = 0;
    for (; rc == 0 && m->run < m->settings->warm_up; m->run++)
        rc = run_once(m, &ignored, error);
    if (rc == 0)
        rc = observer->limits(observer->context, &result->limits[0], error);
    for (size_t i = 0; rc == 0 && i < result->repeat; i++, m->run++) {
        rc = run_once(m, &result->seconds[i], error);
        if (rc == 0)
            rc = observer->limits(observer->context, &result->limits[i + 1], error);
    }
    return rc;
}

static int allocate(struct measuring *m)
{
    size_t n = m->what->n;
    m->next = calloc(n, sizeof *m->next);
    m->next_of_text = calloc(n, sizeof *m->next_of_text);
    m->ones = calloc(n, sizeof *m->ones);
    m->zeros = calloc(n, sizeof *m->zeros);
    if (m->next == NULL || m->next_of_text == NULL || m->ones == NULL || m->zeros == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        m->ones[i] = 1;
        m->next_of_text[i] = &m->next[i];
    }
    return 0;
}

static void release(struct measuring *m)
{
    free(m->next);
    free(m->next_of_text);
    free(m->ones);
    free(m->zeros);
}

void tp_bench_result_clear(struct tp_bench_result *result)
{
    free(result->lengths);
    free(result->seconds);
    free(result->limits);
    *result = (struct tp_bench_result){0};
}

static int result_init(const struct tp_bench_case *what, size_t repeat,
                       struct tp_bench_result *ret_result)
{
    struct tp_bench_result result = {.what = *what,
                                     .lengths = calloc(what->n, sizeof *result.lengths),
                                     .repeat = repeat,
                                     .seconds = calloc(repeat, sizeof *result.seconds),
                                     .limits = calloc(repeat + 1, sizeof *result.limits)};
    if (result.lengths == NULL || result.seconds == NULL || result.limits == NULL) {
        tp_bench_result_clear(&result);
        return -ENOMEM;
    }
    memcpy(result.lengths, what->lengths, what->n * sizeof *result.lengths);
    result.what.lengths = result.lengths;
    result.what.prompts = NULL;
    *ret_result = result;
    return 0;
}

int tp_bench_case_run(const struct tp_bench_case *what, const struct tp_bench_settings *settings,
                      struct tp_runtime *runtime, const struct tp_bench_observer *observer,
                      struct tp_bench_result *ret_result, struct tp_error *error)
{
    size_t room = tp_bench_case_context(what, settings);
    struct tp_bench_result result = {0};
    struct tp_batch batch = {0};
    struct measuring m = {
        .what = what, .settings = settings, .batch = &batch, .observer = observer};
    int rc = result_init(what, settings->repeat, &result);
    if (rc == 0)
        rc = allocate(&m);
    if (rc < 0)
        tp_error_set(error, rc, "out of memory");
    else
        rc = tp_batch_open(runtime->kind, runtime->backend, runtime->model, &runtime->options,
                           what->n, room, &batch, error);
    if (rc == 0)
        rc = run_all(&m, &result, error);
    if (rc == 0) {
        result.counts = m.counts;
        runtime->kind->sequence_bytes(runtime->backend, room, &result.cache_bytes);
        result.cache_bytes *= what->n;
        tp_memory_use_look(&result.memory);
    }
    tp_batch_close(&batch);
    release(&m);
    if (rc < 0)
        tp_bench_result_clear(&result);
    else
        *ret_result = result;
    return rc;
}
