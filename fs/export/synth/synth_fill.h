/* Makes the bytes of one tensor of a synthetic checkpoint, a piece at a time.
 *
 * Policy: all arithmetic on elements is in float (numpy's float32) in the order that
 * tests/kit/make_checkpoint.py has it; doubles are rounded to float before they meet an
 * element; results are rounded to the tensor's type by the codecs. A table of 65536 samples,
 * made in the tensor's type, turns random 16-bit numbers into elements.
 *
 * Compile with -ffp-contract=off: a fused multiply-add rounds differently.
 */
#ifndef TENSORPORT_FS_EXPORT_SYNTH_SYNTH_FILL_H
#define TENSORPORT_FS_EXPORT_SYNTH_SYNTH_FILL_H

#include <stddef.h>
#include <stdint.h>

#include "fs/export/synth/synth_weights.h"

/* Where the bytes go. Both functions return 0 or a negative errno, which ends the filling. */
struct tp_synth_sink {
    void *context;
    /* Takes the next bytes of the tensor. */
    int (*append)(void *context, const void *bytes, size_t length);
    /* Reads the embedding, which must be complete, from `offset` within the tensor; called
     * for TP_SYNTH_HEAD only. */
    int (*read_embedding)(void *context, uint64_t offset, void *target, size_t length);
};

/* Working memory of one thread, about 2 MB: not to be shared. NULL when out of memory. */
struct tp_synth_filler;
struct tp_synth_filler *tp_synth_filler_new(void);
void tp_synth_filler_free(struct tp_synth_filler *filler);

/* Makes `tensor`, which is one of `weights`. 0, -ENOMEM, or what the sink returned. */
int tp_synth_fill(struct tp_synth_filler *filler, const struct tp_synth_weights *weights,
                  const struct tp_synth_tensor *tensor, uint64_t seed,
                  const struct tp_synth_sink *sink);

#endif
