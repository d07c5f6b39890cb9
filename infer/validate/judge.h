/* Whether what a case has shown is right. */
#ifndef TENSORPORT_INFER_VALIDATE_JUDGE_H
#define TENSORPORT_INFER_VALIDATE_JUDGE_H

#include <stdbool.h>

#include "infer/validate/validate.h"

/* By its numbers: each within `tolerance` of its kind's size (the root mean square of what is
 * expected), the same experts and tokens but for near ties.
 *
 * No bound on single numbers holds where activations are rounded to BF16: a near tie sends a token
 * to other experts, and which ties are broken is chance. So with `bf16` the reference's own steps
 * in BF16 are the measure. The logits of all cases together are off by no larger an rms than its
 * are, those of no case by more than TP_JUDGE_BF16_SHARE of their size; and greedy text is the
 * float32 one for at least as long as its is, or until a token that was ahead by less than rounding
 * moved some logit of the reference in this case. */
struct tp_judge {
    bool bf16;
    bool any_steps; /* other bits in other steps are a fault */
    double tolerance;

    /* Told a line for each thing that is wrong. */
    void (*fail)(void *context, const char *line);
    void *context;

    /* Private, zeros at first: squares of the logits' differences, found and allowed. */
    double found_squares, allowed_squares;
    size_t n_logits;
};

/* Measured of the reference over models of 4 to 16 layers: 0.01 to 0.09. */
#define TP_JUDGE_BF16_SHARE 0.1

void tp_judge_case(struct tp_judge *judge, const struct tp_golden_case *golden,
                   const struct tp_case_report *report);
void tp_judge_rope(const struct tp_judge *judge, const struct tp_rope_report *report);

/* What holds for all cases together. */
void tp_judge_end(const struct tp_judge *judge);

/* The largest difference allowed. */
double tp_judge_limit(const struct tp_judge *judge, const struct tp_difference *difference);

#endif
