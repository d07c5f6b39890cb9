/* A checkpoint as it will be when some of its tensors are quantised: in the place of X, which is
 * BF16, F16 or F32, stand X_blocks and X_scales, U8 as published checkpoints have them. */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_QUANTIZED_VIEW_H
#define TENSORPORT_FS_EXPORT_CONVERT_QUANTIZED_VIEW_H

#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "fs/export/convert/artifact.h"
#include "fs/export/convert/quantize_choice.h"
#include "fs/view/view.h"

struct tp_quantized_view {
    struct tp_view view; /* for planning; its shards count what is written */
    const struct tp_view *stored;
    size_t n_quantized;
    struct tp_quantized_tensor *quantized;
    struct tp_quantized_tensor **of; /* [view.n_tensors]: what a tensor is part of, or NULL */
    char **names;                    /* private: [2 * n_quantized] */
    uint64_t *shapes;                /* private */
};

/* `stored` is a view with precision `source` and MXFP4 packed, and must outlive it. -EINVAL or
 * -EEXIST with a message: see tp_quantize_choose(); a tensor has the name of a new one. */
int tp_quantized_view_new(const struct tp_view *stored, const struct tp_quantize_patterns *patterns,
                          const struct tp_log *log, struct tp_quantized_view **ret_view,
                          struct tp_error *error);

void tp_quantized_view_free(struct tp_quantized_view *view);

/* Plans it as safetensors: `view` must outlive the plan. On failure the plan is empty. */
int tp_quantized_plan_new(const struct tp_quantized_view *view, struct tp_export_plan *ret_plan,
                          struct tp_error *error);

/* The text of quantization_config for it; the caller frees it. NULL: out of memory. */
char *tp_quantized_config(const struct tp_quantized_view *view);

#endif
