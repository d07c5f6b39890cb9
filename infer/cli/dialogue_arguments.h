/* Options that say how a model is spoken to, and what it is told. */
#ifndef TENSORPORT_INFER_CLI_DIALOGUE_ARGUMENTS_H
#define TENSORPORT_INFER_CLI_DIALOGUE_ARGUMENTS_H

#include <stdbool.h>

#include "decode/error.h"
#include "infer/chat/dialogue.h"
#include "infer/model/config.h"

/* Rows of a struct tp_option table. */
#define TP_DIALOGUE_ARGUMENTS_TABLE                                                                \
    {"template", 0, "NAME",                                                                        \
     "how a prompt is written: harmony (what gpt_oss speaks),\n"                                   \
     "llama3, mistral-instruct, chatml, none, or a file"},                                         \
        {"system", 0, "TEXT", "what the model is told to be and do"},                              \
        {"effort", 0, "LEVEL", "harmony's reasoning effort: low, medium (default), high"},         \
    {                                                                                              \
        "date", 0, "DATE", "harmony's current date; none unless it is given"                       \
    }

struct tp_dialogue_arguments {
    const char *template; /* NULL: what the architecture speaks */
    struct tp_dialogue_preface preface;
};

/* Takes the option if it is one of the table's. 0, or -EINVAL with a message. */
int tp_dialogue_arguments_handle(struct tp_dialogue_arguments *arguments, const char *name,
                                 const char *value, bool *ret_known, struct tp_error *error);

/* The dialogue that was asked for, or that the model is known to speak: harmony for gpt_oss, none
 * for others. A message with every error. */
int tp_dialogue_arguments_open(const struct tp_dialogue_arguments *arguments,
                               const struct tp_model_config *config,
                               const struct tp_tokenizer *tokenizer,
                               struct tp_dialogue **ret_dialogue, struct tp_error *error);

#endif
