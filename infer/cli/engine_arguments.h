/* Options of every command that computes: how much text, how many threads, which numbers. */
#ifndef TENSORPORT_INFER_CLI_ENGINE_ARGUMENTS_H
#define TENSORPORT_INFER_CLI_ENGINE_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>

#include "decode/error.h"
#include "infer/cli/backends.h"
#include "infer/model/config.h"

/* Rows of a struct tp_option table. */
#define TP_ENGINE_ARGUMENTS_TABLE                                                                  \
    {"context", 'c', "N",                                                                          \
     "tokens the text may have in all (default 4096, or what the\n"                                \
     "model allows)"},                                                                             \
        {"backend", 0, "NAME", "auto (default): a GPU if there is one, else the CPU; cpu; cuda"},  \
        {"threads", 't', "N", "threads (default: one for each physical core)"},                    \
        {"pin", 0, NULL, "keep each thread on a processor of its own"},                            \
        {"activations", 0, "TYPE",                                                                 \
         "f32 (default; prompts on a GPU: bf16), or bf16: rounded before\nproducts"},              \
        {"dense", 0, "TYPE",                                                                       \
         "source (default): dense weights as they are, or int8: in 8\n"                            \
         "bits, faster and not exact"},                                                            \
    {                                                                                              \
        "kv-type", 0, "TYPE",                                                                      \
            "f32 (default on the CPU), or bf16 (on a GPU): half the memory\nfor the context"       \
    }

enum { TP_STEP_MAX = 512 }; /* tokens of a prompt taken in at a time */

struct tp_engine_arguments {
    size_t context; /* 0: not given */
    size_t threads; /* 0: one for each physical core */
    bool pin, bf16_activations, bf16_cache, int8_dense;
    bool cache_given, activations_given; /* somebody asked for these */
    enum tp_backend_choice backend;
    size_t step_max; /* tokens in one step; 0: TP_STEP_MAX */

    /* Where sessions are of other sizes than --context, that of the largest; or SIZE_MAX: what the
     * model allows. 0: there is one session, as --context says. */
    size_t context_max;
};

/* Takes the option if it is one of the table's. 0, or -EINVAL with a message. */
int tp_engine_arguments_handle(struct tp_engine_arguments *arguments, const char *name,
                               const char *value, bool *ret_known, struct tp_error *error);

/* What backends are asked for. */
struct tp_backend_request tp_engine_arguments_request(const struct tp_engine_arguments *arguments);

/* Sets the sizes of sequences that the backend is to be made for. */
void tp_engine_arguments_plan(const struct tp_engine_arguments *arguments,
                              const struct tp_model_config *config,
                              struct tp_backend_options *options);

/* The context that was given, or the default for the model. */
size_t tp_engine_arguments_context(const struct tp_engine_arguments *arguments,
                                   const struct tp_model_config *config);

#endif
