/* What computing tokens costs at least: bytes of weights and cache to be read, once each in a step,
 * and multiply-adds. Counted from the weights as they lie in memory (or in 8 bits), so that what a
 * backend reaches can be compared with what its machine can do. What is read twice, padding,
 * activations and stores do not count. */
#ifndef TENSORPORT_INFER_MODEL_COST_H
#define TENSORPORT_INFER_MODEL_COST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infer/model/model.h"

struct tp_model_cost {
    uint64_t layer_bytes;    /* read by every step, all layers: everything but the experts */
    uint64_t head_bytes;     /* by a step that gives logits: the last norm and the head */
    uint64_t token_bytes;    /* for each token: its embedding */
    uint64_t position_bytes; /* for each position attended to, in each layer: keys and values */

    uint64_t layer_multiply_adds;    /* for each token, all layers, the experts it has included */
    uint64_t head_multiply_adds;     /* for each row of logits */
    uint64_t position_multiply_adds; /* for each pair of positions, in each layer: score and mix */
};

/* `bf16_cache` and `int8_dense` as a backend is told (infer/backend.h). */
void tp_model_cost(const struct tp_model *model, bool bf16_cache, bool int8_dense,
                   struct tp_model_cost *ret_cost);

/* Bytes of one expert of a layer; 0 in a dense model. */
uint64_t tp_model_expert_bytes(const struct tp_model *model, size_t layer);

/* For the positions first..first + n - 1 of a sequence, over all layers: pairs of a position and
 * one that it sees; positions that any of them sees. */
uint64_t tp_model_pairs_seen(const struct tp_model_config *config, size_t first, size_t n);
uint64_t tp_model_positions_seen(const struct tp_model_config *config, size_t first, size_t n);

#endif
