#include "infer/engine/logprobs.h"

#include <math.h>
#include <stdbool.h>

double tp_log_sum_exp(const float *logits, size_t n)
{
    double largest = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (logits[i] > largest)
            largest = logits[i];
    }
    if (isinf(largest)) /* all of the probability, or none */
        return largest;
    for (size_t i = 0; i < n; i++)
        sum += exp(logits[i] - largest);
    return largest + log(sum);
}

static bool is_less_likely(double a, double b)
{
    return a < b || (isnan(a) && !isnan(b));
}

size_t tp_logprobs_top(const float *logits, size_t n, size_t n_top, struct tp_logprob *ret_top)
{
    double all = tp_log_sum_exp(logits, n);
    size_t n_found = 0;
    for (size_t i = 0; i < n && n_top > 0; i++) {
        double logprob = logits[i] - all;
        if (n_found == n_top && !is_less_likely(ret_top[n_found - 1].logprob, logprob))
            continue;
        size_t at = n_found < n_top ? n_found++ : n_found - 1;
        for (; at > 0 && is_less_likely(ret_top[at - 1].logprob, logprob); at--)
            ret_top[at] = ret_top[at - 1];
        ret_top[at] = (struct tp_logprob){(uint32_t)i, logprob};
    }
    return n_found;
}
