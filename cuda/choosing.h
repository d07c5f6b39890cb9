/* Choosing tokens where their logits are, so that a text goes on without waiting for the host. */
#ifndef TENSORPORT_CUDA_CHOOSING_H
#define TENSORPORT_CUDA_CHOOSING_H

#include <stddef.h>
#include <stdint.h>

#include "cuda/kernels.h"
#include "cuda/step.h"
#include "infer/backend.h"

/* Memory is the device's. The caller sets the first two. */
struct tp_choosing {
    const struct tp_step_model *of;
    size_t capacity;  /* texts */
    uint32_t *chosen; /* [capacity]: the token that was chosen last */

    /* Private. */
    struct tp_choice_terms *terms;
    struct tp_choose arguments; /* that all launches share */
    uint8_t *seen;              /* [texts][vocabulary], or NULL */
    bool draws, cuts_to_k, cuts_to_p;
};

/* What a recorded step chooses by: steps that differ in it are different kernels. Never 0. */
unsigned tp_choosing_kind(const struct tp_choosing *choosing);

void tp_choosing_take(struct tp_choosing *choosing, struct tp_arena *arena);

/* The texts' tokens and what chooses what follows them, for the device; waits. -ENOMEM for the
 * penalty's memory, a byte for each text and token; -EIO; with a message. */
int tp_choosing_begin(struct tp_choosing *choosing, const struct tp_decoding_text *texts, size_t n,
                      const struct tp_sampling *sampling, struct tp_error *error);
void tp_choosing_end(struct tp_choosing *choosing);

/* Chooses the next tokens of texts first_text .. first_text + n - 1, at most TP_FEW, from `logits`
 * [n][vocabulary], which change; `draws` [n] is the device's. */
void tp_choosing_run(const struct tp_choosing *choosing, struct tp_step *step, float *logits,
                     const uint64_t *draws, size_t first_text, size_t n);

#endif
