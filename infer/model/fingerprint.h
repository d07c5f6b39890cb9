/* A number that tells models apart: a file that holds what one model computed must not be given to
 * another. */
#ifndef TENSORPORT_INFER_MODEL_FINGERPRINT_H
#define TENSORPORT_INFER_MODEL_FINGERPRINT_H

#include "infer/model/model.h"

struct tp_fingerprint {
    uint8_t bytes[16];
};

/* Over everything that the configuration says of the computation, all norms, and some numbers of
 * every matrix as float32: a few pages of a mount. Equal for views of one checkpoint that hold the
 * same values, in whatever type; different, in practice, for another checkpoint, a fine-tuned one
 * included: training changes the numbers of every matrix that it touches, not some rows. * -ENOMEM.
 */
int tp_model_fingerprint(const struct tp_model *model, struct tp_fingerprint *ret_fingerprint);

#endif
