/* What `tpinfer validate` says: a line for each case as it comes, or one object in the end. */
#ifndef TENSORPORT_INFER_CLI_VALIDATE_REPORT_H
#define TENSORPORT_INFER_CLI_VALIDATE_REPORT_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "infer/validate/validate.h"

/* Starts as zeros, but for the first two. */
struct tp_validate_report {
    bool as_json;
    bool against; /* cases were compared with an engine, not with goldens */

    struct tp_case_report all; /* the sums; nothing inside */
    double inside;             /* the largest difference there, by the size of its stage */
    bool has_inside;
    size_t n_cases, n_failures;
    cJSON *cases, *failures, *rope;
    bool no_memory;
};

/* A line of the table, the heading before the first. */
void tp_validate_report_case(struct tp_validate_report *report, const struct tp_golden_case *golden,
                             const struct tp_case_report *found);
void tp_validate_report_rope(struct tp_validate_report *report, const struct tp_rope_report *found);

/* The failures go to standard error, in front of them the name of the program. */
void tp_validate_report_failure(struct tp_validate_report *report, const char *line);

/* The last line, or the object: `engine` becomes a part of it. 0, or -ENOMEM. */
int tp_validate_report_end(struct tp_validate_report *report, cJSON *engine);
void tp_validate_report_clear(struct tp_validate_report *report);

#endif
