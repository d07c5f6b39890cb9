/* Texts that go on by themselves must be those that go on step by step, with every token chosen by
 * the host:
 *
 *     decode-texts PLUGIN VIEW TEXTS TOKENS TEMPERATURE TOP-K TOP-P PENALTY
 *
 * Twice in a row, and what the sequences hold in the end is compared by the logits of a last step.
 * Prints the tokens; says what differs, and ends with 1. */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/backend.h"
#include "infer/engine/sampler.h"
#include "infer/weights/mapping.h"

enum { TEXTS_MAX = 32, CONTEXT = 400, ROUNDS = 2, MORE = 5, PROMPT_MAX = 8 };

static struct tp_error error;

static void must(int rc)
{
    if (rc < 0) {
        fprintf(stderr, "decode-texts: %s\n", error.text);
        exit(1);
    }
}

static void must_be(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "decode-texts: %s\n", what);
        exit(1);
    }
}

/* Some texts, and what chooses for them. */
struct texts {
    const struct tp_backend_kind *kind;
    struct tp_backend *backend;
    size_t n, vocabulary;
    struct tp_sampling sampling;
    struct tp_sequence *sequences[TEXTS_MAX];
    struct tp_sampler *samplers[TEXTS_MAX];
    uint32_t next[TEXTS_MAX]; /* chosen, and not fed */
    float *logits;            /* [n][vocabulary] */
};

static void step(struct texts *t)
{
    struct tp_step_item items[TEXTS_MAX];
    for (size_t i = 0; i < t->n; i++)
        items[i] = (struct tp_step_item){t->sequences[i], &t->next[i], 1, 1};
    must(t->kind->step(t->backend, items, t->n, t->logits, NULL, &error));
}

static void choose(struct texts *t, size_t i, const float *logits)
{
    size_t length = t->kind->sequence_length(t->sequences[i]);
    t->next[i] = tp_sampler_choose(t->samplers[i], logits, length);
    tp_sampler_note(t->samplers[i], t->next[i]);
}

/* Prompts of different lengths, none of which is a step of many tokens. */
static void begin(struct texts *t)
{
    t->logits = calloc(t->n, t->vocabulary * sizeof *t->logits);
    must_be(t->logits != NULL, "out of memory");
    for (size_t i = 0; i < t->n; i++) {
        struct tp_sampling sampling = t->sampling;
        uint32_t prompt[PROMPT_MAX];
        size_t n = 3 + i % (PROMPT_MAX - 2);
        sampling.seed += i;
        must(tp_sampler_new(&sampling, t->vocabulary, &t->samplers[i]));
        must(t->kind->sequence_new(t->backend, CONTEXT, &t->sequences[i], &error));
        for (size_t j = 0; j < n; j++) {
            prompt[j] = (uint32_t)((7 * i + 13 * j * j + 5) % t->vocabulary);
            tp_sampler_note(t->samplers[i], prompt[j]);
        }
        struct tp_step_item item = {t->sequences[i], prompt, n, 1};
        must(t->kind->step(t->backend, &item, 1, t->logits, NULL, &error));
        choose(t, i, t->logits);
    }
}

static void end(struct texts *t)
{
    for (size_t i = 0; i < t->n; i++) {
        tp_sampler_free(t->samplers[i]);
        t->kind->sequence_free(t->sequences[i]);
    }
    free(t->logits);
}

static void go_on_by_steps(struct texts *t, size_t n_tokens, uint32_t *tokens)
{
    for (size_t at = 0; at < n_tokens; at++) {
        step(t);
        for (size_t i = 0; i < t->n; i++) {
            choose(t, i, t->logits + i * t->vocabulary);
            tokens[at * t->n + i] = t->next[i];
        }
    }
}

