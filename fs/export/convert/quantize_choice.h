/* Which tensors of a checkpoint are quantised, and which way round they lie.
 *
 * Without patterns the weights of the layers' linear maps are, by the names that transformers gives
 * them: *_proj.weight (attention and MLP of Llama, Mistral, Qwen, Gemma, ...), w1, w2 and w3 of
 * experts, and stacks of experts, *.experts.*_proj. Not: embeddings, lm_head, norms, routers,
 * biases. Of GPT-OSS only the experts are: that is how it is published, and all that transformers
 * loads.
 *
 * Stacks of experts that are stored plainly are [expert, in, out], as transformers saves GPT-OSS,
 * or [expert, out, in], like a view's files: their shapes and hidden_size tell, and GPT-OSS has the
 * former where they do not. All other weights are [..., out, in]. */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_QUANTIZE_CHOICE_H
#define TENSORPORT_FS_EXPORT_CONVERT_QUANTIZE_CHOICE_H

#include <stddef.h>

#include "decode/error.h"
#include "fs/base/log.h"
#include "fs/export/convert/quantize.h"
#include "fs/view/view.h"

struct tp_quantize_patterns {
    const char *const *include; /* globs of names; none: the choice above */
    size_t n_include;
    const char *const *exclude;
    size_t n_exclude;
};

/* Chooses among the tensors of `stored`, a view with precision `source` and MXFP4 packed, in its
 * order. The caller frees *ret_tensors. Warns of tensors that are meant but cannot be quantised.
 * -EINVAL, with a message, when a pattern matches nothing, nothing is left, or config.json says
 * that the model is quantised another way. */
int tp_quantize_choose(const struct tp_view *stored, const struct tp_quantize_patterns *patterns,
                       const struct tp_log *log, struct tp_quantized_tensor **ret_tensors,
                       size_t *ret_n, struct tp_error *error);

#endif
