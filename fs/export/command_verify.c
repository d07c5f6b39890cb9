/* `tensorport verify`: the command line and the report of fs/export/verify/verify.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/amount.h"
#include "fs/base/bytes.h"
#include "fs/base/clock.h"
#include "fs/base/json_text.h"
#include "fs/base/options.h"
#include "fs/base/workers.h"
#include "fs/export/commands.h"
#include "fs/export/verify/verify.h"
#include "fs/export/verify/verify_packed.h"

enum { ABSENT_SHOWN = 100 };

struct command {
    const char *source;
    uint64_t workers;
    enum tp_progress_style progress;
    bool as_json, quiet;
    double start; /* tp_clock_seconds() */
};

static const struct tp_option options[] = {
    {"source", 0, "SOURCE",
     "compare every value with a fresh decode of this checkpoint,\n"
     "under the options that manifest.json names"},
    {"json", 'j', NULL, "print one JSON object instead: tensorport-verify(1)"},
    {"workers", 'w', "N", "threads (default: one for each processor)"},
    {"progress", 0, "STYLE", "bar (default, on a terminal), json or none"},
    {"quiet", 'q', NULL, "print faults only"},
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {
    .name = "tensorport verify",
    .arguments = "DIR",
    .summary = "Checks a folder that 'tensorport convert' wrote, a copy of a mount, or a mount:\n"
               "manifest, headers, sizes, checksums, missing and extra files; or a packed\n"
               "checkpoint: every block.",
    .options = options,
    .notes = "Exits with 0 only if all is right; otherwise each fault is a line on stderr.\n",
};

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    struct command *command = context;
    size_t index = 0;
    int rc = 0;
    if (strcmp(option->name, "source") == 0) {
        command->source = value;
    } else if (strcmp(option->name, "json") == 0) {
        command->as_json = true;
    } else if (strcmp(option->name, "workers") == 0) {
        rc = tp_parse_unsigned(value, 1, TP_WORKERS_MAX, &command->workers, error);
    } else if (strcmp(option->name, "progress") == 0) {
        rc = tp_parse_choice(value, tp_progress_names, &index, error);
        command->progress = (enum tp_progress_style)index;
    } else {
        command->quiet = true;
    }
    return rc;
}

/* ---- for people ---- */

static const char *checksum_names(const struct tp_verified *verified)
{
    if (verified->has_xxh3)
        return verified->has_sha256 ? "XXH3SUMS, SHA256SUMS" : "XXH3SUMS";
    return verified->has_sha256 ? "SHA256SUMS" : "none";
}

/* What a choice of tensors left out: no fault, but worth knowing. */
static void print_absent(const struct tp_verified *verified)
{
    const struct tp_verify_source *source = &verified->source;
    for (size_t i = 0; i < source->n_absent && i < ABSENT_SHOWN; i++) {
        struct tp_error name;
        tp_error_format(&name, "%.*s",
                        tp_bytes_shown(source->absent[i]->name, source->absent[i]->name_length),
                        source->absent[i]->name);
        printf("not here, but in the source: tensor \"%s\"\n", name.text);
    }
    if (source->n_absent > ABSENT_SHOWN)
        printf("and %zu more tensors\n", source->n_absent - ABSENT_SHOWN);
}

static void print_summary(const struct command *command, const char *folder,
                          struct tp_verified *verified)
{
    char amount[TP_AMOUNT_MAX], rate[TP_AMOUNT_MAX];
    double seconds = tp_clock_seconds() - command->start;
    struct tp_error name;
    tp_error_format(&name, "%s", folder);
    tp_format_bytes((double)verified->bytes, amount);
    tp_format_bytes((double)verified->bytes / seconds, rate);
    print_absent(verified);
    printf("%s: ", name.text);
    if (tp_faults_total(&verified->faults) == 0)
        printf("all is right");
    else
        tp_faults_print_counts(&verified->faults, stdout);
    printf("; %zu tensor%s, %s in %zu file%s, %.1f s, %s/s; checksums: %s; values %s",
           verified->manifest.n_tensors, verified->manifest.n_tensors == 1 ? "" : "s", amount,
           verified->n_files, verified->n_files == 1 ? "" : "s", seconds, rate,
           checksum_names(verified), verified->has_source ? "compared" : "not compared");
    if (verified->n_unknown > 0)
        printf("; %zu other file%s not checked: give --source", verified->n_unknown,
               verified->n_unknown == 1 ? "" : "s");
    printf("\n");
}

