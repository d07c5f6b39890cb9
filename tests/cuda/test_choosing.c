/* Choosing tokens: against all of a vocabulary sorted, by the words of infer/model/sampling.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/kernel_test.h"

enum { TEXTS = 3 };

struct choosing_case {
    const char *name;
    struct tp_sampling sampling;
    size_t vocabulary;
    unsigned blocks;
    void (*change)(float *logits, size_t n);
};

/* ---- what is right ---- */

struct token {
    float logit;
    uint32_t id;
    uint64_t mass;
};

static int by_likelihood(const void *first, const void *second)
{
    const struct token *a = first, *b = second;
    if (isnan(a->logit) != isnan(b->logit))
        return isnan(a->logit) ? 1 : -1;
    if (!isnan(a->logit) && a->logit != b->logit)
        return a->logit > b->logit ? -1 : 1;
    return a->id < b->id ? -1 : 1;
}

static float penalised(float logit, double penalty)
{
    return (float)(logit > 0 ? logit / penalty : logit * penalty);
}

static struct token *sorted_tokens(const struct tp_sampling *sampling, const float *logits,
                                   const uint8_t *seen, size_t n)
{
    struct token *tokens = on_host(n, sizeof *tokens);
    for (size_t i = 0; i < n; i++) {
        bool is_seen = seen != NULL && seen[i];
        float x = is_seen ? penalised(logits[i], sampling->repetition_penalty) : logits[i];
        tokens[i] = (struct token){x, (uint32_t)i, 0};
    }
    qsort(tokens, n, sizeof *tokens, by_likelihood);
    for (size_t i = 0; i < n && sampling->temperature > 0; i++) {
        double x = ((double)tokens[i].logit - (double)tokens[0].logit) / sampling->temperature;
        double mass = rint(exp(x) * 0x1p42);
        tokens[i].mass = mass >= 1 ? (uint64_t)mass : 0;
    }
    return tokens;
}

/* How many of the likeliest are left. */
static size_t count_left(const struct tp_sampling *s, const struct token *tokens, size_t n)
{
    size_t left = s->top_k > 0 && s->top_k < n ? s->top_k : n, kept = 0;
    uint64_t all = 0, sum = 0;
    for (size_t i = 0; i < left; i++)
        all += tokens[i].mass;
    while (kept < left && (kept == 0 || ((double)sum < s->top_p * (double)all &&
                                         (double)tokens[kept].mass >= s->min_p * 0x1p42)))
        sum += tokens[kept++].mass;
    return kept;
}

static uint32_t right_token(const struct tp_sampling *sampling, const float *logits,
                            const uint8_t *seen, size_t n, uint64_t draw)
{
    const struct token *tokens = sorted_tokens(sampling, logits, seen, n);
    uint64_t sum = 0, all = 0;
    if (!(sampling->temperature > 0) || !isfinite(tokens[0].logit))
        return tokens[0].id;
    size_t left = count_left(sampling, tokens, n), i = 0;
    for (size_t j = 0; j < left; j++)
        all += tokens[j].mass;
    uint64_t wanted = (uint64_t)((unsigned __int128)draw * all >> 64);
    while (sum + tokens[i].mass <= wanted)
        sum += tokens[i++].mass;
    return tokens[i].id;
}

/* ---- what the kernels choose ---- */

static void count(struct tp_choose *a, const unsigned grid[3], uint32_t level,
                  enum tp_question question, enum tp_question next)
{
    a->level = level;
    a->question = question;
    a->next = next;
    launch_grid(tp_choose_count, a, sizeof *a, grid, TP_CHOOSE_THREADS, tp_choose_shared_bytes());
}

static void ask(struct tp_choose *a, const unsigned grid[3], enum tp_question question,
                enum tp_question next)
{
    count(a, grid, 1, question, next);
    count(a, grid, 2, question, next);
}

static void run(struct tp_choose *a, const struct tp_sampling *sampling, const unsigned grid[3])
{
    bool k = sampling->top_k > 0 && sampling->top_k < a->vocabulary, p = sampling->top_p < 1;
    enum tp_question after_k = p ? TP_CUT_TO_P : TP_DRAW;
    size_t bytes = tp_choose_shared_bytes();
    launch_grid(tp_choose_largest, a, sizeof *a, grid, TP_CHOOSE_THREADS, bytes);
    if (!a->draws_follow)
        return;
    count(a, grid, 0, TP_DRAW, k ? TP_CUT_TO_K : after_k);
    if (k)
        ask(a, grid, TP_CUT_TO_K, after_k);
    if (p)
        ask(a, grid, TP_CUT_TO_P, TP_DRAW);
    ask(a, grid, TP_DRAW, TP_DRAW);
    launch_grid(tp_choose_token, a, sizeof *a, grid, TP_CHOOSE_THREADS, bytes);
}

