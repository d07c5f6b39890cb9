/* A step of many tokens: its memory on the device, and its row of kernels. */
#ifndef TENSORPORT_CUDA_MANY_STAGES_H
#define TENSORPORT_CUDA_MANY_STAGES_H

#include "cuda/few_stages.h"
#include "cuda/step.h"

struct tp_many_stages {
    const struct tp_step_model *of;
    struct tp_few_stages *few; /* which compute the head */
    size_t capacity;           /* tokens of a step, at most */
    uint32_t n_parts;      /* of columns; those that queries, keys and values are made of have */
    uint32_t n_head_parts; /* this many */

    float *x, *queries, *router_logits, *outputs;
    struct tp_columns columns, mixed_columns, mlp_columns, inner_columns;
    struct tp_squares squares;
    struct tp_slots slots;
};

/* Whether a model can be computed so: all its matrices go through tensor cores, and blocks have the
 * memory for its shapes. */
bool tp_many_stages_can(const struct tp_step_model *of);

/* The same of the weights that are there. */
bool tp_many_stages_can_with(const struct tp_step_model *of);

/* As tp_few_stages_take(); the first five fields are set. */
void tp_many_stages_take(struct tp_many_stages *stages, struct tp_arena *arena);

/* A step of at most `capacity` tokens. For each TP_FEW of its rows, the first of which is the
 * `first`, `take` is called with logits [n][vocabulary] that are on the device; it may launch what
 * is to be done with them, or set step->rc, which ends the step.
 * Shows what tp_few_stages_run() does. */
typedef void tp_take_logits_fn(void *context, struct tp_step *step, float *logits, size_t first,
                               size_t n);
void tp_many_stages_run(struct tp_many_stages *stages, struct tp_step *step,
                        tp_take_logits_fn *take, void *context);

/* Tiles of tokens that attend together, of a step's inputs: `sequence_of` and `n` are set. Returns
 * how many were written to `tiles`. */
size_t tp_many_tiles(const struct tp_model_config *config, const struct tp_device_facts *facts,
                     const struct tp_step_inputs *inputs, size_t n);

#endif
