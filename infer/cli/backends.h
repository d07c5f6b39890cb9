/* Choosing what computes: the CPU, or the GPU of a plugin that is opened at run time. */
#ifndef TENSORPORT_INFER_CLI_BACKENDS_H
#define TENSORPORT_INFER_CLI_BACKENDS_H

#include <stdbool.h>

#include "decode/error.h"
#include "infer/backend.h"

enum tp_backend_choice {
    TP_CHOOSE_DEFAULT, /* as auto, but on a machine without a GPU nothing is said */
    TP_CHOOSE_AUTO,
    TP_CHOOSE_CPU,
    TP_CHOOSE_CUDA,
};

/* "auto", "cpu", "cuda": NULL at the end, in the order of the enum without its first. */
extern const char *const tp_backend_choice_names[];

/* What is asked of any backend; what differs between them is decided here. */
struct tp_backend_request {
    enum tp_backend_choice choice;
    struct tp_backend_options options;
    /* What was asked for; the others are the backend's defaults. */
    bool cache_given, activations_given;
};

/* What is to compute: the GPU where its plugin can be opened, which does not say yet that there is
 * one; the CPU otherwise. Errors with a message. */
int tp_backend_find(const struct tp_backend_request *request,
                    const struct tp_backend_kind **ret_kind, struct tp_error *error);

/* Opens it; and the options that it was opened with. Errors with a message. */
int tp_backend_open(const struct tp_backend_kind *kind, const struct tp_model *model,
                    const struct tp_backend_request *request, struct tp_backend **ret_backend,
                    struct tp_backend_options *ret_options, struct tp_error *error);

/* Whether the CPU is to compute after `rc` of opening the other kind. Where there is a GPU that
 * cannot be used, or "auto" was asked for, a line on standard error says why; `error` is empty
 * then. */
bool tp_backend_falls_back(const struct tp_backend_request *request,
                           const struct tp_backend_kind *kind, int rc, struct tp_error *error);

#endif