/* ---- for programs ---- */

static void add_absent(const struct tp_verified *verified, cJSON *object)
{
    const struct tp_verify_source *source = &verified->source;
    cJSON *names = cJSON_AddArrayToObject(object, "absent");
    for (size_t i = 0; i < source->n_absent; i++)
        cJSON_AddItemToArray(
            names, tp_json_text_item(source->absent[i]->name, source->absent[i]->name_length));
}

static int print_json(const struct command *command, const char *folder,
                      struct tp_verified *verified)
{
    enum { FIELDS = 13 };
    const char *format = verified->manifest.format;
    cJSON *object = cJSON_CreateObject();
    cJSON_AddBoolToObject(object, "ok", tp_faults_total(&verified->faults) == 0);
    tp_json_add_text(object, "folder", folder, strlen(folder));
    cJSON_AddStringToObject(object, "format", format != NULL ? format : "numpy-direct");
    tp_json_add_unsigned(object, "tensors", verified->manifest.n_tensors);
    tp_json_add_unsigned(object, "files", verified->n_files);
    tp_json_add_unsigned(object, "bytes", verified->bytes);
    cJSON_AddNumberToObject(object, "seconds", tp_clock_seconds() - command->start);
    cJSON *checksums = cJSON_AddArrayToObject(object, "checksums");
    if (verified->has_xxh3)
        cJSON_AddItemToArray(checksums, cJSON_CreateString("XXH3SUMS"));
    if (verified->has_sha256)
        cJSON_AddItemToArray(checksums, cJSON_CreateString("SHA256SUMS"));
    cJSON_AddBoolToObject(object, "compared", verified->has_source);
    tp_json_add_unsigned(object, "unchecked_files", verified->n_unknown);
    add_absent(verified, object);
    tp_faults_add_json(&verified->faults, object);
    char *text = cJSON_GetArraySize(object) == FIELDS ? cJSON_PrintUnformatted(object) : NULL;
    cJSON_Delete(object);
    if (text == NULL)
        return -ENOMEM;
    printf("%s\n", text);
    cJSON_free(text);
    return 0;
}

/* ---- packed checkpoints ---- */

static int print_packed_json(const struct command *command, const char *folder,
                             struct tp_verified_packed *verified)
{
    enum { FIELDS = 9 };
    cJSON *object = cJSON_CreateObject();
    cJSON_AddBoolToObject(object, "ok", tp_faults_total(&verified->faults) == 0);
    tp_json_add_text(object, "folder", folder, strlen(folder));
    cJSON_AddStringToObject(object, "format", "packed");
    tp_json_add_unsigned(object, "files", verified->summary.n_packed);
    tp_json_add_unsigned(object, "bytes", verified->summary.packed_bytes);
    tp_json_add_unsigned(object, "bytes_original", verified->summary.original_bytes);
    cJSON_AddNumberToObject(object, "seconds", tp_clock_seconds() - command->start);
    tp_faults_add_json(&verified->faults, object);
    char *text = cJSON_GetArraySize(object) == FIELDS ? cJSON_PrintUnformatted(object) : NULL;
    cJSON_Delete(object);
    if (text == NULL)
        return -ENOMEM;
    printf("%s\n", text);
    cJSON_free(text);
    return 0;
}

static void print_packed_summary(const struct command *command, const char *folder,
                                 struct tp_verified_packed *verified)
{
    char original[TP_AMOUNT_MAX], packed[TP_AMOUNT_MAX], rate[TP_AMOUNT_MAX];
    double seconds = tp_clock_seconds() - command->start;
    struct tp_error name;
    tp_error_format(&name, "%s", folder);
    tp_format_bytes((double)verified->summary.original_bytes, original);
    tp_format_bytes((double)verified->summary.packed_bytes, packed);
    tp_format_bytes((double)verified->summary.original_bytes / seconds, rate);
    printf("%s: ", name.text);
    if (tp_faults_total(&verified->faults) == 0)
        printf("all is right");
    else
        tp_faults_print_counts(&verified->faults, stdout);
    printf("; %zu packed file%s, %s of %s, %.1f s, %s/s\n", verified->summary.n_packed,
           verified->summary.n_packed == 1 ? "" : "s", packed, original, seconds, rate);
}

