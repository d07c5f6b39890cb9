/* `tensorport convert`: the command line, the progress and the summary of
 * fs/export/convert/convert.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/amount.h"
#include "fs/base/clock.h"
#include "fs/base/json_text.h"
#include "fs/base/options.h"
#include "fs/base/stop.h"
#include "fs/base/text.h"
#include "fs/base/workers.h"
#include "fs/checkpoint/checkpoint.h"
#include "fs/export/commands.h"
#include "fs/export/convert/convert.h"
#include "fs/export/convert/formats.h"
#include "fs/export/convert/quantize_report.h"
#include "fs/export/convert/quantized_view.h"
#include "fs/view/arguments.h"

struct command {
    struct tp_view_arguments view;
    const char *input, *output;
    enum tp_export_format format;
    bool format_given, precision_given, mxfp4_given;
    bool quantize;
    const char *report; /* the file's name; NULL: none */
    uint64_t workers;
    bool resume, dry_run, quiet, no_checksum, sha256;
    enum tp_progress_style progress;
    struct tp_stop stop;
    double start; /* tp_clock_seconds() */
};

static const struct tp_option options[] = {
    {"input", 'i', "SOURCE", "the checkpoint, instead of the first argument"},
    {"output", 'o', "DIR", "the folder to write, instead of the second argument"},
    {"format", 'f', "FORMAT", "numpy-direct (default), msgpack, jax-pickle or safetensors"},
    TP_VIEW_ARGUMENTS_TABLE,
    {"quantize", 0, "TYPE",
     "mxfp4: quantise weights and write a checkpoint; --include\n"
     "and --exclude then say which, and all tensors are written"},
    {"report", 0, "FILE", "write what quantising lost to FILE, as JSON"},
    {"workers", 'w', "N", "threads (default: one for each processor)"},
    {"resume", 0, NULL, "continue what was interrupted: what is there is checked"},
    {"checksum", 0, NULL, "write XXH3SUMS, for xxh128sum -c and verify (default)"},
    {"no-checksum", 0, NULL,
     "write no XXH3SUMS; what is not decoded is then copied by\n"
     "the kernel"},
    {"sha256", 0, NULL, "write SHA256SUMS as well, for sha256sum -c"},
    {"dry-run", 'n', NULL, "say what would be written, and write nothing"},
    {"progress", 0, "STYLE", "bar (default, on a terminal), json or none"},
    {"quiet", 'q', NULL, "print errors only"},
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {
    .name = "tensorport convert",
    .arguments = "SOURCE DIR",
    .summary = "Writes a checkpoint as files that other programs read: numpy-direct is what the\n"
               "mount shows, file by file.",
    .options = options,
    .notes = "Interrupted or killed, it leaves only whole files, and continues with --resume.\n",
};

static const char *const quantize_names[] = {"mxfp4", NULL};

static const struct tp_log messages = {.program = "tensorport convert", .level = TP_LOG_WARNING};

static int handle_own(struct command *command, const char *name, const char *value,
                      struct tp_error *error)
{
    size_t index = 0;
    int rc = 0;
    if (strcmp(name, "input") == 0) {
        command->input = value;
    } else if (strcmp(name, "output") == 0) {
        command->output = value;
    } else if (strcmp(name, "format") == 0) {
        rc = tp_parse_choice(value, tp_export_format_names, &index, error);
        command->format = (enum tp_export_format)index;
        command->format_given = true;
    } else if (strcmp(name, "quantize") == 0) {
        rc = tp_parse_choice(value, quantize_names, &index, error);
        command->quantize = true;
    } else if (strcmp(name, "report") == 0) {
        command->report = value;
    } else if (strcmp(name, "workers") == 0) {
        rc = tp_parse_unsigned(value, 1, TP_WORKERS_MAX, &command->workers, error);
    } else if (strcmp(name, "resume") == 0) {
        command->resume = true;
    } else if (strcmp(name, "checksum") == 0) {
        command->no_checksum = false;
    } else if (strcmp(name, "no-checksum") == 0) {
        command->no_checksum = true;
    } else if (strcmp(name, "sha256") == 0) {
        command->sha256 = true;
    } else if (strcmp(name, "dry-run") == 0) {
        command->dry_run = true;
    } else if (strcmp(name, "progress") == 0) {
        rc = tp_parse_choice(value, tp_progress_names, &index, error);
        command->progress = (enum tp_progress_style)index;
    } else {
        command->quiet = true;
    }
    return rc;
}

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    struct command *command = context;
    bool known;
    command->precision_given |= strcmp(option->name, "precision") == 0;
    command->mxfp4_given |= strcmp(option->name, "mxfp4") == 0;
    int rc = tp_view_arguments_handle(&command->view, option->name, value, &known, error);
    return known ? rc : handle_own(command, option->name, value, error);
}

