#include "cuda/choosing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

unsigned tp_choosing_kind(const struct tp_choosing *choosing)
{
    return 1 + choosing->draws + 2 * choosing->cuts_to_k + 4 * choosing->cuts_to_p;
}

void tp_choosing_take(struct tp_choosing *choosing, struct tp_arena *arena)
{
    struct tp_choose *a = &choosing->arguments;
    choosing->chosen = tp_arena_take(arena, choosing->capacity, sizeof *choosing->chosen);
    choosing->terms = tp_arena_take(arena, 1, sizeof *choosing->terms);
    *a = (struct tp_choose){
        .vocabulary = (uint32_t)choosing->of->model->config.vocab_size,
        .terms = choosing->terms,
        .choices = tp_arena_take(arena, TP_FEW, sizeof *a->choices),
        .of_slices = tp_arena_take(arena, (size_t)TP_FEW * TP_CHOICE_SLICES, sizeof *a->of_slices),
        .counts = tp_arena_take(arena, (size_t)TP_FEW * 2 * TP_CHOICE_BINS, sizeof *a->counts),
        .masses = tp_arena_take(arena, (size_t)TP_FEW * 2 * TP_CHOICE_BINS, sizeof *a->masses),
        .likely = tp_arena_take(arena, TP_FEW, sizeof *a->likely),
        .matches = tp_arena_take(arena, (size_t)TP_FEW * TP_CHOICE_SLICES, sizeof *a->matches),
        .arrived = tp_arena_take(arena, TP_FEW, sizeof *a->arrived),
    };
}

/* ---- beginning ---- */

static int upload_seen(struct tp_choosing *choosing, const struct tp_decoding_text *texts, size_t n,
                       struct tp_error *error)
{
    struct tp_device *device = choosing->of->device;
    size_t vocabulary = choosing->of->model->config.vocab_size;
    void *memory;
    int rc = tp_device_allocate(device, n * vocabulary, &memory, error);
    if (rc < 0)
        return tp_error_prefix(error, rc, "which tokens the texts have");
    choosing->seen = memory;
    _Static_assert(sizeof *texts->seen == 1, "a byte for each token");
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = tp_device_upload(device, choosing->seen + i * vocabulary, texts[i].seen, vocabulary,
                              error);
    return rc;
}

static int upload(struct tp_choosing *choosing, const struct tp_choice_terms *terms,
                  const struct tp_decoding_text *texts, size_t n, struct tp_error *error)
{
    struct tp_device *device = choosing->of->device;
    uint32_t *tokens = calloc(n, sizeof *tokens);
    if (tokens == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        tokens[i] = texts[i].token;
    int rc = tp_device_upload(device, choosing->chosen, tokens, n * sizeof *tokens, error);
    if (rc == 0)
        rc = tp_device_upload(device, choosing->terms, terms, sizeof *terms, error);
    if (rc == 0)
        rc = tp_device_wait(device, error);
    free(tokens);
    return rc;
}

int tp_choosing_begin(struct tp_choosing *choosing, const struct tp_decoding_text *texts, size_t n,
                      const struct tp_sampling *sampling, struct tp_error *error)
{
    size_t vocabulary = choosing->of->model->config.vocab_size;
    struct tp_choice_terms terms = {.temperature = sampling->temperature,
                                    .penalty = sampling->repetition_penalty,
                                    .top_p = sampling->top_p,
                                    .least_mass = tp_sampling_least_mass(sampling->min_p),
                                    .top_k = (uint32_t)sampling->top_k};
    choosing->draws = sampling->temperature > 0;
    choosing->cuts_to_k = choosing->draws && sampling->top_k > 0 && sampling->top_k < vocabulary;
    choosing->cuts_to_p = choosing->draws && sampling->top_p < 1;
    int rc = sampling->repetition_penalty != 1 ? upload_seen(choosing, texts, n, error) : 0;
    terms.seen = choosing->seen;
    if (rc == 0)
        rc = upload(choosing, &terms, texts, n, error);
    if (rc < 0)
        tp_choosing_end(choosing);
    return rc;
}

void tp_choosing_end(struct tp_choosing *choosing)
{
    tp_device_free(choosing->of->device, choosing->seen);
    choosing->seen = NULL;
}

/* ---- choosing ---- */

/* A launch after another, each with the same blocks. */
struct run {
    struct tp_step *step;
    struct tp_choose a;
    unsigned grid[3];
};

static void launch(struct run *run, tp_kernel_fn *kernel)
{
    tp_step_launch(run->step, kernel, &run->a, sizeof run->a, run->grid, TP_CHOOSE_THREADS,
                   tp_choose_shared_bytes());
}

static void count(struct run *run, uint32_t level, enum tp_question question, enum tp_question next)
{
    run->a.level = level;
    run->a.question = question;
    run->a.next = next;
    launch(run, tp_choose_count);
}

/* Level 0 is counted already. */
static void ask(struct run *run, enum tp_question question, enum tp_question next)
{
    count(run, 1, question, next);
    count(run, 2, question, next);
}

/* Blocks enough for all multiprocessors, each with tokens enough for its threads. */
static unsigned slices_of(const struct tp_step_model *of, size_t n)
{
    size_t blocks = 2 * of->facts->n_multiprocessors / n;
    size_t most = (of->model->config.vocab_size + TP_CHOOSE_THREADS - 1) / TP_CHOOSE_THREADS;
    blocks = blocks < most ? blocks : most;
    blocks = blocks < TP_CHOICE_SLICES ? blocks : TP_CHOICE_SLICES;
    return blocks > 0 ? (unsigned)blocks : 1;
}

void tp_choosing_run(const struct tp_choosing *choosing, struct tp_step *step, float *logits,
                     const uint64_t *draws, size_t first_text, size_t n)
{
    struct run run = {step, choosing->arguments, {slices_of(choosing->of, n), (unsigned)n, 1}};
    enum tp_question after_k = choosing->cuts_to_p ? TP_CUT_TO_P : TP_DRAW;
    run.a.logits = logits;
    run.a.draws = draws;
    run.a.first_text = (uint32_t)first_text;
    run.a.chosen = choosing->chosen + first_text;
    run.a.draws_follow = choosing->draws;
    launch(&run, tp_choose_largest);
    if (!choosing->draws)
        return;
    count(&run, 0, TP_DRAW, choosing->cuts_to_k ? TP_CUT_TO_K : after_k);
    if (choosing->cuts_to_k)
        ask(&run, TP_CUT_TO_K, after_k);
    if (choosing->cuts_to_p)
        ask(&run, TP_CUT_TO_P, TP_DRAW);
    ask(&run, TP_DRAW, TP_DRAW);
    launch(&run, tp_choose_token);
}
