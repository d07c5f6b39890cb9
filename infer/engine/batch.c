#include "infer/engine/batch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int tp_batch_bytes(const struct tp_backend_kind *kind, const struct tp_backend *backend,
                   const struct tp_model *model, size_t n, size_t context, uint64_t *ret_bytes)
{
    uint64_t sequence, logits = sizeof(float), total;
    int rc = kind->sequence_bytes(backend, context, &sequence);
    if (rc < 0)
        return rc;
    if (__builtin_mul_overflow(logits, model->config.vocab_size, &logits) ||
        __builtin_add_overflow(sequence, logits, &total) ||
        __builtin_mul_overflow(total, n, &total))
        return -EOVERFLOW;
    *ret_bytes = total;
    return 0;
}

void tp_batch_close(struct tp_batch *batch)
{
    for (size_t i = 0; batch->sequences != NULL && i < batch->n; i++)
        batch->kind->sequence_free(batch->sequences[i]);
    free(batch->sequences);
    free(batch->logits);
    free(batch->items);
    free(batch->chosen);
    *batch = (struct tp_batch){0};
}

static int allocate(struct tp_batch *batch, size_t context, struct tp_error *error)
{
    size_t n = batch->n, vocabulary = batch->model->config.vocab_size;
    batch->sequences = calloc(n, sizeof *batch->sequences);
    batch->logits = calloc(n * vocabulary, sizeof *batch->logits);
    batch->items = calloc(n, sizeof *batch->items);
    batch->chosen = calloc(batch->model->config.n_experts + 1, sizeof *batch->chosen);
    if (batch->sequences == NULL || batch->logits == NULL || batch->items == NULL ||
        batch->chosen == NULL)
        return tp_error_set(error, -ENOMEM, "no memory for %zu texts at once", n);
    for (size_t i = 0; i < n; i++) {
        int rc = batch->kind->sequence_new(batch->backend, context, &batch->sequences[i], error);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int tp_batch_open(const struct tp_backend_kind *kind, struct tp_backend *backend,
                  const struct tp_model *model, const struct tp_backend_options *options, size_t n,
                  size_t context, struct tp_batch *ret_batch, struct tp_error *error)
{
    struct tp_batch batch = {
        .kind = kind, .backend = backend, .model = model, .n = n, .step_max = options->step_max};
    tp_model_cost(model, options->bf16_cache, options->int8_dense, &batch.cost);
    int rc = allocate(&batch, context, error);
    if (rc < 0)
        tp_batch_close(&batch);
    else
        *ret_batch = batch;
    return rc;
}

/* ---- counting ---- */

/* A tp_trace's: the experts that the tokens of a step have chosen. */
static void see(void *context, const char *name, size_t layer, const float *values, size_t rows,
                size_t columns)
{
    struct tp_batch *batch = context;
    uint64_t n = 0;
    if (strcmp(name, "router_experts") != 0)
        return;
    memset(batch->chosen, 0, batch->model->config.n_experts * sizeof *batch->chosen);
    for (size_t i = 0; i < rows * columns; i++) {
        bool *chosen = &batch->chosen[(size_t)values[i]];
        n += !*chosen;
        *chosen = true;
    }
    batch->counts.experts += n;
    batch->counts.expert_bytes += n * tp_model_expert_bytes(batch->model, layer);
}

static void count_item(struct tp_batch *batch, const struct tp_step_item *item)
{
    const struct tp_model_config *config = &batch->model->config;
    const struct tp_model_cost *cost = &batch->cost;
    struct tp_batch_counts *counts = &batch->counts;
    size_t first = batch->kind->sequence_length(item->sequence) - item->n_tokens;
    counts->tokens += item->n_tokens;
    counts->dense_bytes += item->n_tokens * cost->token_bytes;
    counts->cache_bytes +=
        cost->position_bytes * tp_model_positions_seen(config, first, item->n_tokens);
    counts->multiply_adds +=
        item->n_tokens * cost->layer_multiply_adds + item->n_logits * cost->head_multiply_adds +
        cost->position_multiply_adds * tp_model_pairs_seen(config, first, item->n_tokens);
}

static void count_step(struct tp_batch *batch, size_t n_items)
{
    bool head = false;
    batch->counts.steps++;
    batch->counts.dense_bytes += batch->cost.layer_bytes;
    for (size_t i = 0; i < n_items; i++) {
        count_item(batch, &batch->items[i]);
        head |= batch->items[i].n_logits > 0;
    }
    batch->counts.dense_bytes += head ? batch->cost.head_bytes : 0;
}

/* ---- computing ---- */

/* Where the next step begins. */
struct place {
    size_t text, token;
};

/* Fills a step; gives the number of its items. All but the last of them reach the ends of their
 * texts. */
static size_t collect(struct tp_batch *batch, const uint32_t *const *tokens, const size_t *lengths,
                      struct place *place)
{
    size_t n_items = 0, room = batch->step_max;
    while (place->text < batch->n && room > 0) {
        size_t left = lengths[place->text] - place->token, now = left < room ? left : room;
        batch->items[n_items++] = (struct tp_step_item){
            batch->sequences[place->text], tokens[place->text] + place->token, now, now == left};
        room -= now;
        place->token += now;
        if (now == left)
            *place = (struct place){place->text + 1, 0};
    }
    return n_items;
}

int tp_batch_feed(struct tp_batch *batch, const uint32_t *const *tokens, const size_t *lengths,
                  tp_batch_step_fn *go_on, void *context, struct tp_error *error)
{
    const struct tp_trace trace = {.see = see, .context = batch, .only = "router_experts"};
    struct place place = {0, 0};
    while (place.text < batch->n) {
        float *logits = batch->logits + place.text * batch->model->config.vocab_size;
        size_t n_items = collect(batch, tokens, lengths, &place);
        int rc = batch->kind->step(batch->backend, batch->items, n_items, logits,
                                   batch->counts_experts ? &trace : NULL, error);
        if (rc < 0)
            return rc;
        count_step(batch, n_items);
        if (go_on != NULL && !go_on(context))
            return -EINTR;
    }
    return 0;
}

static int decode(struct tp_batch *batch, const struct tp_decoding_text *texts, uint32_t *tokens,
                  const struct tp_sampling *sampling, size_t n_most, tp_batch_step_fn *go_on,
                  void *context, struct tp_error *error)
{
    const struct tp_backend_kind *kind = batch->kind;
    int rc = kind->decode_begin(batch->backend, texts, batch->n, sampling, n_most, error);
    if (rc < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < n_most; i++) {
        rc = kind->decode_next(batch->backend, tokens, error);
        if (rc == 0 && go_on != NULL && !go_on(context))
            rc = -EINTR;
    }
    int rc_end = kind->decode_end(batch->backend, rc < 0 ? NULL : error);
    return rc < 0 ? rc : rc_end;
}

int tp_batch_decode(struct tp_batch *batch, const uint32_t *tokens,
                    const struct tp_sampling *sampling, size_t n_most, tp_batch_step_fn *go_on,
                    void *context, struct tp_error *error)
{
    size_t n = batch->n;
    struct tp_decoding_text *texts = calloc(n, sizeof *texts);
    uint32_t *chosen = calloc(n, sizeof *chosen);
    int rc = -ENOMEM;
    for (size_t i = 0; texts != NULL && i < n; i++)
        texts[i] =
            (struct tp_decoding_text){batch->sequences[i], tokens[i], sampling->seed + i, NULL};
    if (texts == NULL || chosen == NULL)
        tp_error_set(error, rc, "no memory for %zu texts at once", n);
    else
        rc = decode(batch, texts, chosen, sampling, n_most, go_on, context, error);
    free(texts);
    free(chosen);
    return rc;
}

int tp_batch_cut(struct tp_batch *batch, const size_t *lengths)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < batch->n; i++)
        rc = batch->kind->sequence_cut(batch->sequences[i], lengths[i]);
    for (size_t i = 0; rc < 0 && i < batch->n; i++)
        batch->kind->sequence_cut(batch->sequences[i], 0);
    return rc;
}
