#include "infer/validate/difference.h"

#include <math.h>

void tp_difference_add(struct tp_difference *difference, const float *expected, const float *found,
                       size_t n)
{
    difference->n += n;
    for (size_t i = 0; i < n; i++) {
        double a = expected[i], b = found[i];
        if (!isfinite(a) || !isfinite(b)) {
            difference->n_unfinished += !(a == b || (isnan(a) && isnan(b)));
            continue;
        }
        difference->expected_squares += a * a;
        difference->found_squares += b * b;
        difference->products += a * b;
        difference->error_squares += (a - b) * (a - b);
        difference->largest = fmax(difference->largest, fabs(a - b));
    }
}

size_t tp_likeliest(const float *logits, size_t n, double *ret_margin)
{
    size_t best = 0;
    double second = -INFINITY;
    for (size_t i = 1; i < n; i++) {
        if (logits[i] > logits[best] || (isnan(logits[best]) && !isnan(logits[i]))) {
            second = isnan(logits[best]) ? second : logits[best];
            best = i;
        } else if (logits[i] > second) {
            second = logits[i];
        }
    }
    if (ret_margin != NULL)
        *ret_margin = isfinite(logits[best]) ? logits[best] - second : 0;
    return best;
}

/* ln of the sum of exponentials. */
static double log_sum(const float *logits, size_t n, double largest)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp(logits[i] - largest);
    return largest + log(sum);
}

static double divergence(const float *expected, const float *found, size_t n, double expected_top,
                         double found_top)
{
    double a = log_sum(expected, n, expected_top), b = log_sum(found, n, found_top), sum = 0;
    for (size_t i = 0; i < n; i++) {
        double log_p = expected[i] - a;
        if (log_p > -INFINITY)
            sum += exp(log_p) * (log_p - (found[i] - b));
    }
    return sum;
}

void tp_difference_add_logits(struct tp_difference *difference, const float *expected,
                              const float *found, size_t n)
{
    size_t a = tp_likeliest(expected, n, NULL), b = tp_likeliest(found, n, NULL);
    size_t unfinished = difference->n_unfinished;
    tp_difference_add(difference, expected, found, n);
    difference->n_rows++;
    difference->n_same_top += a == b;
    /* Rounding leaves a little below zero where the two are the same. */
    double row = divergence(expected, found, n, expected[a], found[b]);
    if (isnan(row) && difference->n_unfinished == unfinished)
        row = 0; /* not a distribution in either */
    difference->divergences += row < 0 ? 0 : row;
    if (!(row <= difference->largest_divergence))
        difference->largest_divergence = row;
}

void tp_difference_merge(struct tp_difference *sum, const struct tp_difference *part)
{
    sum->n += part->n;
    sum->n_unfinished += part->n_unfinished;
    sum->expected_squares += part->expected_squares;
    sum->found_squares += part->found_squares;
    sum->products += part->products;
    sum->error_squares += part->error_squares;
    sum->largest = fmax(sum->largest, part->largest);
    sum->n_rows += part->n_rows;
    sum->n_same_top += part->n_same_top;
    sum->divergences += part->divergences;
    sum->largest_divergence = fmax(sum->largest_divergence, part->largest_divergence);
}

double tp_difference_cosine(const struct tp_difference *difference)
{
    double size = sqrt(difference->expected_squares) * sqrt(difference->found_squares);
    if (size > 0)
        return fmin(difference->products / size, 1);
    return difference->expected_squares == difference->found_squares;
}

double tp_difference_nmse(const struct tp_difference *difference)
{
    if (difference->expected_squares > 0)
        return difference->error_squares / difference->expected_squares;
    return difference->error_squares > 0 ? INFINITY : 0;
}

double tp_difference_rms(const struct tp_difference *difference)
{
    return difference->n > 0 ? sqrt(difference->error_squares / (double)difference->n) : 0;
}

double tp_difference_size(const struct tp_difference *difference)
{
    return difference->n > 0 ? sqrt(difference->expected_squares / (double)difference->n) : 0;
}

double tp_difference_divergence(const struct tp_difference *difference)
{
    return difference->n_rows > 0 ? difference->divergences / (double)difference->n_rows : 0;
}