/* A quantised model is a checkpoint: safetensors, the other weights and what is MXFP4 already as
 * they are stored. */
static int settle_options(struct command *command, struct tp_error *error)
{
    struct tp_view_options *view = &command->view.view;
    if (!command->quantize) {
        if (command->report != NULL)
            return tp_error_set(error, -EINVAL, "--report: expected --quantize beside it");
        if (!command->precision_given)
            view->precision = tp_export_default_precision(command->format);
        return 0;
    }
    if (command->format_given && command->format != TP_EXPORT_SAFETENSORS)
        return tp_error_set(error, -EINVAL, "--quantize: expected --format safetensors, found %s",
                            tp_export_format_names[command->format]);
    if (command->precision_given && view->precision != TP_PRECISION_SOURCE)
        return tp_error_set(error, -EINVAL, "--quantize: expected --precision source, found %s",
                            tp_precision_names[view->precision]);
    if (command->mxfp4_given && !view->packed)
        return tp_error_set(error, -EINVAL, "--quantize: expected --mxfp4 packed, found %s",
                            tp_mxfp4_names[view->packed]);
    command->format = TP_EXPORT_SAFETENSORS;
    view->precision = TP_PRECISION_SOURCE;
    view->packed = true;
    return 0;
}

/* The two arguments, each of which may be given as an option instead. */
static int take_arguments(struct command *command, int argc, char **argv, struct tp_error *error)
{
    int given = argc + (command->input != NULL) + (command->output != NULL);
    if (given != 2)
        return tp_error_set(error, -EINVAL,
                            "expected SOURCE and DIR, found %d of them; see '%s --help'", given,
                            program.name);
    if (command->input == NULL)
        command->input = *argv++;
    if (command->output == NULL)
        command->output = *argv;
    return 0;
}

/* ---- the options that decide the bytes, for the journal and for people ---- */

static void print_patterns(FILE *stream, const char *option, const char *const *patterns, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        fprintf(stream, " --%s '", option);
        for (const char *at = patterns[i]; *at != '\0'; at++)
            fprintf(stream, (unsigned char)*at < ' ' ? "\\x%02x" : "%c", (unsigned char)*at);
        fputc('\'', stream);
    }
}

static int describe(const struct command *command, char **ret_text)
{
    const struct tp_view_options *view = &command->view.view;
    struct tp_text text;
    size_t length;
    int rc = tp_text_open(&text);
    if (rc == 0) {
        fprintf(text.stream, "--format %s --precision %s --mxfp4 %s --shard-size %.9g",
                tp_export_format_names[command->format], tp_precision_names[view->precision],
                tp_mxfp4_names[view->packed], 1e-9 * (double)view->shard_size);
        if (command->quantize)
            fputs(" --quantize mxfp4", text.stream);
        print_patterns(text.stream, "include", view->include, view->n_include);
        print_patterns(text.stream, "exclude", view->exclude, view->n_exclude);
    }
    return tp_text_close(&text, rc, ret_text, &length);
}

/* ---- what is said at the end ---- */

/* Bytes of the checkpoint that are read; blocks and scales that are quantised have one source. */
static uint64_t bytes_in(const struct tp_view *view)
{
    const struct tp_tensor *previous = NULL;
    uint64_t total = 0;
    for (size_t i = 0; i < view->n_tensors; i++) {
        const struct tp_view_tensor *tensor = &view->tensors[i];
        if (tensor->pair != NULL)
            total += tensor->pair->blocks->nbytes + tensor->pair->scales->nbytes;
        else if (tensor->stored != previous)
            total += tensor->stored->nbytes;
        previous = tensor->stored;
    }
    for (size_t i = 0; i < view->checkpoint->n_others; i++)
        total += view->checkpoint->others[i].size;
    return total;
}

