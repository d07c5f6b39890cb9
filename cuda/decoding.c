#include "cuda/decoding.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int tp_decoding_allocate(struct tp_decoding *decoding, struct tp_runner *runner, size_t capacity,
                         struct tp_error *error)
{
    struct tp_device *device = runner->of->device;
    size_t bytes = TP_DECODING_AHEAD * capacity * sizeof *decoding->tokens;
    void *tokens;
    *decoding = (struct tp_decoding){.runner = runner, .capacity = capacity};
    decoding->items = calloc(capacity, sizeof *decoding->items);
    decoding->seeds = calloc(capacity, sizeof *decoding->seeds);
    if (decoding->items == NULL || decoding->seeds == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    int rc = tp_device_allocate_host(device, bytes, &tokens, error);
    if (rc < 0)
        return rc;
    decoding->tokens = tokens;
    for (size_t i = 0; rc == 0 && i < TP_DECODING_AHEAD; i++)
        rc = tp_device_mark_new(device, &decoding->marks[i], error);
    return rc;
}

void tp_decoding_free(struct tp_decoding *decoding)
{
    if (decoding->runner == NULL)
        return;
    struct tp_device *device = decoding->runner->of->device;
    for (size_t i = 0; i < TP_DECODING_AHEAD; i++)
        tp_device_mark_free(device, decoding->marks[i]);
    tp_device_free_host(device, decoding->tokens);
    free(decoding->items);
    free(decoding->seeds);
}

static int check(const struct tp_decoding *decoding, const struct tp_decoding_text *texts, size_t n,
                 size_t n_most, struct tp_error *error)
{
    if (n == 0 || n > decoding->capacity)
        return tp_error_set(error, -EINVAL, "%zu texts go on at once: expected 1 to %zu", n,
                            decoding->capacity);
    for (size_t i = 0; i < n; i++) {
        const struct tp_sequence *sequence = texts[i].sequence;
        size_t room = sequence->context - sequence->held.length;
        if (n_most > room)
            return tp_error_set(error, -ENOSPC, "%zu tokens to go on with, in room for %zu", n_most,
                                room);
        if (texts[i].token >= decoding->runner->of->model->config.vocab_size)
            return tp_error_set(error, -EINVAL, "%u is no token", texts[i].token);
    }
    return 0;
}

int tp_decoding_begin(struct tp_decoding *decoding, const struct tp_decoding_text *texts, size_t n,
                      const struct tp_sampling *sampling, size_t n_most, struct tp_error *error)
{
    int rc = check(decoding, texts, n, n_most, error);
    if (rc == 0)
        rc = tp_choosing_begin(&decoding->runner->choosing, texts, n, sampling, error);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++) {
        decoding->items[i] = (struct tp_step_item){texts[i].sequence, NULL, 1, 1};
        decoding->seeds[i] = texts[i].seed;
    }
    decoding->n = n;
    decoding->n_left = n_most;
    decoding->n_ahead = 0;
    return 0;
}

static int queue(struct tp_decoding *decoding, struct tp_error *error)
{
    struct tp_runner *runner = decoding->runner;
    struct tp_device *device = runner->of->device;
    uint32_t *tokens = decoding->tokens + decoding->next * decoding->capacity;
    int rc = tp_runner_go_on(runner, decoding->items, decoding->n, decoding->seeds, error);
    if (rc == 0)
        rc = tp_device_download(device, tokens, runner->choosing.chosen,
                                decoding->n * sizeof *tokens, error);
    if (rc == 0)
        rc = tp_device_mark_set(device, decoding->marks[decoding->next], error);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < decoding->n; i++)
        decoding->items[i].sequence->held.length++;
    decoding->next = (decoding->next + 1) % TP_DECODING_AHEAD;
    decoding->n_left--;
    decoding->n_ahead++;
    return 0;
}

int tp_decoding_next(struct tp_decoding *decoding, uint32_t *ret_tokens, struct tp_error *error)
{
    struct tp_runner *runner = decoding->runner;
    int rc = 0;
    while (rc == 0 && decoding->n_left > 0 && decoding->n_ahead < TP_DECODING_AHEAD)
        rc = queue(decoding, error);
    if (rc == 0 && decoding->n_ahead == 0)
        rc = tp_error_set(error, -EINVAL, "no token is left to go on with");
    if (rc < 0)
        return rc;
    size_t oldest = (decoding->next + TP_DECODING_AHEAD - decoding->n_ahead) % TP_DECODING_AHEAD;
    rc = tp_device_mark_wait(runner->of->device, decoding->marks[oldest], error);
    if (rc < 0)
        return rc;
    memcpy(ret_tokens, decoding->tokens + oldest * decoding->capacity,
           decoding->n * sizeof *ret_tokens);
    decoding->n_ahead--;
    tp_runner_has_read(runner, decoding->n_ahead);
    return 0;
}

int tp_decoding_end(struct tp_decoding *decoding, struct tp_error *error)
{
    int rc = tp_device_wait(decoding->runner->of->device, error);
    for (size_t i = 0; i < decoding->n; i++) {
        struct tp_held *held = &decoding->items[i].sequence->held;
        tp_held_cut(held, held->length - decoding->n_ahead);
    }
    decoding->n = 0;
    if (rc == 0)
        tp_runner_has_read(decoding->runner, 0);
    tp_choosing_end(&decoding->runner->choosing);
    return rc;
}