static bool are_zeros(const void *on_gpu, size_t bytes)
{
    const uint8_t *found = from_device(on_gpu, bytes);
    for (size_t i = 0; i < bytes; i++) {
        if (found[i] != 0)
            return false;
    }
    return true;
}

static void check_left_behind(const struct tp_choose *a)
{
    size_t bins = (size_t)TEXTS * 2 * TP_CHOICE_BINS;
    expect(are_zeros(a->counts, bins * sizeof *a->counts), "counts are left behind");
    expect(are_zeros(a->masses, bins * sizeof *a->masses), "masses are left behind");
    expect(are_zeros(a->likely, TEXTS * sizeof *a->likely), "sums are left behind");
    expect(are_zeros(a->arrived, TEXTS * sizeof *a->arrived), "arrivals are left behind");
}

static struct tp_choose make_arguments(const struct choosing_case *c, struct tp_choice_terms *terms,
                                       const uint8_t *seen)
{
    size_t n = c->vocabulary, bins = (size_t)TEXTS * 2 * TP_CHOICE_BINS,
           slices = (size_t)TEXTS * TP_CHOICE_SLICES;
    *terms = (struct tp_choice_terms){
        .temperature = c->sampling.temperature,
        .penalty = c->sampling.repetition_penalty,
        .top_p = c->sampling.top_p,
        .least_mass = tp_sampling_least_mass(c->sampling.min_p),
        .top_k = (uint32_t)c->sampling.top_k,
        .seen = c->sampling.repetition_penalty != 1 ? on_device(seen, (TEXTS + 1) * n) : NULL,
    };
    return (struct tp_choose){
        .vocabulary = (uint32_t)n,
        .first_text = 1,
        .terms = on_device(terms, sizeof *terms),
        .choices = zeros_on_device(TEXTS * sizeof(struct tp_choice)),
        .of_slices = zeros_on_device(slices * sizeof(struct tp_likeliest)),
        .counts = zeros_on_device(bins * sizeof(uint32_t)),
        .masses = zeros_on_device(bins * sizeof(uint64_t)),
        .likely = zeros_on_device(TEXTS * sizeof(uint64_t)),
        .matches = zeros_on_device(slices * sizeof(uint32_t)),
        .arrived = zeros_on_device(TEXTS * sizeof(uint32_t)),
        .chosen = zeros_on_device(TEXTS * sizeof(uint32_t)),
        .draws_follow = c->sampling.temperature > 0,
    };
}

/* Three texts, the second to the fourth of those whose tokens are known. Draws of almost 0 and
 * almost 1, and one between. */
static void check_choosing(const struct choosing_case *c)
{
    size_t n = c->vocabulary;
    float *logits = random_floats(TEXTS * n);
    uint8_t *seen = on_host(TEXTS + 1, n);
    uint64_t draws[TEXTS] = {tp_random_bits(random_below(1000), 7), 0, ~(uint64_t)2047};
    struct tp_choice_terms terms;
    const unsigned grid[3] = {c->blocks, TEXTS, 1};
    for (size_t i = 0; i < TEXTS * n; i++)
        logits[i] = 5 * logits[i];
    for (size_t i = 0; i < (TEXTS + 1) * n; i++)
        seen[i] = random_below(2) == 0;
    for (size_t text = 0; text < TEXTS && c->change != NULL; text++)
        c->change(logits + text * n, n);
    struct tp_choose a = make_arguments(c, &terms, seen);
    a.logits = on_device(logits, TEXTS * n * sizeof *logits);
    a.draws = on_device(draws, sizeof draws);
    run(&a, &c->sampling, grid);
    const uint32_t *chosen = from_device(a.chosen, TEXTS * sizeof *chosen);
    for (size_t text = 0; text < TEXTS; text++) {
        const uint8_t *of_text = terms.seen != NULL ? seen + (text + 1) * n : NULL;
        uint32_t right = right_token(&c->sampling, logits + text * n, of_text, n, draws[text]);
        expect(chosen[text] == right, "%s: text %zu: found token %u, expected %u", c->name, text,
               chosen[text], right);
        if (terms.seen != NULL)
            seen[(text + 1) * n + right] = 1;
    }
    if (terms.seen != NULL)
        expect(memcmp(from_device(terms.seen, (TEXTS + 1) * n), seen, (TEXTS + 1) * n) == 0,
               "%s: the texts' tokens are not known", c->name);
    check_left_behind(&a);
}