/* Of this program: getrusage() would count what ran before exec as well. */
static uint64_t peak_memory(void)
{
    FILE *stream = fopen("/proc/self/status", "re");
    char line[256];
    unsigned long long kibibytes = 0;
    while (stream != NULL && fgets(line, sizeof line, stream) != NULL &&
           sscanf(line, "VmHWM: %llu", &kibibytes) != 1)
        continue;
    if (stream != NULL)
        fclose(stream);
    return (uint64_t)kibibytes * 1024;
}

static void print_summary(const struct command *command, const struct tp_export_plan *plan,
                          const struct tp_write_totals *totals)
{
    char in[TP_AMOUNT_MAX], out[TP_AMOUNT_MAX], rate[TP_AMOUNT_MAX], memory[TP_AMOUNT_MAX];
    const struct tp_view *view = plan->view;
    double seconds = tp_clock_seconds() - command->start;
    tp_format_bytes((double)bytes_in(view), in);
    tp_format_bytes((double)plan->total, out);
    tp_format_bytes((double)plan->total / seconds, rate);
    tp_format_bytes((double)peak_memory(), memory);
    printf("%s: %zu tensor%s, %" PRIu64 " parameters; %s read, %s written in %.1f s, %s/s; "
           "peak memory %s\n",
           command->output, view->n_tensors, view->n_tensors == 1 ? "" : "s",
           view->total_parameters, in, out, seconds, rate, memory);
    if (totals->n_kept + totals->n_redone > 0)
        printf("%zu files were there and right, %zu were not and were made again\n", totals->n_kept,
               totals->n_redone);
    if (view->options.precision == TP_PRECISION_FLOAT16)
        printf("float16: %" PRIu64 " values overflowed, %" PRIu64 " became zero\n",
               totals->overflowed, totals->became_zero);
}

static void print_json_summary(const struct command *command, const struct tp_export_plan *plan,
                               const struct tp_write_totals *totals)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "event", "done");
    tp_json_add_unsigned(object, "tensors", plan->view->n_tensors);
    tp_json_add_unsigned(object, "parameters", plan->view->total_parameters);
    tp_json_add_unsigned(object, "bytes_read", bytes_in(plan->view));
    tp_json_add_unsigned(object, "bytes_written", plan->total);
    cJSON_AddNumberToObject(object, "seconds", tp_clock_seconds() - command->start);
    tp_json_add_unsigned(object, "peak_memory", peak_memory());
    tp_json_add_unsigned(object, "files_kept", totals->n_kept);
    tp_json_add_unsigned(object, "files_redone", totals->n_redone);
    tp_json_add_unsigned(object, "bytes_cloned", totals->cloned);
    if (plan->view->options.precision == TP_PRECISION_FLOAT16) {
        tp_json_add_unsigned(object, "float16_overflowed", totals->overflowed);
        tp_json_add_unsigned(object, "float16_became_zero", totals->became_zero);
    }
    char *text = cJSON_PrintUnformatted(object);
    if (text != NULL)
        printf("%s\n", text);
    cJSON_free(text);
    cJSON_Delete(object);
}

static void print_plan(const struct tp_export_plan *plan)
{
    char total[TP_AMOUNT_MAX];
    for (size_t i = 0; i < plan->n_artifacts; i++)
        printf("%14" PRIu64 "  %s\n", plan->artifacts[i].size, plan->artifacts[i].path);
    tp_format_bytes((double)plan->total, total);
    printf("%s in %zu files\n", total, plan->n_artifacts);
}

/* ---- the work ---- */

static int report_losses(const struct command *command, const struct tp_quantized_view *quantized,
                         struct tp_error *error)
{
    if (!command->quiet && command->progress == TP_PROGRESS_JSON)
        tp_quantize_report_events(quantized, stdout);
    else if (!command->quiet)
        tp_quantize_report_table(quantized, stdout);
    return command->report == NULL ? 0
                                   : tp_quantize_report_write(quantized, command->report, error);
}

