/* What does not fit between the tensors that a model needs and those that there are: three lists,
 * bounded to what a line can hold. */
#ifndef TENSORPORT_INFER_MODEL_FAULTS_H
#define TENSORPORT_INFER_MODEL_FAULTS_H

#include <stddef.h>

#include "decode/error.h"

enum tp_fault_kind { TP_FAULT_MISSING, TP_FAULT_WRONG, TP_FAULT_UNEXPECTED, TP_N_FAULT_KINDS };

struct tp_fault_list {
    size_t n, length; /* faults; bytes of the text that tells the first ones */
    char text[512];
};

struct tp_faults {
    struct tp_fault_list lists[TP_N_FAULT_KINDS];
};

void tp_faults_add(struct tp_faults *faults, enum tp_fault_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* 0 when there is none; else -EINVAL with all lists in one message. */
int tp_faults_judge(const struct tp_faults *faults, struct tp_error *error);

#endif
