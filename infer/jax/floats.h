/* Arguments as float32, which the kernels take, and results in the caller's type. */
#ifndef TENSORPORT_INFER_JAX_FLOATS_H
#define TENSORPORT_INFER_JAX_FLOATS_H

#include "infer/cpu/workspace.h"
#include "infer/jax/frame.h"

/* The numbers of a float32 or bfloat16 buffer: where they are, or in `scratch`. NULL without
 * memory. */
const float *tp_floats_of(const struct tp_buffer *buffer, struct tp_scratch *scratch);

/* Where to put the numbers of a result: there, or in `scratch`. NULL without memory. */
float *tp_floats_for(const struct tp_buffer *buffer, struct tp_scratch *scratch);

/* Rounds them into the result, if they are not there. */
void tp_floats_deliver(const struct tp_buffer *buffer, const float *floats);

#endif