/* Ends before all that it was allowed. */
static void go_on_alone(struct texts *t, size_t n_tokens, uint32_t *tokens)
{
    struct tp_decoding_text texts[TEXTS_MAX];
    size_t lengths[TEXTS_MAX];
    for (size_t i = 0; i < t->n; i++) {
        lengths[i] = t->kind->sequence_length(t->sequences[i]);
        texts[i] = (struct tp_decoding_text){t->sequences[i], t->next[i], t->sampling.seed + i,
                                             tp_sampler_seen(t->samplers[i])};
    }
    must_be(t->kind->decode_begin(t->backend, texts, t->n, &t->sampling, CONTEXT, &error) ==
                -ENOSPC,
            "more tokens than there is room for were not refused");
    must(t->kind->decode_begin(t->backend, texts, t->n, &t->sampling, n_tokens + MORE, &error));
    for (size_t at = 0; at < n_tokens; at++)
        must(t->kind->decode_next(t->backend, tokens + at * t->n, &error));
    must(t->kind->decode_end(t->backend, &error));
    for (size_t i = 0; i < t->n; i++) {
        must_be(t->kind->sequence_length(t->sequences[i]) == lengths[i] + n_tokens,
                "a sequence is not as long as it should be");
        for (size_t at = 0; at < n_tokens; at++)
            tp_sampler_note(t->samplers[i], tokens[at * t->n + i]);
        t->next[i] = tokens[(n_tokens - 1) * t->n + i];
    }
}

static void compare(struct texts *steps, struct texts *alone, size_t n_tokens)
{
    size_t n = steps->n;
    uint32_t *by_steps = calloc(n_tokens, n * sizeof *by_steps);
    uint32_t *by_itself = calloc(n_tokens, n * sizeof *by_itself);
    must_be(by_steps != NULL && by_itself != NULL, "out of memory");
    for (size_t round = 0; round < ROUNDS; round++) {
        go_on_by_steps(steps, n_tokens, by_steps);
        go_on_alone(alone, n_tokens, by_itself);
        for (size_t i = 0; i < n * n_tokens; i++)
            printf("%u%c", by_itself[i], i % n == n - 1 ? '\n' : ' ');
        must_be(memcmp(by_steps, by_itself, n * n_tokens * sizeof *by_steps) == 0,
                "the tokens are not those of single steps");
    }
    step(steps);
    step(alone);
    must_be(memcmp(steps->logits, alone->logits, n * steps->vocabulary * sizeof(float)) == 0,
            "the sequences do not hold the same");
    free(by_steps);
    free(by_itself);
}

int main(int argc, char **argv)
{
    struct tp_weights_view *view;
    struct tp_model *model;
    struct tp_backend *backend;
    if (argc != 9)
        return 2;
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    const struct tp_plugin *plugin = library != NULL ? dlsym(library, TP_PLUGIN_SYMBOL) : NULL;
    must_be(plugin != NULL && plugin->interface == TP_PLUGIN_INTERFACE, "no such plugin");
    const struct tp_backend_kind *kind = plugin->kind;
    struct tp_backend_options options = {
        .step_max = PROMPT_MAX, .context = CONTEXT, .n_sequences = 1};
    if (options.step_max < strtoul(argv[3], NULL, 10))
        options.step_max = strtoul(argv[3], NULL, 10);
    must(tp_weights_view_open(argv[2], &view, &error));
    must(tp_model_open(view, 1, &model, &error));
    must(kind->open(model, &options, &backend, &error));
    struct texts steps = {.kind = kind,
                          .backend = backend,
                          .n = strtoul(argv[3], NULL, 10),
                          .vocabulary = model->config.vocab_size,
                          .sampling = {.temperature = strtod(argv[5], NULL),
                                       .top_k = strtoul(argv[6], NULL, 10),
                                       .top_p = strtod(argv[7], NULL),
                                       .repetition_penalty = strtod(argv[8], NULL),
                                       .seed = 11}};
    struct texts alone = steps;
    must_be(steps.n >= 1 && steps.n <= TEXTS_MAX, "too many texts");
    begin(&steps);
    begin(&alone);
    compare(&steps, &alone, strtoul(argv[4], NULL, 10));
    end(&steps);
    end(&alone);
    kind->close(backend);
    tp_model_close(model);
    tp_weights_view_close(view);
    dlclose(library);
    return 0;
}
