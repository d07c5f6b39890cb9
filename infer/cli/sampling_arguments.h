/* Options that say how the next token is chosen. */
#ifndef TENSORPORT_INFER_CLI_SAMPLING_ARGUMENTS_H
#define TENSORPORT_INFER_CLI_SAMPLING_ARGUMENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/engine/sampler.h"
#include "infer/model/config.h"

/* Rows of a struct tp_option table. */
#define TP_SAMPLING_ARGUMENTS_TABLE                                                                \
    {"temp", 0, "T",                                                                               \
     "temperature; 0 takes the likeliest token\n"                                                  \
     "(default: the model's, else 1)"},                                                            \
        {"top-k", 0, "K", "draw among the K likeliest tokens; 0: all"},                            \
        {"top-p", 0, "P",                                                                          \
         "draw among the fewest likeliest tokens whose probabilities\n"                            \
         "sum up to P"},                                                                           \
        {"min-p", 0, "P",                                                                          \
         "draw among tokens of at least P times the likeliest's\n"                                 \
         "probability"},                                                                           \
        {"repeat-penalty", 0, "X", "makes tokens that were there before less likely; 1: not"},     \
    {                                                                                              \
        "seed", 's', "N", "another seed draws other tokens (default 0)"                            \
    }

struct tp_sampling_arguments {
    struct tp_sampling given; /* where the flag below says so; and the seed */
    bool temperature, top_k, top_p, min_p, repetition_penalty;
};

/* Takes the option if it is one of the table's. 0, or -EINVAL with a message. */
int tp_sampling_arguments_handle(struct tp_sampling_arguments *arguments, const char *name,
                                 const char *value, bool *ret_known, struct tp_error *error);

/* What was given, and the model's recommendation for the rest. */
struct tp_sampling tp_sampling_arguments_for(const struct tp_sampling_arguments *arguments,
                                             const struct tp_model_config *config);

#endif
