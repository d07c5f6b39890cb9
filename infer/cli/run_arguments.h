/* The command line of `tpinfer run`. */
#ifndef TENSORPORT_INFER_CLI_RUN_ARGUMENTS_H
#define TENSORPORT_INFER_CLI_RUN_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>

#include "decode/error.h"
#include "fs/base/options.h"
#include "infer/cli/dialogue_arguments.h"
#include "infer/cli/engine_arguments.h"
#include "infer/cli/sampling_arguments.h"
#include "infer/tokenizer/buffer.h"

/* Strings are those of argv. Starts as zeros. */
struct tp_run_arguments {
    const char *prompt, *file, *token_ids; /* one of them; none: standard input */
    size_t n_most; /* tokens to generate, where has_n_most; SIZE_MAX: as the context has room */
    const char **stops; /* [n_stops] strings */
    size_t n_stops;
    size_t lookup, n_logprobs;
    const char *logits;
    struct tp_ids stop_tokens;
    struct tp_dialogue_arguments dialogue;
    struct tp_engine_arguments engine;
    struct tp_sampling_arguments sampling;
    bool raw, has_n_most, ignore_eos, wants_logprobs;
    bool json, show_reasoning, hide_reasoning, quiet;
};

extern const struct tp_program tp_run_program;

/* A tp_option_handler; the context is a struct tp_run_arguments. */
int tp_run_arguments_handle(void *context, const struct tp_option *option, const char *value,
                            struct tp_error *error);

/* -EINVAL with a message if options contradict each other. */
int tp_run_arguments_check(const struct tp_run_arguments *arguments, struct tp_error *error);

void tp_run_arguments_clear(struct tp_run_arguments *arguments);

#endif
