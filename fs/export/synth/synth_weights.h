/* The list of tensors of a synthetic checkpoint: name, shape, and how each is filled.
 *
 * The weights are random but not arbitrary. Scales are chosen so that the residual stream
 * keeps a sane size over the whole depth, expert activations sometimes reach the SwiGLU clamp,
 * and attention is neither uniform nor one-hot. The output head is planted: each ordinary
 * token is the likely successor of two others, so that greedy decoding wanders through the
 * vocabulary with clear margins. Source: tests/kit/make_checkpoint.py, class Weights.
 *
 * Compile with -ffp-contract=off: a fused multiply-add rounds differently.
 */
#ifndef TENSORPORT_FS_EXPORT_SYNTH_SYNTH_WEIGHTS_H
#define TENSORPORT_FS_EXPORT_SYNTH_SYNTH_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "decode/dtype.h"
#include "decode/error.h"
#include "fs/export/synth/synth_config.h"

enum { TP_SYNTH_RANK_MAX = 4, TP_SYNTH_NAME_SIZE = 80 };

enum tp_synth_fill {
    TP_SYNTH_NORMAL, /* mean + deviation * normal samples */
    TP_SYNTH_CODES,  /* random E2M1 codes: random bytes as they come */
    TP_SYNTH_SCALES, /* E8M0 bytes such that codes and scales give the deviation */
    TP_SYNTH_HEAD,   /* noise plus rows of the embedding */
};

struct tp_synth_tensor {
    char name[TP_SYNTH_NAME_SIZE];
    enum tp_dtype dtype;
    size_t rank;
    uint64_t shape[TP_SYNTH_RANK_MAX];
    uint64_t bytes;
    enum tp_synth_fill fill;
    double deviation, mean;

    /* Set by tp_synth_plan(). */
    size_t file;     /* index of the file it lies in */
    uint64_t offset; /* from the beginning of that file */
};

/* How head rows are made: sigma * (noise + first * E[p1(id)] + second * E[p2(id)]), where the
 * predecessors are p(id) = (id * factor + 101 k) mod n_text, for ids below n_text. */
struct tp_synth_head {
    double weights[2];
    uint64_t factors[2];
    double sigma;
};

struct tp_synth_weights {
    struct tp_synth_tensor *tensors; /* [n_tensors] */
    size_t n_tensors;
    uint64_t bytes; /* of all tensors, below 2^63 */
    uint64_t n_text;
    struct tp_synth_head head;
};

/* Lists the tensors, in the order in which files are filled. `dtype` (BF16, F16 or F32) is
 * that of everything but the experts. -EINVAL: too large; -ENOMEM. */
int tp_synth_weights_make(const struct tp_synth_config *config, enum tp_dtype dtype,
                          struct tp_synth_weights *ret_weights, struct tp_error *error);

/* The token that is the k-th predecessor (k = 1, 2) of `id`, both below n_text. */
uint64_t tp_synth_predecessor(const struct tp_synth_weights *weights, uint64_t id, unsigned k);

void tp_synth_weights_clear(struct tp_synth_weights *weights);

#endif
