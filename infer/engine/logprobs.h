/* Log-probabilities of tokens, as the model gives them: before penalties, temperature and cuts. */
#ifndef TENSORPORT_INFER_ENGINE_LOGPROBS_H
#define TENSORPORT_INFER_ENGINE_LOGPROBS_H

#include <stddef.h>
#include <stdint.h>

struct tp_logprob {
    uint32_t token;
    double logprob;
};

enum { TP_LOGPROBS_MAX = 256 }; /* of the likeliest tokens that anybody may ask for */

/* log(sum of exp(logits[i])), i < n: subtracted from a logit it gives the logarithm of the token's
 * probability. In float64, the largest logit taken out first. */
double tp_log_sum_exp(const float *logits, size_t n);

/* The `n_top` likeliest tokens, likeliest first, the lower one of equals; all if there are fewer.
 * NaN is the least likely. Gives how many there are. */
size_t tp_logprobs_top(const float *logits, size_t n, size_t n_top, struct tp_logprob *ret_top);

#endif