/* ---- logits ---- */

static void all_alike(float *logits, size_t n)
{
    for (size_t i = 0; i < n; i++)
        logits[i] = 1.5F;
}

static void few_values(float *logits, size_t n)
{
    for (size_t i = 0; i < n; i++)
        logits[i] = (float)random_below(5) - 2;
}

static void two_zeros(float *logits, size_t n)
{
    for (size_t i = 0; i < n; i++)
        logits[i] = random_below(2) == 0 ? 0.0F : -0.0F;
}

static void no_numbers(float *logits, size_t n)
{
    for (size_t i = 0; i < n; i += 2)
        logits[i] = random_below(2) == 0 ? NAN : -INFINITY;
}

static void only_nan(float *logits, size_t n)
{
    for (size_t i = 0; i < n; i++)
        logits[i] = NAN;
}

static void an_infinity(float *logits, size_t n)
{
    logits[n / 2] = logits[n - 1] = INFINITY;
}

static void one_stands_out(float *logits, size_t n)
{
    logits[n - 1] = 90;
}

static void neighbours(float *logits, size_t n)
{
    for (size_t i = 0; i < n; i++)
        logits[i] = 1 + (float)random_below(3000) * 0x1p-23F; /* their last digits alone differ */
}

/* ---- tests ---- */

static const struct tp_sampling plain = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};

static void check_samplings(size_t vocabulary, unsigned blocks,
                            void (*change)(float *logits, size_t n))
{
    const struct tp_sampling samplings[] = {
        {.temperature = 0, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 0, .top_p = 1, .repetition_penalty = 1.7},
        plain,
        {.temperature = 0.05, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 2, .top_k = 1, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 2, .top_k = 17, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 0.6, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 0, .repetition_penalty = 1},
        {.temperature = 3, .top_p = 1, .min_p = 0.2, .repetition_penalty = 1},
        {.temperature = 4, .top_p = 1, .repetition_penalty = 3},
        {.temperature = 1.5, .top_k = 40, .top_p = 0.9, .min_p = 0.01, .repetition_penalty = 1.3},
    };
    for (size_t i = 0; i < sizeof samplings / sizeof *samplings; i++) {
        struct choosing_case c = {"sampling", samplings[i], vocabulary, blocks, change};
        check_choosing(&c);
    }
}

static void choices_of_all_kinds(void)
{
    check_samplings(1000, 3, NULL);
    check_samplings(257, 1, NULL);
}

static void choices_among_equals(void)
{
    check_samplings(700, 2, few_values);
    check_samplings(300, 3, all_alike);
    check_samplings(90, 1, two_zeros);
}

static void choices_by_the_last_digits(void)
{
    check_samplings(1200, 2, neighbours);
}

static void choices_with_few_numbers(void)
{
    check_samplings(400, 2, no_numbers);
    check_samplings(100, 2, only_nan);
    check_samplings(100, 2, an_infinity);
    check_samplings(600, 4, one_stands_out);
}

/* More blocks than there are tokens for; one token; many. */
static void vocabularies_of_all_sizes(void)
{
    const size_t sizes[] = {1, 2, 31, 255, 256, 513, 5003};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const struct choosing_case c = {"size", plain, sizes[i], 5, NULL};
        check_choosing(&c);
    }
}

/* gpt-oss's. */
static void choices_of_a_large_vocabulary(void)
{
    check_samplings(201088, 132, NULL);
    check_samplings(201088, TP_CHOICE_SLICES, few_values);
}

const struct kernel_test choosing_tests[] = {
    {"choices_of_all_kinds", choices_of_all_kinds, 0},
    {"choices_among_equals", choices_among_equals, 0},
    {"choices_by_the_last_digits", choices_by_the_last_digits, 0},
    {"choices_with_few_numbers", choices_with_few_numbers, 0},
    {"vocabularies_of_all_sizes", vocabularies_of_all_sizes, 0},
    {"choices_of_a_large_vocabulary", choices_of_a_large_vocabulary, IS_LARGE},
    {NULL, NULL, 0},
};
