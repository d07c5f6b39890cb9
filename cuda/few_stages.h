/* A step of few tokens: its memory on the device, and its row of kernels. */
#ifndef TENSORPORT_CUDA_FEW_STAGES_H
#define TENSORPORT_CUDA_FEW_STAGES_H

#include "cuda/step.h"

struct tp_few_stages {
    const struct tp_step_model *of;
    uint32_t n_parts; /* of columns */
    size_t context;   /* that a sequence may have at most */

    float *x, *queries, *mixed, *mixed_sums, *router_sums, *router_logits, *outputs;
    uint32_t *arrived; /* [TP_FEW * KV heads], [1], [tiles of down] */
    struct tp_columns columns, mixed_columns, mlp_columns, inner_columns;
    struct tp_squares squares, embed_squares;
    struct tp_routing routing;
    float *logits; /* [TP_FEW][vocabulary] */
};

/* Takes the stages' memory, which the caller clears: padding of columns and counters of arrivals
 * stay zeros. The first three fields are set. */
void tp_few_stages_take(struct tp_few_stages *stages, struct tp_arena *arena);

/* A step of at most TP_FEW tokens; the logits [n_rows][vocabulary] are at stages->logits. Shows
 * embedding, queries, router_logits, router_experts, router_weights and residual. */
void tp_few_stages_run(struct tp_few_stages *stages, struct tp_step *step);

/* The head alone: logits of step->n_rows vectors of stages->columns, whose numbers are `rows` on
 * the device; of `squares`, step->n have been made. */
void tp_few_stages_head(struct tp_few_stages *stages, struct tp_step *step,
                        const struct tp_squares *squares, const uint32_t *rows);

/* One stage of it by itself, on what such a step has left behind: for measuring. */
enum tp_stage {
    TP_STAGE_EMBED,
    TP_STAGE_HEADS,
    TP_STAGE_ATTEND,
    TP_STAGE_OUTPUT,
    TP_STAGE_GATE_UP,
    TP_STAGE_DOWN,
    TP_STAGE_HEAD,
};
void tp_few_stages_run_one(struct tp_few_stages *stages, struct tp_step *step, enum tp_stage stage,
                           size_t layer);

#endif
