/* A case of the goldens, run through an engine.
 *
 * The text is read in chunks, with every comparison that the golden allows. If it is one that goes
 * on greedily, the prompt is then continued without being told, token by token; the logits must be
 * the same bit for bit, since a backend promises that a text may be cut into steps in any way. */
#ifndef TENSORPORT_INFER_VALIDATE_VALIDATE_H
#define TENSORPORT_INFER_VALIDATE_VALIDATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/model/rope.h"
#include "infer/validate/difference.h"
#include "infer/validate/feed.h"
#include "infer/validate/goldens.h"
#include "infer/validate/inside.h"

struct tp_validate_options {
    size_t context;   /* tokens of a session; 0: as many as the case has */
    size_t chunk;     /* tokens in a step, at most the backend's step_max */
    double tolerance; /* of the numbers' size: where a token or an expert is ahead by less than
                         that, either is right */
};

struct tp_validate_miss {
    size_t position;
    uint32_t expected, found;
    double margin; /* the reference's */
};

struct tp_case_report {
    struct tp_difference logits;
    /* Told the text: the likeliest tokens. */
    size_t n_best, n_best_same, n_best_near; /* near: others, but within the tolerance */
    struct tp_validate_miss best_miss;       /* the first that is neither */
    /* Left alone: tokens until the first that is another; 0 of 0 if the case is not greedy. */
    size_t n_written, n_written_same;
    bool written_near; /* that one is within the tolerance */
    struct tp_validate_miss written_miss;
    bool has_other_bits; /* the logits depend on the steps */
    size_t other_bits_position;
    struct tp_inside inside;
};

/* -ENOMEM, -ENOSPC and the like, with a message. */
int tp_validate_case(const struct tp_feed_engine *engine, const struct tp_model_config *config,
                     const struct tp_golden_case *golden, const struct tp_validate_options *options,
                     struct tp_case_report *ret_report, struct tp_error *error);
void tp_case_report_clear(struct tp_case_report *report);

/* The logits after every position of the case's text by engines[0], compared with those by
 * engines[1], which stands for what is right. Only `logits` is set. */
int tp_validate_against(const struct tp_feed_engine engines[2],
                        const struct tp_model_config *config, const struct tp_golden_case *golden,
                        const struct tp_validate_options *options,
                        struct tp_case_report *ret_report, struct tp_error *error);

/* The rotary embedding's tables. A value is wrong if it is off by more than `tolerance` and what
 * two roundings to float32 do, of the frequency and of the angle: far on in a text that is much. */
struct tp_rope_report {
    struct tp_difference inverse_frequencies, cosines, sines;
    size_t n_wrong;                    /* cosines and sines */
    size_t wrong_position, wrong_pair; /* the first */
};

/* -ENOMEM. */
int tp_validate_rope(const struct tp_rope *rope, const struct tp_golden_rope *golden,
                     double tolerance, struct tp_rope_report *ret_report);

#endif
