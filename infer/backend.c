#include "infer/backend.h"

#include <errno.h>

int tp_step_check(const struct tp_backend_kind *kind, const struct tp_step_item *items, size_t n,
                  size_t step_max, size_t vocabulary)
{
    size_t left = step_max;
    for (size_t i = 0; i < n; i++) {
        const struct tp_step_item *item = &items[i];
        size_t length = kind->sequence_length(item->sequence);
        if (item->n_tokens > kind->sequence_context(item->sequence) - length)
            return -ENOSPC;
        if (item->n_logits > item->n_tokens || item->n_tokens > left)
            return -EINVAL;
        for (size_t t = 0; t < item->n_tokens; t++) {
            if (item->tokens[t] >= vocabulary)
                return -EINVAL;
        }
        left -= item->n_tokens;
    }
    return 0;
}
