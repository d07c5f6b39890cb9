/* How the tensors of a synthetic checkpoint lie in files, and the text that says so: the
 * safetensors headers and model.safetensors.index.json.
 *
 * Within a file the layout is that of the official library: wider types first, then by name,
 * no gaps, the header padded with spaces to a multiple of 8.
 */
#ifndef TENSORPORT_FS_EXPORT_SYNTH_SYNTH_PLAN_H
#define TENSORPORT_FS_EXPORT_SYNTH_SYNTH_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "decode/error.h"
#include "fs/export/synth/synth_weights.h"

struct tp_synth_file {
    char name[64];
    size_t first, n; /* its tensors are weights->tensors[first .. first + n) */
    char *header;    /* [header_bytes]: the length field and the JSON */
    size_t header_bytes;
    uint64_t bytes; /* of the whole file */
};

struct tp_synth_plan {
    size_t n_files;
    struct tp_synth_file *files; /* [n_files] */
};

/* Spreads the tensors over `n_files` files of about equal size, none empty, and gives each
 * tensor its place; the tensors change their order. One file is called model.safetensors,
 * several count from 1 (model-00001-of-00002), or from 0 to the last one as the published
 * GPT-OSS checkpoints do (model-00000-of-00002 is the first of three).
 * -EINVAL: more files than tensors; -ENOMEM. */
int tp_synth_plan(struct tp_synth_weights *weights, uint64_t n_files, bool count_from_zero,
                  struct tp_synth_plan *ret_plan, struct tp_error *error);

/* The tree of model.safetensors.index.json, which the caller deletes. NULL when out of memory. */
cJSON *tp_synth_plan_index(const struct tp_synth_weights *weights,
                           const struct tp_synth_plan *plan);

void tp_synth_plan_clear(struct tp_synth_plan *plan);

#endif
