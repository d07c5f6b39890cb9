/* How far numbers are from those expected.
 *
 * One tolerance on single numbers would hide much and blame much, so several measures are kept;
 * all sums are double. NaN agrees with NaN only; infinity with the same infinity. Such pairs are
 * left out of the sums, and where only one of two is finite, that is counted. */
#ifndef TENSORPORT_INFER_VALIDATE_DIFFERENCE_H
#define TENSORPORT_INFER_VALIDATE_DIFFERENCE_H

#include <stddef.h>

/* Starts as zeros. */
struct tp_difference {
    size_t n;            /* pairs of numbers */
    size_t n_unfinished; /* of them: one of the two is NaN or infinite, and the other is not the
                            same */
    double expected_squares, found_squares, products, error_squares; /* sums */
    double largest;                                                  /* |found - expected| */
    /* Rows of logits. */
    size_t n_rows, n_same_top; /* the same token is the likeliest */
    double divergences;        /* sum of KL(softmax expected || softmax found), in nats */
    double largest_divergence; /* of a row */
};

void tp_difference_add(struct tp_difference *difference, const float *expected, const float *found,
                       size_t n);

/* The same for a row of logits, which are compared as distributions, too. */
void tp_difference_add_logits(struct tp_difference *difference, const float *expected,
                              const float *found, size_t n);

void tp_difference_merge(struct tp_difference *sum, const struct tp_difference *part);

/* 1 and 0 where there is nothing to divide by. */
double tp_difference_cosine(const struct tp_difference *difference);
double tp_difference_nmse(const struct tp_difference *difference); /* error^2 / expected^2 */
double tp_difference_rms(const struct tp_difference *difference);  /* of the errors */
double tp_difference_size(const struct tp_difference *difference); /* rms of what is expected */
double tp_difference_divergence(const struct tp_difference *difference); /* mean of the rows */

/* The largest of a row, the first among equals; NaN never is. `ret_margin`: how far it is ahead of
 * the second; may be NULL. `n` is at least 1. */
size_t tp_likeliest(const float *logits, size_t n, double *ret_margin);

#endif
