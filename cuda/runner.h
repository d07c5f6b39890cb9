/* Runs steps: cuts them into pieces that the stages can do, tells the device what they are about,
 * and records what will come again. */
#ifndef TENSORPORT_CUDA_RUNNER_H
#define TENSORPORT_CUDA_RUNNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda/choosing.h"
#include "cuda/few_stages.h"
#include "cuda/many_stages.h"
#include "cuda/step.h"
#include "infer/backend.h"

struct tp_recorded;

/* The caller sets the first five, and what `few`, `many` and `choosing` want of theirs. */
struct tp_runner {
    const struct tp_step_model *of;
    struct tp_few_stages few;
    struct tp_many_stages many;
    bool has_many; /* steps of many tokens are computed as such, not in pieces of few */
    struct tp_choosing choosing;

    void *input; /* the device's: of a step */

    /* Private. */
    void *memory;       /* the device's, of all stages */
    uint8_t *inputs;    /* the host's, of steps that the device may not have read yet */
    size_t input_bytes; /* of the largest step */
    size_t next_input, n_unread;
    float *logits;                /* [TP_FEW][vocabulary], for the device to write */
    struct tp_recorded *recorded; /* [n_recorded]: steps of few tokens */
    size_t n_recorded;
};

/* Bytes of the device that it takes for sequences of up to `context` tokens. */
uint64_t tp_runner_bytes(const struct tp_runner *runner, size_t context);

/* Takes that, and the host's memory. tp_runner_free() is to be called whatever came of it. */
int tp_runner_allocate(struct tp_runner *runner, struct tp_error *error);
void tp_runner_free(struct tp_runner *runner);

/* A step whose items have been checked; `logits` and `trace` as in struct tp_backend_kind. The
 * sequences' lengths stay as they are. */
int tp_runner_step(struct tp_runner *runner, const struct tp_step_item *items, size_t n,
                   float *logits, const struct tp_trace *trace, struct tp_error *error);

/* Queues a step of the tokens that were chosen last, one of each item, and the choice of the next
 * ones, by seeds[n]; waits for nothing. */
int tp_runner_go_on(struct tp_runner *runner, const struct tp_step_item *items, size_t n,
                    const uint64_t *seeds, struct tp_error *error);

/* The device has read the inputs of all steps but the last `n`. */
void tp_runner_has_read(struct tp_runner *runner, size_t n);

#endif
