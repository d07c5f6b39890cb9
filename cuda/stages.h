/* The stages of a step of few tokens: their memory on the device, and launching them. */
#ifndef TENSORPORT_CUDA_STAGES_H
#define TENSORPORT_CUDA_STAGES_H

#include <stddef.h>
#include <stdint.h>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/sequence.h"
#include "cuda/shown.h"
#include "cuda/weights.h"
#include "infer/model/model.h"

/* What the host says of a step, in one upload; the arrays are behind it in this order. */
struct tp_step_inputs {
    struct tp_gpu_sequence *sequences;                 /* [TP_FEW]: one for each token */
    uint32_t *tokens, *positions, *sequence_of, *rows; /* [TP_FEW] each */
    float *cosines, *sines;                            /* [TP_FEW][head size / 2] */
};

struct tp_stages {
    struct tp_device *device;
    const struct tp_device_facts *facts;
    const struct tp_model *model;
    const struct tp_gpu_weights *weights;
    const struct tp_cache_plan *plan;
    uint32_t n_parts; /* of columns */
    size_t context;   /* that a sequence may have at most */

    struct tp_step_inputs inputs; /* the device's */
    size_t input_bytes;
    void *memory; /* all of the following lies there */
    uint64_t memory_bytes;
    float *x, *queries, *mixed, *mixed_sums, *router_sums, *router_logits, *outputs, *logits;
    uint32_t *arrived; /* [TP_FEW * KV heads], [1], [tiles of down] */
    struct tp_columns columns, mixed_columns, mlp_columns, inner_columns;
    struct tp_squares squares, embed_squares;
    struct tp_routing routing;
};

/* Device memory that the stages need for sequences of up to `context` tokens. */
uint64_t tp_stages_bytes(const struct tp_stages *stages);

/* The fields before `inputs` are set. -ENOMEM with a message. */
int tp_stages_init(struct tp_stages *stages, struct tp_error *error);
void tp_stages_fini(struct tp_stages *stages);

/* Addresses within `memory`, which is the host's, of what one upload brings. */
struct tp_step_inputs tp_step_inputs_at(const struct tp_stages *stages, void *memory);
size_t tp_step_input_bytes(const struct tp_model_config *config);

/* A step of n tokens, at most TP_FEW, whose inputs are on the device: n_rows of them get logits
 * [n_rows][vocabulary], at stages->logits. `longest` is the last position of any, plus one. `shown`
 * collects what a trace wants of: embedding, queries, router_logits, router_experts, router_weights
 * and residual. What a device fails with, with a message. */
int tp_stages_run(struct tp_stages *stages, size_t n, size_t n_rows, size_t longest,
                  struct tp_shown *shown, struct tp_error *error);

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
int tp_stages_run_one(struct tp_stages *stages, enum tp_stage stage, size_t layer, size_t n,
                      size_t longest, struct tp_error *error);

#endif
