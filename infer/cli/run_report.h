/* What `tpinfer run` tells of a generation: an object for programs, a few lines for people. */
#ifndef TENSORPORT_INFER_CLI_RUN_REPORT_H
#define TENSORPORT_INFER_CLI_RUN_REPORT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#include "decode/error.h"
#include "infer/cli/answer_text.h"
#include "infer/cli/memory_use.h"
#include "infer/engine/generate.h"
#include "infer/tokenizer/tokenizer.h"

/* Log-probabilities of the tokens so far, for the object. */
struct tp_run_logprobs {
    const struct tp_tokenizer *tokenizer; /* NULL: tokens have no text */
    size_t n_top;
    cJSON *list; /* NULL: not wanted */
};

/* Adds {"id", "text", "logprob", "top": [{"id", "text", "logprob"}, ...]}. -ENOMEM. */
int tp_run_logprobs_add(struct tp_run_logprobs *logprobs, const float *logits, size_t vocabulary,
                        uint32_t token);

struct tp_run_report {
    const struct tp_ids *prompt, *tokens;
    const struct tp_answer_text *text;
    bool has_text, has_reasoning; /* there is a tokenizer; the format has channels */
    bool has_lookup;
    cJSON *logprobs; /* given away; NULL: not wanted */
    double load_seconds;
    struct tp_memory_use memory;
    struct tp_generate_report generation;
};

/* One object on standard output. -EIO or -ENOMEM. */
int tp_run_report_print_json(const struct tp_run_report *report);

/* A few lines on standard error. */
void tp_run_report_print(const struct tp_run_report *report);

#endif
