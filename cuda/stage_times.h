/* How long each stage of a step of few tokens takes by itself.
 *
 * A stage is launched for one layer after the other, round and round, as a recording: so weights
 * come from memory wherever all layers' together exceed the caches, and the host's time does not
 * count. The tokens' experts are those of the last layer of a step before, the keys and values
 * zeros. "step" is a whole step in its order, with its own experts; its bytes are the sum of the
 * stages', so those of its experts are an estimate with more than one token. */
#ifndef TENSORPORT_CUDA_STAGE_TIMES_H
#define TENSORPORT_CUDA_STAGE_TIMES_H

#include <stddef.h>

#include "cuda/few_stages.h"
#include "infer/backend.h"

/* See tp_backend_kind.measure_stages. `input` is the device's memory for the inputs of a step. */
int tp_stage_times(struct tp_few_stages *stages, void *input, size_t n, size_t depth,
                   tp_backend_stage_fn *see, void *context, struct tp_error *error);

#endif
