/* What the ways to compute a step have in common: its inputs, memory, and launching. */
#ifndef TENSORPORT_CUDA_STEP_H
#define TENSORPORT_CUDA_STEP_H

#include <stddef.h>
#include <stdint.h>

#include "cuda/arena.h"
#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/sequence.h"
#include "cuda/shown.h"
#include "cuda/weights.h"
#include "infer/model/model.h"

/* ---- inputs ---- */

/* What the host says of a step, in one upload: addresses within its memory. */
struct tp_step_inputs {
    struct tp_gpu_sequence *sequences;                 /* [capacity]: one for each token */
    uint64_t *draws;                                   /* [capacity]: of what is chosen by them */
    uint32_t *tokens, *positions, *sequence_of, *rows; /* [capacity] each; rows with logits */
    struct tp_query_tile *tiles;                       /* [capacity]: of tp_many_attend */
    float *cosines, *sines;                            /* [capacity][head size / 2] */
};

/* Bytes for steps of up to `capacity` tokens, and where everything is in them. */
size_t tp_step_input_bytes(const struct tp_model_config *config, size_t capacity);
struct tp_step_inputs tp_step_inputs_at(const struct tp_model_config *config, size_t capacity,
                                        void *memory);

/* ---- a step ---- */

/* What steps are computed of. */
struct tp_step_model {
    struct tp_device *device;
    const struct tp_device_facts *facts;
    const struct tp_model *model;
    const struct tp_gpu_weights *weights;
    const struct tp_cache_plan *plan;
};

/* A step, or a piece of one: n tokens, n_rows of which get logits. */
struct tp_step {
    const struct tp_step_model *of;
    struct tp_step_inputs inputs; /* the device's */
    size_t n, n_rows;
    size_t n_tiles;         /* of tp_many_attend */
    size_t longest;         /* the last position of any, plus one */
    struct tp_shown *shown; /* what a trace wants of it */
    struct tp_error *error;
    int rc; /* the first fault: nothing is launched after it */
};

void tp_step_launch(struct tp_step *step, tp_kernel_fn *kernel, const void *arguments, size_t bytes,
                    const unsigned grid[3], unsigned threads, size_t shared_bytes);

/* Rows [n][columns] for a trace. */
void tp_step_show(struct tp_step *step, const char *name, size_t layer, const float *rows,
                  size_t columns);
void tp_step_show_router(struct tp_step *step, size_t layer, const float *logits,
                         const uint32_t *chosen, const float *weights);

/* ---- what kernels are told of a model ---- */

/* Rows of whole 16 bytes go through tensor cores, if that is all that is to be known. */
bool tp_step_fits_tiles(const struct tp_step_model *of, enum tp_matrix_type type, size_t columns);

/* Whether a matrix that is there does: not if it has scales too large for them. */
bool tp_step_uses_tiles(const struct tp_step_model *of, const struct tp_gpu_matrix *w);

/* The columns as a product with `w` wants them. */
struct tp_columns tp_step_columns_for(const struct tp_step_model *of,
                                      const struct tp_columns *columns,
                                      const struct tp_gpu_matrix *w);

/* What makes the inner vectors, and what takes them: of all experts, or of the dense layer. */
const struct tp_gpu_matrix *tp_step_gate_up(const struct tp_step_model *of, size_t layer);
const struct tp_gpu_matrix *tp_step_down(const struct tp_step_model *of, size_t layer);

/* 1 in a dense model, which is one expert that everybody has. */
size_t tp_step_experts(const struct tp_model_config *config);
size_t tp_step_experts_per_token(const struct tp_model_config *config);

/* The norm behind a layer: the next one's, or the last. */
const float *tp_step_next_norm(const struct tp_step_model *of, size_t layer);

struct tp_places tp_step_places(const struct tp_step *step);
struct tp_gpu_cache tp_step_cache(const struct tp_step *step, size_t layer);

/* Arguments of the kernels that make queries, keys and values; `squares` and units are the caller's
 * to set. */
struct tp_few_heads tp_step_heads(const struct tp_step *step, size_t layer);

#endif
