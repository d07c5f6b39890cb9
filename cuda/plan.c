#include "cuda/plan.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>

#include "fs/base/amount.h"

struct needs {
    uint64_t workspace, sequences, all;
};

/* False where the sum cannot be counted. */
static bool count(const struct tp_memory_plan *plan, size_t context, struct needs *ret_needs)
{
    struct needs needs = {.workspace = plan->workspace_bytes(plan->owner, context)};
    return tp_gpu_sequence_bytes(plan->cache, context, &needs.sequences) == 0 &&
           !__builtin_mul_overflow(needs.sequences, plan->n_sequences, &needs.sequences) &&
           !__builtin_add_overflow(plan->weights, needs.workspace, &needs.all) &&
           !__builtin_add_overflow(needs.all, needs.sequences, &needs.all) &&
           (*ret_needs = needs, true);
}

static bool fits(const struct tp_memory_plan *plan, size_t context)
{
    struct needs needs;
    return count(plan, context, &needs) && needs.all <= plan->available;
}

/* The largest context that fits, below one that does not; 0 if none does. */
static size_t largest_context(const struct tp_memory_plan *plan)
{
    size_t fitting = 0, too_large = plan->context;
    while (too_large - fitting > 1) {
        size_t middle = fitting + (too_large - fitting) / 2;
        if (fits(plan, middle))
            fitting = middle;
        else
            too_large = middle;
    }
    return fitting;
}

static int refuse(const struct tp_memory_plan *plan, const struct needs *needs, const char *advice,
                  struct tp_error *error)
{
    char weights[TP_AMOUNT_MAX], workspace[TP_AMOUNT_MAX], sequences[TP_AMOUNT_MAX];
    char all[TP_AMOUNT_MAX], has[TP_AMOUNT_MAX], cache[2 * TP_AMOUNT_MAX + 64] = "";
    tp_format_bytes((double)plan->weights, weights);
    tp_format_bytes((double)needs->workspace, workspace);
    tp_format_bytes((double)needs->sequences, sequences);
    tp_format_bytes((double)needs->all, all);
    tp_format_bytes((double)plan->available, has);
    if (plan->n_sequences > 0)
        snprintf(cache, sizeof cache, ", keys and values of %zu tokens %s", plan->context,
                 sequences);
    return tp_error_set(error, -ENOMEM,
                        "%s: the weights take %s, the workspace %s%s: %s in all, %s are free; %s",
                        plan->device, weights, workspace, cache, all, has, advice);
}

int tp_memory_plan_check(const struct tp_memory_plan *plan, struct tp_error *error)
{
    struct needs needs;
    char advice[96] = "no --context would fit, give --backend cpu";
    if (!count(plan, plan->context, &needs))
        return tp_error_set(error, -EOVERFLOW, "a context of %zu tokens is too long",
                            plan->context);
    if (needs.all <= plan->available)
        return 0;
    size_t context = largest_context(plan);
    if (context > 0)
        snprintf(advice, sizeof advice, "--context %zu would fit, or give --backend cpu", context);
    return refuse(plan, &needs, advice, error);
}
