#include "infer/cli/dialogue_arguments.h"

#include <string.h>

#include "fs/base/options.h"

int tp_dialogue_arguments_handle(struct tp_dialogue_arguments *arguments, const char *name,
                                 const char *value, bool *ret_known, struct tp_error *error)
{
    size_t effort;
    *ret_known = true;
    if (strcmp(name, "template") == 0) {
        arguments->template = value;
    } else if (strcmp(name, "system") == 0) {
        arguments->preface.system = value;
    } else if (strcmp(name, "date") == 0) {
        arguments->preface.date = value;
    } else if (strcmp(name, "effort") == 0) {
        int rc = tp_parse_choice(value, tp_reasoning_efforts, &effort, error);
        if (rc < 0)
            return rc;
        arguments->preface.reasoning_effort = value;
    } else {
        *ret_known = false;
    }
    return 0;
}

int tp_dialogue_arguments_open(const struct tp_dialogue_arguments *arguments,
                               const struct tp_model_config *config,
                               const struct tp_tokenizer *tokenizer,
                               struct tp_dialogue **ret_dialogue, struct tp_error *error)
{
    const char *format = arguments->template;
    if (format == NULL)
        format = config->architecture == TP_GPT_OSS ? "harmony" : "none";
    return tp_dialogue_open(format, tokenizer, config->eos_tokens, config->n_eos_tokens,
                            ret_dialogue, error);
}
