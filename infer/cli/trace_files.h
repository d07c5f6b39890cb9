/* A folder of .npy files, one for each stage and layer of struct tp_trace, and index.json.
 *
 *     0000_embedding.npy
 *     0001_layer_00_input_norm.npy
 *     ...
 *     0053_logits.npy
 *     index.json
 *
 * Files are numbered in the order in which the values are made. Rows are written as they come, so
 * that memory does not grow with the text; a file is open only while it is written to. index.json
 * comes last: a folder without one is not whole. */
#ifndef TENSORPORT_INFER_CLI_TRACE_FILES_H
#define TENSORPORT_INFER_CLI_TRACE_FILES_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/backend.h"
#include "infer/engine/session.h"

struct tp_trace_file;

/* Starts as zeros; may be closed then, too. */
struct tp_trace_files {
    int directory; /* private from here on */
    bool is_open;
    const struct tp_model_config *config;
    const struct tp_session *session;
    size_t n_tokens, n_step;
    struct tp_trace trace;
    struct tp_trace_file *files; /* [n] */
    size_t n, room;
    int rc; /* the first failure, which `error` tells */
    struct tp_error error;
};

/* Makes the folder, or takes one that is empty. With `force` also one that has files, of which
 * those of an earlier trace go. -EEXIST and the like with a message. */
int tp_trace_files_open(struct tp_trace_files *files, const char *path, bool force,
                        struct tp_error *error);

/* Has the session, which must stay where it is, write its trace here: `n_tokens` from position 0.
 */
void tp_trace_files_attach(struct tp_trace_files *files, struct tp_session *session,
                           size_t n_tokens);

/* The logits [vocabulary] after a position. */
void tp_trace_files_add_logits(struct tp_trace_files *files, size_t position, const float *logits);

/* Writes index.json; `about` becomes a part of it. Tells, too, if anything failed before. */
int tp_trace_files_end(struct tp_trace_files *files, cJSON *about, struct tp_error *error);
void tp_trace_files_close(struct tp_trace_files *files);

#endif
