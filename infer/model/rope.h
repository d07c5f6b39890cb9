/* Rotary position embedding (RoFormer, arXiv:2104.09864): element i of a head's first half and
 * element i of its second half turn together by position * frequency[i].
 *
 * The frequencies of the stretched kinds follow transformers' modeling_rope_utils: linear divides
 * all of them, llama3 and YaRN (arXiv:2309.00071) the slow ones, with a ramp between. Like there
 * the arithmetic is float32, step by step, and the angle is a float32 product. Single operations
 * that round differently from one library to another (powers, cosines) are rounded correctly here.
 */
#ifndef TENSORPORT_INFER_MODEL_ROPE_H
#define TENSORPORT_INFER_MODEL_ROPE_H

#include <stddef.h>

#include "infer/model/config.h"

struct tp_rope {
    size_t n_pairs;             /* half the head */
    float *inverse_frequencies; /* [n_pairs], radians a position */
    float concentration;        /* factor of cos and sin */
};

/* `head_dim` is even. -ENOMEM. */
int tp_rope_new(const struct tp_rope_config *config, size_t head_dim, struct tp_rope *ret_rope);
void tp_rope_clear(struct tp_rope *rope);

/* cos and sin [n_pairs] of one position, concentration included. */
void tp_rope_position(const struct tp_rope *rope, size_t position, float *cos_out, float *sin_out);

#endif
