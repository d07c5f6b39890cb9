/* What `tpinfer bench` says: a table for people, CSV and JSON for programs. */
#ifndef TENSORPORT_INFER_CLI_BENCH_REPORT_H
#define TENSORPORT_INFER_CLI_BENCH_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "infer/backend.h"
#include "infer/cli/bench_case.h"
#include "infer/cli/bench_stages.h"
#include "infer/cli/runtime.h"

struct tp_bench_report {
    const struct tp_bench_settings *settings;
    const struct tp_runtime *runtime;
    struct tp_backend_limits limits; /* the best that was measured */
    double first_token_seconds;      /* from the command's start to the logits of a first token */
    struct tp_bench_result *results; /* [n] */
    size_t n;
    struct tp_bench_stages *stages; /* [n_stages]: instead of results */
    size_t n_stages;
    bool interrupted;
};

/* Quartiles by linear interpolation. */
struct tp_quartiles {
    double low, median, high;
};
struct tp_quartiles tp_quartiles(const double *values, size_t n);

/* The machine; the heads of columns; a line for a case; memory. */
void tp_bench_print_machine(const struct tp_bench_report *report);
void tp_bench_print_head(void);
void tp_bench_print_result(const struct tp_bench_report *report,
                           const struct tp_bench_result *result);
void tp_bench_print_end(const struct tp_bench_report *report);

void tp_bench_write_csv_head(FILE *file);
void tp_bench_write_csv(const struct tp_bench_report *report, const struct tp_bench_result *result,
                        FILE *file);

/* -ENOMEM. Whether it could be written, the stream knows. */
int tp_bench_write_json(const struct tp_bench_report *report, FILE *file);

#endif