/* `exact` and `quantized` may be NULL. */
static int convert_plan(struct command *command, const struct tp_export_plan *plan,
                        const struct tp_view *exact, const struct tp_quantized_view *quantized,
                        struct tp_error *error)
{
    struct tp_write_totals totals;
    char *description;
    if (command->dry_run) {
        print_plan(plan);
        return 0;
    }
    int rc = describe(command, &description);
    if (rc < 0)
        return tp_error_set(error, rc, "out of memory");
    struct tp_convert_options convert = {
        .plan = plan,
        .output = command->output,
        .description = description,
        .resume = command->resume,
        .xxh3 = !command->no_checksum,
        .sha256 = command->sha256,
        .n_workers = (size_t)command->workers,
        .exact = exact,
        .progress = command->quiet ? TP_PROGRESS_NONE : command->progress,
        .stop = &command->stop,
        .log = &messages,
    };
    rc = tp_convert(&convert, &totals, error);
    free(description);
    if (rc == 0 && quantized != NULL)
        rc = report_losses(command, quantized, error);
    if (rc == 0 && !command->quiet)
        (command->progress == TP_PROGRESS_JSON ? print_json_summary : print_summary)(command, plan,
                                                                                     &totals);
    return rc;
}

static int convert_view(struct command *command, const struct tp_view *view, struct tp_error *error)
{
    struct tp_export_plan plan;
    struct tp_view *exact = NULL;
    int rc = tp_export_plan_new(view, command->format, &plan, error);
    if (rc < 0)
        return rc;
    if (view->options.precision == TP_PRECISION_FLOAT16) {
        struct tp_view_options float32 = view->options;
        float32.precision = TP_PRECISION_FLOAT32;
        rc = tp_view_new(view->checkpoint, &float32, NULL, &exact, error);
    }
    if (rc == 0)
        rc = convert_plan(command, &plan, exact, NULL, error);
    if (exact != NULL)
        tp_view_free(exact);
    tp_export_plan_clear(&plan);
    return rc;
}

/* `view` shows everything as it is stored. */
static int quantize_view(struct command *command, const struct tp_view *view,
                         struct tp_error *error)
{
    const struct tp_view_options *patterns = &command->view.view;
    struct tp_quantize_patterns which = {patterns->include, patterns->n_include, patterns->exclude,
                                         patterns->n_exclude};
    struct tp_quantized_view *quantized;
    struct tp_export_plan plan;
    int rc = tp_quantized_view_new(view, &which, &messages, &quantized, error);
    if (rc < 0)
        return rc;
    rc = tp_quantized_plan_new(quantized, &plan, error);
    if (rc == 0) {
        rc = convert_plan(command, &plan, NULL, quantized, error);
        tp_export_plan_clear(&plan);
    }
    tp_quantized_view_free(quantized);
    return rc;
}

static int convert(struct command *command, struct tp_error *error)
{
    struct tp_view_options shown = command->view.view;
    struct tp_checkpoint *checkpoint;
    struct tp_view *view;
    int rc = tp_checkpoint_open(command->input, &messages, &checkpoint, error);
    if (rc < 0)
        return rc;
    if (command->quantize)
        shown.n_include = shown.n_exclude = 0;
    /* Shards of the stored sizes are none that is written: nothing to warn of. */
    rc = tp_view_new(checkpoint, &shown, command->quantize ? NULL : &messages, &view, error);
    if (rc == 0) {
        rc = (command->quantize ? quantize_view : convert_view)(command, view, error);
        tp_view_free(view);
    }
    tp_checkpoint_close(checkpoint);
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
        rc = tp_error_set(error, -EIO, "cannot write: %s", strerror(errno));
    return rc;
}

static int run(struct command *command, struct tp_error *error)
{
    command->start = tp_clock_seconds();
    if (command->workers == 0)
        command->workers = tp_workers_default();
    tp_stop_hold(&command->stop);
    int rc = convert(command, error);
    if (rc < 0 && error->text[0] != '\0')
        fprintf(stderr, "%s: %s\n", program.name, error->text);
    tp_stop_release(&command->stop);
    return rc < 0 ? 1 : 0;
}

int tp_command_convert(int argc, char **argv)
{
    struct command command = {.workers = 0};
    struct tp_error error = {""};
    enum tp_options_result result;
    int n, status = 0;
    tp_view_arguments_init(&command.view);
    int rc =
        tp_options_parse(&program, argc, argv, handle_option, &command, &result, &n, &argv, &error);
    if (rc == 0 && result == TP_OPTIONS_RUN)
        rc = settle_options(&command, &error);
    if (rc == 0 && result == TP_OPTIONS_RUN)
        rc = take_arguments(&command, n, argv, &error);
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", program.name, error.text);
        status = 2;
    } else if (result == TP_OPTIONS_RUN) {
        status = run(&command, &error);
    }
    tp_view_arguments_clear(&command.view);
    return status;
}
