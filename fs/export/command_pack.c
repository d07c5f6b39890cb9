/* `tensorport pack` and `tensorport unpack`: one the other way round. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/amount.h"
#include "fs/base/clock.h"
#include "fs/base/json_text.h"
#include "fs/base/options.h"
#include "fs/base/workers.h"
#include "fs/export/commands.h"
#include "fs/export/pack/pack.h"

static const struct tp_option options[] = {
    {"workers", 'w', "N", "threads (default: as many as processors)"},
    {"progress", 0, "STYLE", "bar (default), json or none"},
    {"quiet", 'q', NULL, "print errors only"},
    {NULL, 0, NULL, NULL},
};

static const struct tp_program pack_program = {
    .name = "tensorport pack",
    .arguments = "MODEL OUTPUT",
    .summary =
        "Compresses a checkpoint without loss into a new folder. What it makes can be given\n"
        "wherever a checkpoint can: to tensorport-mount and to every command.",
    .options = options,
    .notes = "Every file NAME.safetensors becomes NAME.safetensors.tpk; all others are copied.\n"
             "BF16 weights take about three quarters of their size; MXFP4 cannot be shortened.\n",
};

static const struct tp_program unpack_program = {
    .name = "tensorport unpack",
    .arguments = "PACKED OUTPUT",
    .summary = "Restores what was packed into a new folder, byte for byte, and proves it.",
    .options = options,
};

struct command {
    const struct tp_program *program;
    struct tp_pack_options options;
    struct tp_log log;
    struct tp_stop stop;
    bool quiet;
};

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    struct command *command = context;
    uint64_t number;
    size_t index;
    int rc = 0;
    if (strcmp(option->name, "workers") == 0) {
        rc = tp_parse_unsigned(value, 1, TP_PACK_WORKERS_MAX, &number, error);
        if (rc == 0)
            command->options.workers = (size_t)number;
    } else if (strcmp(option->name, "progress") == 0) {
        rc = tp_parse_choice(value, tp_progress_names, &index, error);
        if (rc == 0)
            command->options.progress = (enum tp_progress_style)index;
    } else {
        command->quiet = true;
    }
    return rc;
}

static void print_summary(const struct command *command, const struct tp_pack_summary *summary,
                          double seconds)
{
    char original[TP_AMOUNT_MAX], packed[TP_AMOUNT_MAX], copied[TP_AMOUNT_MAX], rate[TP_AMOUNT_MAX];
    size_t n_copied = summary->n_files - summary->n_packed;
    bool packs = command->program == &pack_program;
    tp_format_bytes((double)summary->original_bytes, original);
    tp_format_bytes((double)summary->packed_bytes, packed);
    tp_format_bytes((double)summary->copied_bytes, copied);
    tp_format_bytes((double)summary->original_bytes / (seconds > 0 ? seconds : 1), rate);
    printf("%s: %zu file%s %s, %s to %s, ratio %.3f; %zu copied, %s; %.1f s, %s/s\n",
           command->options.output, summary->n_packed, summary->n_packed == 1 ? "" : "s",
           packs ? "packed" : "unpacked", packs ? original : packed, packs ? packed : original,
           (double)summary->original_bytes / (double)(summary->packed_bytes + !summary->n_packed),
           n_copied, copied, seconds, rate);
}

static void print_json_summary(const struct tp_pack_summary *summary, double seconds)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "event", "done");
    tp_json_add_unsigned(object, "files_packed", summary->n_packed);
    tp_json_add_unsigned(object, "bytes_original", summary->original_bytes);
    tp_json_add_unsigned(object, "bytes_packed", summary->packed_bytes);
    tp_json_add_unsigned(object, "files_copied", summary->n_files - summary->n_packed);
    tp_json_add_unsigned(object, "bytes_copied", summary->copied_bytes);
    cJSON_AddNumberToObject(object, "seconds", seconds);
    char *text = cJSON_PrintUnformatted(object);
    if (text != NULL)
        printf("%s\n", text);
    cJSON_free(text);
    cJSON_Delete(object);
}

/* When a signal came the files are cleaned up, and the signal ends the program. */
static int run(struct command *command)
{
    struct tp_pack_summary summary;
    struct tp_error error = {""};
    double start = tp_clock_seconds();
    command->log = (struct tp_log){.program = command->program->name,
                                   .level = command->quiet ? TP_LOG_ERROR : TP_LOG_WARNING};
    command->options.log = &command->log;
    command->options.stop = &command->stop;
    if (command->quiet)
        command->options.progress = TP_PROGRESS_NONE;
    tp_stop_hold(&command->stop);
    int rc = command->program == &pack_program ? tp_pack(&command->options, &summary, &error)
                                               : tp_unpack(&command->options, &summary, &error);
    tp_stop_release(&command->stop);
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", command->program->name, error.text);
        return 1;
    }
    if (!command->quiet && command->options.progress == TP_PROGRESS_JSON)
        print_json_summary(&summary, tp_clock_seconds() - start);
    else if (!command->quiet)
        print_summary(command, &summary, tp_clock_seconds() - start);
    return 0;
}

static int parse_and_run(const struct tp_program *program, int argc, char **argv)
{
    struct command command = {.program = program, .options = {.workers = tp_workers_default()}};
    struct tp_error error = {""};
    enum tp_options_result result;
    if (command.options.workers > TP_PACK_WORKERS_MAX)
        command.options.workers = TP_PACK_WORKERS_MAX;
    int rc = tp_options_parse(program, argc, argv, handle_option, &command, &result, &argc, &argv,
                              &error);
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", program->name, error.text);
        return 2;
    }
    if (result == TP_OPTIONS_DONE)
        return 0;
    if (argc != 2) {
        fprintf(stderr, "%s: expected %s, found %d argument%s; see '%s --help'\n", program->name,
                program->arguments, argc, argc == 1 ? "" : "s", program->name);
        return 2;
    }
    command.options.input = argv[0];
    command.options.output = argv[1];
    return run(&command);
}

int tp_command_pack(int argc, char **argv)
{
    return parse_and_run(&pack_program, argc, argv);
}

int tp_command_unpack(int argc, char **argv)
{
    return parse_and_run(&unpack_program, argc, argv);
}
