/* `tensorport synth`: the command line, the progress line and the signals of
 * fs/export/synth/synth.h. */
#include "fs/export/commands.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/clock.h"
#include "fs/base/options.h"
#include "fs/base/stop.h"
#include "fs/export/synth/synth.h"

struct command {
    struct tp_synth_options options;
    const char **settings; /* as many as argv has room for */
    bool quiet;
    bool show_progress; /* stderr is a terminal */
    double start;       /* tp_clock_seconds() */
    struct tp_stop stop;
};

static const struct tp_option options[] = {
    {"preset", 0, "NAME", "size: tiny (default), small, mid, 20b or 120b"},
    {"arch", 0, "NAME", "model: gpt_oss (default), llama or mistral"},
    {"seed", 0, "N", "another seed gives other weights (default 0)"},
    {"shards", 0, "N", "number of files (default: by preset);\n1 writes model.safetensors"},
    {"dtype", 0, "NAME", "BF16 (default), F16 or F32: of all but the experts"},
    {"set", 0, "FIELD=VALUE",
     "override a field of config.json;\n"
     "GROUP.FIELD reaches into rope_scaling"},
    {"tokenizer", 0, "DIR", "copy the files of this folder as well"},
    {"words", 0, NULL, "write a tokenizer of made-up words as well"},
    {"quiet", 'q', NULL, "print errors only"},
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {
    .name = "tensorport synth",
    .arguments = "OUTPUT",
    .summary = "Writes a synthetic checkpoint, in the format of GPT-OSS, to a new folder.",
    .options = options,
    .notes = "The files depend on the options only. 20b has the tensors, sizes and file names of\n"
             "openai/gpt-oss-20b (13.8 GB), tiny has 2 MB. The weights are random: text\n"
             "generated from them is nonsense.\n",
};

static int parse_dtype(const char *value, enum tp_dtype *ret_dtype, struct tp_error *error)
{
    static const char *const names[] = {"BF16", "F16", "F32", NULL};
    static const enum tp_dtype dtypes[] = {TP_BF16, TP_F16, TP_F32};
    size_t index;
    int rc = tp_parse_choice(value, names, &index, error);
    if (rc == 0)
        *ret_dtype = dtypes[index];
    return rc;
}

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    struct command *command = context;
    struct tp_synth_options *synth = &command->options;
    const char *name = option->name;
    size_t index;
    int rc = 0;

    if (strcmp(name, "preset") == 0) {
        rc = tp_parse_choice(value, tp_synth_preset_names, &index, error);
        if (rc == 0)
            synth->preset = (enum tp_synth_preset)index;
    } else if (strcmp(name, "arch") == 0) {
        rc = tp_parse_choice(value, tp_synth_arch_names, &index, error);
        if (rc == 0)
            synth->arch = (enum tp_synth_arch)index;
    } else if (strcmp(name, "seed") == 0) {
        rc = tp_parse_unsigned(value, 0, UINT64_MAX, &synth->seed, error);
    } else if (strcmp(name, "shards") == 0) {
        rc = tp_parse_unsigned(value, 1, UINT32_MAX, &synth->shards, error);
    } else if (strcmp(name, "dtype") == 0) {
        rc = parse_dtype(value, &synth->dtype, error);
    } else if (strcmp(name, "set") == 0) {
        command->settings[synth->n_settings++] = value;
    } else if (strcmp(name, "tokenizer") == 0) {
        synth->tokenizer = value;
    } else if (strcmp(name, "words") == 0) {
        synth->words = true;
    } else {
        command->quiet = true;
    }
    return rc;
}

static int fail(const struct tp_error *error, int status)
{
    fprintf(stderr, "%s: %s\n", program.name, error->text);
    return status;
}

/* A tp_synth_report. */
static int report(void *context, uint64_t done, uint64_t total)
{
    const struct command *command = context;
    if (tp_stop_is_wanted(&command->stop))
        return -EINTR;
    if (command->show_progress) {
        double seconds = tp_clock_seconds() - command->start;
        fprintf(stderr, "\r%s: %3.0f %%, %.1f of %.1f GB, %.2f GB/s ", command->options.output,
                100.0 * (double)done / (double)total, 1e-9 * (double)done, 1e-9 * (double)total,
                seconds > 0 ? 1e-9 * (double)done / seconds : 0.0);
    }
    return 0;
}

static int write_checkpoint(struct command *command, struct tp_synth_summary *ret_summary,
                            struct tp_error *error)
{
    tp_stop_hold(&command->stop);
    int rc = tp_synth(&command->options, ret_summary, error);
    if (command->show_progress)
        fputs("\r\033[K", stderr); /* erases the progress line */
    tp_stop_release(&command->stop);
    return rc;
}

static int run(struct command *command, int argc, char **argv)
{
    struct tp_error error = {""};
    struct tp_synth_summary summary;
    if (argc != 1) {
        fprintf(stderr, "%s: expected one OUTPUT folder, found %d; see '%s --help'\n", program.name,
                argc, program.name);
        return 2;
    }
    command->options.output = argv[0];
    command->options.settings = command->settings;
    command->options.report = report;
    command->options.report_context = command;
    command->show_progress = !command->quiet && isatty(STDERR_FILENO);
    command->start = tp_clock_seconds();
    int rc = write_checkpoint(command, &summary, &error);
    if (rc < 0)
        return fail(&error, rc == -EINVAL ? 2 : 1);
    if (!command->quiet)
        printf("%s: %zu tensors, %" PRIu64 " bytes in %zu file%s, %.1f s\n", argv[0],
               summary.n_tensors, summary.bytes, summary.n_files, summary.n_files == 1 ? "" : "s",
               tp_clock_seconds() - command->start);
    return 0;
}

int tp_command_synth(int argc, char **argv)
{
    struct command command = {.options = {.dtype = TP_BF16}};
    struct tp_error error = {""};
    enum tp_options_result result;
    int status;

    command.settings = calloc((size_t)argc + 1, sizeof *command.settings);
    if (command.settings == NULL) {
        fprintf(stderr, "%s: out of memory\n", program.name);
        return 1;
    }
    int rc = tp_options_parse(&program, argc, argv, handle_option, &command, &result, &argc, &argv,
                              &error);
    if (rc < 0)
        status = fail(&error, 2);
    else
        status = result == TP_OPTIONS_DONE ? 0 : run(&command, argc, argv);
    free(command.settings);
    return status;
}
