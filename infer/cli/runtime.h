/* A model ready to compute: the view, what it shows, and the backend. */
#ifndef TENSORPORT_INFER_CLI_RUNTIME_H
#define TENSORPORT_INFER_CLI_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>

#include "decode/error.h"
#include "infer/backend.h"
#include "infer/cli/engine_arguments.h"
#include "infer/engine/session.h"
#include "infer/tokenizer/tokenizer.h"
#include "infer/weights/view.h"

/* Starts as zeros; may be closed then, too. */
struct tp_runtime {
    struct tp_weights_view *view;
    struct tp_model *model;
    struct tp_tokenizer *tokenizer; /* NULL if it was not asked for */
    const struct tp_backend_kind *kind;
    struct tp_backend *backend;
    struct tp_backend_options options; /* of the backend */
    size_t context;                    /* of sessions */
    double load_seconds;
};

/* Opens all of it. From here on a view that disappears ends the program with one line. Everything
 * that is wrong has a message. */
int tp_runtime_open(struct tp_runtime *runtime, const char *path,
                    const struct tp_engine_arguments *arguments, bool wants_tokenizer,
                    struct tp_error *error);
void tp_runtime_close(struct tp_runtime *runtime);

/* An empty session of the runtime's context. */
int tp_runtime_session(struct tp_runtime *runtime, struct tp_session *ret_session,
                       struct tp_error *error);

#endif
