/* `tpinfer bench --stages`: how fast each kind of a device's work is by itself. */
#ifndef TENSORPORT_INFER_CLI_BENCH_STAGES_H
#define TENSORPORT_INFER_CLI_BENCH_STAGES_H

#include <cjson/cJSON.h>
#include <stddef.h>

#include "infer/backend.h"
#include "infer/cli/runtime.h"

/* Of a step with a token of each of `batch` texts, which have `depth` tokens. */
struct tp_bench_stages {
    size_t batch, depth;
    double bandwidth;                /* bytes a second, the better of before and after */
    struct tp_backend_stage *stages; /* [n] */
    size_t n;
};

/* -EOPNOTSUPP with a message when the backend has no stages. */
int tp_bench_stages_check(const struct tp_runtime *runtime, struct tp_error *error);

/* Measures; tp_bench_stages_clear() frees the result. What the backend fails with, with a message.
 */
int tp_bench_stages_measure(struct tp_runtime *runtime, size_t batch, size_t depth,
                            struct tp_bench_stages *ret_stages, struct tp_error *error);
void tp_bench_stages_clear(struct tp_bench_stages *stages);

/* A table on standard output; an item for JSON, which the caller owns. */
void tp_bench_stages_print(const struct tp_bench_stages *stages);
cJSON *tp_bench_stages_item(const struct tp_bench_stages *stages);

#endif
