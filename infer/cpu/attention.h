/* Attention of the positions of a step to what their sequences hold, by all threads.
 *
 * The keys of a sequence fall into splits of TP_KEY_SPLIT positions, counted from position 0
 * whoever asks. Each query's softmax is built split by split, in order, from sums that one split
 * gives alone. So a position's result does not depend on which others are in the step, nor on how
 * many threads work: where there are few positions and many keys, splits are done at the same time
 * and joined afterwards; otherwise each thread goes through them in order.
 */
#ifndef TENSORPORT_INFER_CPU_ATTENTION_H
#define TENSORPORT_INFER_CPU_ATTENTION_H

#include <stddef.h>

#include "infer/cpu/kv_cache.h"
#include "infer/cpu/workspace.h"

/* Positions first..first + n - 1 of one sequence; the cache holds them and what they look at. */
struct tp_attention {
    const struct tp_kv_cache *cache;
    size_t n_heads;       /* a multiple of the cache's */
    size_t first, n;      /* positions */
    size_t window;        /* keys that a position sees, itself included; 0: all before it */
    float scale;          /* of the scores: 1 / sqrt(head size) */
    const float *sinks;   /* [n_heads] logits that join the softmax without a value, or NULL */
    const float *queries; /* [n][n_heads][head_size] */
    float *mixed;         /* [n][n_heads][head_size] */
};

/* Does all of them. -ENOMEM is the only failure; the results are undefined then. */
int tp_attend(struct tp_workspace *workspace, const struct tp_attention *attentions, size_t n);

#endif