static int report_packed(const struct command *command, const char *folder,
                         struct tp_verified_packed *verified, struct tp_error *error)
{
    int rc = 0;
    if (command->as_json)
        rc = print_packed_json(command, folder, verified);
    else
        tp_faults_print(&verified->faults, program.name, folder, stderr);
    if (rc < 0)
        return tp_error_set(error, rc, "out of memory");
    if (!command->as_json && !command->quiet)
        print_packed_summary(command, folder, verified);
    if (fflush(stdout) != 0 || ferror(stdout))
        return tp_error_set(error, -EIO, "cannot write: %s", strerror(errno));
    if (tp_faults_total(&verified->faults) == 0)
        return 0;
    error->text[0] = '\0'; /* the faults have been named */
    return -EBADMSG;
}

static int run_packed(struct command *command, const struct tp_verify_options *verify,
                      struct tp_error *error)
{
    struct tp_verified_packed verified;
    if (verify->source != NULL)
        return tp_error_set(error, -EINVAL,
                            "%s: is packed, and needs no --source: its checksums are those of the "
                            "original",
                            verify->folder);
    int rc = tp_verify_packed(verify, &verified, error);
    if (rc < 0)
        return rc;
    rc = report_packed(command, verify->folder, &verified, error);
    tp_verified_packed_clear(&verified);
    return rc;
}

/* ---- the whole ---- */

static int report(const struct command *command, const char *folder, struct tp_verified *verified,
                  struct tp_error *error)
{
    if (command->as_json) {
        if (print_json(command, folder, verified) < 0)
            return tp_error_set(error, -ENOMEM, "out of memory");
    } else {
        tp_faults_print(&verified->faults, program.name, folder, stderr);
        if (!command->quiet)
            print_summary(command, folder, verified);
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        return tp_error_set(error, -EIO, "cannot write: %s", strerror(errno));
    return 0;
}

static int run(struct command *command, const char *folder, struct tp_error *error)
{
    const struct tp_log log = {.program = program.name, .level = TP_LOG_WARNING};
    struct tp_verified verified;
    command->start = tp_clock_seconds();
    const struct tp_verify_options verify = {
        .folder = folder,
        .source = command->source,
        .n_workers = command->workers > 0 ? (size_t)command->workers : tp_workers_default(),
        .progress = command->quiet ? TP_PROGRESS_NONE : command->progress,
        .log = &log,
    };
    if (tp_is_packed(folder))
        return run_packed(command, &verify, error);
    int rc = tp_verify(&verify, &verified, error);
    if (rc < 0)
        return rc;
    rc = report(command, folder, &verified, error);
    if (rc == 0 && tp_faults_total(&verified.faults) > 0) {
        error->text[0] = '\0'; /* the faults have been named */
        rc = -EBADMSG;
    }
    tp_verified_clear(&verified);
    return rc;
}

int tp_command_verify(int argc, char **argv)
{
    struct command command = {.source = NULL};
    enum tp_options_result result;
    struct tp_error error;
    int n, status = 0;
    int rc =
        tp_options_parse(&program, argc, argv, handle_option, &command, &result, &n, &argv, &error);
    if (rc == 0 && result == TP_OPTIONS_RUN && n != 1)
        rc = tp_error_set(&error, -EINVAL, "expected one DIR, found %d; see '%s --help'", n,
                          program.name);
    if (rc < 0) {
        status = 2;
    } else if (result == TP_OPTIONS_RUN) {
        rc = run(&command, argv[0], &error);
        status = rc < 0 ? 1 : 0;
    }
    if (status != 0 && error.text[0] != '\0')
        fprintf(stderr, "%s: %s\n", program.name, error.text);
    return status;
}
