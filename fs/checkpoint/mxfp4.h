/* Finds the MXFP4 tensors of a checkpoint: pairs of blocks and scales. */
#ifndef TENSORPORT_FS_CHECKPOINT_MXFP4_H
#define TENSORPORT_FS_CHECKPOINT_MXFP4_H

#include "fs/checkpoint/checkpoint.h"

/* Fills checkpoint->pairs and pair_of. A tensor called *_blocks or *_scales that does not fit
 * into a pair is an error when `strict` (config.json says that the checkpoint is MXFP4);
 * otherwise it stays a plain tensor, and one warning is logged. */
int tp_mxfp4_find_pairs(struct tp_checkpoint *checkpoint, bool strict, const struct tp_log *log,
                        struct tp_error *error);

#endif
