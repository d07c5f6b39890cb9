/* What a check finds wrong: every fault is named, but of a kind only so many are kept, for a folder
 * may have as many faults as files. Thread-safe. */
#ifndef TENSORPORT_FS_EXPORT_VERIFY_FAULTS_H
#define TENSORPORT_FS_EXPORT_VERIFY_FAULTS_H

#include <cjson/cJSON.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum tp_fault_kind {
    TP_FAULT_MANIFEST,   /* manifest.json is damaged or contradicts itself */
    TP_FAULT_UNFINISHED, /* left by a conversion that was interrupted */
    TP_FAULT_MISSING,    /* a file that should be there */
    TP_FAULT_EXTRA,      /* a file that should not */
    TP_FAULT_TYPE,       /* a link, a folder, a device instead of a file */
    TP_FAULT_UNREADABLE,
    TP_FAULT_SIZE,
    TP_FAULT_HEADER, /* of a .npy file */
    TP_FAULT_SUMS,   /* XXH3SUMS or SHA256SUMS is damaged or incomplete */
    TP_FAULT_CHECKSUM,
    TP_FAULT_SOURCE, /* the checkpoint cannot be compared with */
    TP_FAULT_VALUE,  /* bytes differ from the checkpoint's */
    TP_N_FAULT_KINDS,
};

/* "manifest", ... in the order of the enum. */
extern const char *const tp_fault_kind_names[TP_N_FAULT_KINDS];

enum { TP_FAULTS_KEPT = 100 }; /* of each kind */

struct tp_fault {
    enum tp_fault_kind kind;
    char *file; /* relative to the folder; "" when it is none in particular */
    char *message;
    /* A value that differs: */
    char *tensor; /* NULL for other faults; may contain NUL */
    size_t tensor_length;
    uint64_t element;
    char *found, *expected;
};

struct tp_faults {
    pthread_mutex_t lock; /* protects the following */
    uint64_t counts[TP_N_FAULT_KINDS];
    size_t n;
    struct tp_fault *list;
};

void tp_faults_init(struct tp_faults *faults);
void tp_faults_clear(struct tp_faults *faults);

uint64_t tp_faults_total(struct tp_faults *faults);

void tp_faults_add(struct tp_faults *faults, enum tp_fault_kind kind, const char *file,
                   const char *format, ...) __attribute__((format(printf, 4, 5)));

/* A value: `found` and `expected` are texts. */
void tp_faults_add_value(struct tp_faults *faults, const char *file, const char *tensor,
                         size_t tensor_length, uint64_t element, const char *found,
                         const char *expected);

/* A line for each, sorted by file; `prefix` begins each. For one thread only, as is the next. */
void tp_faults_print(struct tp_faults *faults, const char *prefix, const char *folder,
                     FILE *stream);

/* Adds "fault_counts" and "faults". */
void tp_faults_add_json(struct tp_faults *faults, cJSON *object);

/* "3 faults: 2 missing, 1 size". */
void tp_faults_print_counts(struct tp_faults *faults, FILE *stream);

#endif
