#include "fs/export/verify/faults.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "decode/error.h"
#include "fs/base/bytes.h"
#include "fs/base/json_text.h"

const char *const tp_fault_kind_names[TP_N_FAULT_KINDS] = {
    "manifest", "unfinished", "missing", "extra",    "type",   "unreadable",
    "size",     "header",     "sums",    "checksum", "source", "value",
};

void tp_faults_init(struct tp_faults *faults)
{
    *faults = (struct tp_faults){.n = 0};
    pthread_mutex_init(&faults->lock, NULL);
}

static void free_fault(struct tp_fault *fault)
{
    free(fault->file);
    free(fault->message);
    free(fault->tensor);
    free(fault->found);
    free(fault->expected);
}

void tp_faults_clear(struct tp_faults *faults)
{
    for (size_t i = 0; i < faults->n; i++)
        free_fault(&faults->list[i]);
    free(faults->list);
    pthread_mutex_destroy(&faults->lock);
}

uint64_t tp_faults_total(struct tp_faults *faults)
{
    uint64_t total = 0;
    pthread_mutex_lock(&faults->lock);
    for (size_t i = 0; i < TP_N_FAULT_KINDS; i++)
        total += faults->counts[i];
    pthread_mutex_unlock(&faults->lock);
    return total;
}

/* Takes the fault over. One that there is no memory for is counted all the same. */
static void add(struct tp_faults *faults, struct tp_fault fault)
{
    pthread_mutex_lock(&faults->lock);
    bool keep = faults->counts[fault.kind]++ < TP_FAULTS_KEPT && fault.file != NULL &&
                fault.message != NULL;
    if (keep && (faults->n & (faults->n - 1)) == 0) {
        size_t room = faults->n == 0 ? 1 : 2 * faults->n;
        struct tp_fault *more = realloc(faults->list, room * sizeof *more);
        keep = more != NULL;
        faults->list = keep ? more : faults->list;
    }
    if (keep)
        faults->list[faults->n++] = fault;
    pthread_mutex_unlock(&faults->lock);
    if (!keep)
        free_fault(&fault);
}

void tp_faults_add(struct tp_faults *faults, enum tp_fault_kind kind, const char *file,
                   const char *format, ...)
{
    struct tp_error message;
    char text[sizeof message.text];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    tp_error_format(&message, "%s", text);
    add(faults,
        (struct tp_fault){.kind = kind, .file = strdup(file), .message = strdup(message.text)});
}

void tp_faults_add_value(struct tp_faults *faults, const char *file, const char *tensor,
                         size_t tensor_length, uint64_t element, const char *found,
                         const char *expected)
{
    struct tp_error message;
    struct tp_fault fault = {.kind = TP_FAULT_VALUE,
                             .file = strdup(file),
                             .tensor = malloc(tensor_length + 1),
                             .tensor_length = tensor_length,
                             .element = element,
                             .found = strdup(found),
                             .expected = strdup(expected)};
    if (fault.tensor != NULL)
        memcpy(fault.tensor, tensor, tensor_length);
    tp_error_format(&message, "tensor \"%.*s\": element %" PRIu64 " is %s, the source has %s",
                    tp_bytes_shown(tensor, tensor_length), tensor, element, found, expected);
    fault.message = strdup(message.text);
    add(faults, fault);
}

static int compare(const void *a, const void *b)
{
    const struct tp_fault *left = a, *right = b;
    int order = strcmp(left->file, right->file);
    if (order == 0 && left->kind != right->kind)
        order = left->kind < right->kind ? -1 : 1;
    return order != 0 ? order : strcmp(left->message, right->message);
}

static void sort(struct tp_faults *faults)
{
    if (faults->n > 0)
        qsort(faults->list, faults->n, sizeof *faults->list, compare);
}

void tp_faults_print(struct tp_faults *faults, const char *prefix, const char *folder, FILE *stream)
{
    sort(faults);
    for (size_t i = 0; i < faults->n; i++) {
        const struct tp_fault *fault = &faults->list[i];
        struct tp_error where;
        tp_error_format(&where, "%s%s%s", folder, fault->file[0] != '\0' ? "/" : "", fault->file);
        fprintf(stream, "%s: %s: %s\n", prefix, where.text, fault->message);
    }
    for (size_t i = 0; i < TP_N_FAULT_KINDS; i++) {
        if (faults->counts[i] > TP_FAULTS_KEPT)
            fprintf(stream, "%s: %s: and %" PRIu64 " more of kind \"%s\"\n", prefix, folder,
                    faults->counts[i] - TP_FAULTS_KEPT, tp_fault_kind_names[i]);
    }
}

void tp_faults_add_json(struct tp_faults *faults, cJSON *object)
{
    cJSON *counts = cJSON_AddObjectToObject(object, "fault_counts");
    cJSON *list = cJSON_AddArrayToObject(object, "faults");
    for (size_t i = 0; i < TP_N_FAULT_KINDS; i++) {
        if (faults->counts[i] > 0)
            tp_json_add_unsigned(counts, tp_fault_kind_names[i], faults->counts[i]);
    }
    sort(faults);
    for (size_t i = 0; i < faults->n; i++) {
        const struct tp_fault *fault = &faults->list[i];
        cJSON *item = cJSON_CreateObject();
        tp_json_add_text(item, "file", fault->file, strlen(fault->file));
        cJSON_AddStringToObject(item, "kind", tp_fault_kind_names[fault->kind]);
        tp_json_add_text(item, "message", fault->message, strlen(fault->message));
        if (fault->tensor != NULL && fault->found != NULL && fault->expected != NULL) {
            tp_json_add_text(item, "tensor", fault->tensor, fault->tensor_length);
            tp_json_add_unsigned(item, "element", fault->element);
            cJSON_AddStringToObject(item, "found", fault->found);
            cJSON_AddStringToObject(item, "expected", fault->expected);
        }
        cJSON_AddItemToArray(list, item);
    }
}

void tp_faults_print_counts(struct tp_faults *faults, FILE *stream)
{
    uint64_t total = tp_faults_total(faults);
    fprintf(stream, "%" PRIu64 " fault%s", total, total == 1 ? "" : "s");
    const char *before = ": ";
    for (size_t i = 0; i < TP_N_FAULT_KINDS; i++) {
        if (faults->counts[i] == 0)
            continue;
        fprintf(stream, "%s%" PRIu64 " %s", before, faults->counts[i], tp_fault_kind_names[i]);
        before = ", ";
    }
}
