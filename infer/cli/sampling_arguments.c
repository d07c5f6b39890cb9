#include "infer/cli/sampling_arguments.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/options.h"

static int parse_number(const char *text, double least, double most, double *ret_value,
                        struct tp_error *error)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || errno != 0 || !(value >= least && value <= most))
        return tp_error_set(error, -EINVAL, "expected a number from %g to %g, found \"%s\"", least,
                            most, text);
    *ret_value = value;
    return 0;
}

int tp_sampling_arguments_handle(struct tp_sampling_arguments *arguments, const char *name,
                                 const char *value, bool *ret_known, struct tp_error *error)
{
    const struct {
        const char *name;
        double *number;
        bool *given;
        double most;
    } numbers[] = {
        {"temp", &arguments->given.temperature, &arguments->temperature, 1000},
        {"top-p", &arguments->given.top_p, &arguments->top_p, 1},
        {"min-p", &arguments->given.min_p, &arguments->min_p, 1},
        {"repeat-penalty", &arguments->given.repetition_penalty, &arguments->repetition_penalty,
         1000},
    };
    uint64_t number;
    int rc;
    *ret_known = true;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (strcmp(name, numbers[i].name) == 0) {
            *numbers[i].given = true;
            return parse_number(value, 0, numbers[i].most, numbers[i].number, error);
        }
    }
    if (strcmp(name, "seed") == 0)
        return tp_parse_unsigned(value, 0, UINT64_MAX, &arguments->given.seed, error);
    if (strcmp(name, "top-k") != 0) {
        *ret_known = false;
        return 0;
    }
    rc = tp_parse_unsigned(value, 0, UINT32_MAX, &number, error);
    if (rc == 0) {
        arguments->top_k = true;
        arguments->given.top_k = (size_t)number;
    }
    return rc;
}

struct tp_sampling tp_sampling_arguments_for(const struct tp_sampling_arguments *arguments,
                                             const struct tp_model_config *config)
{
    const struct tp_sampling_defaults *defaults = &config->sampling;
    struct tp_sampling sampling = arguments->given;
    if (!arguments->temperature)
        sampling.temperature = defaults->sample ? defaults->temperature : 0;
    if (!arguments->top_k)
        sampling.top_k = defaults->top_k;
    if (!arguments->top_p)
        sampling.top_p = defaults->top_p;
    if (!arguments->min_p)
        sampling.min_p = defaults->min_p;
    if (!arguments->repetition_penalty)
        sampling.repetition_penalty = defaults->repetition_penalty;
    return sampling;
}
