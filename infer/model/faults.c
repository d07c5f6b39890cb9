#include "infer/model/faults.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    SHOWN_MAX = 3, /* faults of a kind that are told one by one */
    FAULT_MAX = 150,
};

void tp_faults_add(struct tp_faults *faults, enum tp_fault_kind kind, const char *format, ...)
{
    struct tp_fault_list *list = &faults->lists[kind];
    if (list->n++ >= SHOWN_MAX)
        return;
    char fault[FAULT_MAX + 1];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fault, sizeof fault, format, arguments);
    va_end(arguments);
    int written = snprintf(list->text + list->length, sizeof list->text - list->length, "%s%s",
                           list->n > 1 ? ", " : "", fault);
    list->length += (size_t)written; /* fits: SHOWN_MAX * (FAULT_MAX + 2) */
}

int tp_faults_judge(const struct tp_faults *faults, struct tp_error *error)
{
    static const char *const titles[] = {"missing", "wrong", "not expected"};
    char message[sizeof error->text] = "";
    size_t at = 0;
    for (size_t kind = 0; kind < TP_N_FAULT_KINDS; kind++) {
        const struct tp_fault_list *list = &faults->lists[kind];
        if (list->n == 0 || at >= sizeof message)
            continue;
        char more[32] = "";
        if (list->n > SHOWN_MAX)
            snprintf(more, sizeof more, " and %zu more", list->n - SHOWN_MAX);
        at += (size_t)snprintf(message + at, sizeof message - at, "%s%zu %s: %s%s",
                               at > 0 ? "; " : "", list->n, titles[kind], list->text, more);
    }
    return at == 0
               ? 0
               : tp_error_set(error, -EINVAL, "the tensors do not fit config.json: %s", message);
}
