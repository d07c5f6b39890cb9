#include "infer/cli/engine_arguments.h"

#include <stdint.h>
#include <string.h>

#include "fs/base/options.h"

enum { CONTEXT_DEFAULT = 4096, THREADS_MAX = 1024 };

static int parse_size(const char *value, uint64_t most, size_t *ret_size, struct tp_error *error)
{
    uint64_t number;
    int rc = tp_parse_unsigned(value, 1, most, &number, error);
    if (rc == 0)
        *ret_size = (size_t)number;
    return rc;
}

/* Of two names, whether it is the second: the one that is not the default. */
static int parse_second(const char *value, const char *const *names, bool *ret_second,
                        struct tp_error *error)
{
    size_t name;
    int rc = tp_parse_choice(value, names, &name, error);
    if (rc == 0)
        *ret_second = name == 1;
    return rc;
}

static int parse_backend(const char *value, enum tp_backend_choice *ret_choice,
                         struct tp_error *error)
{
    size_t name;
    int rc = tp_parse_choice(value, tp_backend_choice_names, &name, error);
    if (rc == 0)
        *ret_choice = (enum tp_backend_choice)(TP_CHOOSE_AUTO + name);
    return rc;
}

int tp_engine_arguments_handle(struct tp_engine_arguments *arguments, const char *name,
                               const char *value, bool *ret_known, struct tp_error *error)
{
    static const char *const float_types[] = {"f32", "bf16", NULL};
    static const char *const dense_types[] = {"source", "int8", NULL};
    *ret_known = true;
    if (strcmp(name, "context") == 0)
        return parse_size(value, UINT32_MAX, &arguments->context, error);
    if (strcmp(name, "threads") == 0)
        return parse_size(value, THREADS_MAX, &arguments->threads, error);
    if (strcmp(name, "activations") == 0) {
        arguments->activations_given = true;
        return parse_second(value, float_types, &arguments->bf16_activations, error);
    }
    if (strcmp(name, "kv-type") == 0) {
        arguments->cache_given = true;
        return parse_second(value, float_types, &arguments->bf16_cache, error);
    }
    if (strcmp(name, "backend") == 0)
        return parse_backend(value, &arguments->backend, error);
    if (strcmp(name, "dense") == 0)
        return parse_second(value, dense_types, &arguments->int8_dense, error);
    if (strcmp(name, "pin") == 0)
        arguments->pin = true;
    else
        *ret_known = false;
    return 0;
}

struct tp_backend_request tp_engine_arguments_request(const struct tp_engine_arguments *arguments)
{
    return (struct tp_backend_request){
        .choice = arguments->backend,
        .options = {.n_threads = arguments->threads,
                    .pin = arguments->pin,
                    .bf16_activations = arguments->bf16_activations,
                    .bf16_cache = arguments->bf16_cache,
                    .int8_dense = arguments->int8_dense,
                    .step_max = arguments->step_max > 0 ? arguments->step_max : TP_STEP_MAX},
        .cache_given = arguments->cache_given,
        .activations_given = arguments->activations_given,
    };
}

size_t tp_engine_arguments_context(const struct tp_engine_arguments *arguments,
                                   const struct tp_model_config *config)
{
    if (arguments->context > 0)
        return arguments->context;
    return config->context < CONTEXT_DEFAULT ? config->context : (size_t)CONTEXT_DEFAULT;
}

void tp_engine_arguments_plan(const struct tp_engine_arguments *arguments,
                              const struct tp_model_config *config,
                              struct tp_backend_options *options)
{
    size_t most = arguments->context_max;
    options->context = tp_engine_arguments_context(arguments, config);
    options->n_sequences = most == 0;
    if (most > 0 && arguments->context == 0)
        options->context = most < SIZE_MAX ? most : config->context;
}
