/* `tensorport inspect`: a table of tensors and totals, or the manifest, from the headers only; and
 * statistics of the values, for which it reads everything. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "fs/base/amount.h"
#include "fs/base/options.h"
#include "fs/base/progress.h"
#include "fs/base/workers.h"
#include "fs/checkpoint/checkpoint.h"
#include "fs/export/commands.h"
#include "fs/export/inspect/statistics_print.h"
#include "fs/export/inspect/tensor_statistics.h"
#include "fs/view/arguments.h"
#include "fs/view/view.h"

struct command {
    struct tp_view_arguments view;
    bool as_json;
    bool with_statistics;
    uint64_t n_workers; /* 0: the processors */
};

static const struct tp_option options[] = {
    TP_VIEW_ARGUMENTS_TABLE,
    {"stats", 0, NULL,
     "read all values: extremes, mean, deviation, zeros, NaN, and\n"
     "what float16 would lose; of the values as they are stored"},
    {"json", 'j', NULL,
     "print what manifest.json would hold: tensorport-manifest(5);\n"
     "or the statistics, with all their digits"},
    {"workers", 'w', "N", "threads for --stats (default: the processors)"},
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {
    .name = "tensorport inspect",
    .arguments = "SOURCE",
    .summary = "Lists the tensors of a checkpoint: how they are stored and how they are shown.\n"
               "Reads the headers only, whatever the size, but for --stats.",
    .options = options,
};

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    struct command *command = context;
    bool known;
    int rc = tp_view_arguments_handle(&command->view, option->name, value, &known, error);
    if (known)
        return rc;
    if (strcmp(option->name, "workers") == 0)
        return tp_parse_unsigned(value, 1, TP_WORKERS_MAX, &command->n_workers, error);
    if (strcmp(option->name, "stats") == 0)
        command->with_statistics = true;
    else
        command->as_json = true;
    return 0;
}

/* For use inside a call of printf(). */
static const char *format_bytes(uint64_t bytes, char room[TP_AMOUNT_MAX])
{
    tp_format_bytes((double)bytes, room);
    return room;
}

/* The true name, fit for one line of a terminal. */
static const char *format_name(const struct tp_view_tensor *tensor, struct tp_error *room)
{
    tp_error_set(room, 0, "%.*s", (int)tensor->name_length, tensor->name);
    return room->text;
}

static const char *format_shape(const struct tp_view_tensor *tensor, char room[256])
{
    size_t at = (size_t)snprintf(room, 256, "[");
    for (size_t i = 0; i < tensor->rank && at < 230; i++)
        at += (size_t)snprintf(room + at, 256 - at, "%s%" PRIu64, i == 0 ? "" : ", ",
                               tensor->shape[i]);
    snprintf(room + at, 256 - at, at >= 230 ? ", ...]" : "]");
    return room;
}

static const char *stored_type(const struct tp_view_tensor *tensor)
{
    return tensor->pair != NULL ? "MXFP4" : tp_dtype_name(tensor->stored->dtype);
}

static uint64_t stored_bytes(const struct tp_view_tensor *tensor)
{
    return tensor->pair != NULL ? tensor->pair->blocks->nbytes + tensor->pair->scales->nbytes
                                : tensor->stored->nbytes;
}

static void print_table(const struct tp_view *view)
{
    int name_width = 4, shape_width = 5;
    char shape[256], stored[32], shown[32];
    struct tp_error name;
    for (size_t i = 0; i < view->n_tensors; i++) {
        int width = (int)strlen(format_name(&view->tensors[i], &name));
        name_width = width > name_width ? width : name_width;
        width = (int)strlen(format_shape(&view->tensors[i], shape));
        shape_width = width > shape_width ? width : shape_width;
    }
    printf("%-*s  %-*s  %-9s %8s  %-14s %8s  %s\n", name_width, "NAME", shape_width, "SHAPE",
           "STORED", "SIZE", "SHOWN AS", "SIZE", "FILE");
    for (size_t i = 0; i < view->n_tensors; i++) {
        const struct tp_view_tensor *tensor = &view->tensors[i];
        struct tp_error file;
        tp_error_set(&file, 0, "%s", view->files[i].name);
        printf("%-*s  %-*s  %-9s %8s  %-14s %8s  shard_%03lld/%s\n", name_width,
               format_name(tensor, &name), shape_width, format_shape(tensor, shape),
               stored_type(tensor), format_bytes(stored_bytes(tensor), stored), tensor->dtype_name,
               format_bytes(view->files[i].content.data_length, shown),
               (long long)view->files[i].shard, file.text);
    }
}

static void print_totals(const struct tp_view *view)
{
    uint64_t total = 0;
    char stored[32], shown[32];
    for (size_t i = 0; i < view->n_tensors; i++)
        total += stored_bytes(&view->tensors[i]);
    printf("%s%zu tensor%s, %" PRIu64 " parameters; stored: %s in %zu file%s; shown: %s in %zu "
           "shard%s\n",
           view->n_tensors > 0 ? "\n" : "", view->n_tensors, view->n_tensors == 1 ? "" : "s",
           view->total_parameters, format_bytes(total, stored), view->checkpoint->n_shards,
           view->checkpoint->n_shards == 1 ? "" : "s", format_bytes(view->total_size, shown),
           view->n_shards, view->n_shards == 1 ? "" : "s");
}

static void print_manifest(const struct tp_view *view)
{
    const struct tp_content *manifest =
        &tp_view_find_file(view, TP_VIEW_TOP, "manifest.json")->content;
    fwrite(manifest->head, 1, manifest->head_length, stdout);
}

/* 0 when standard output is no terminal. */
static size_t terminal_columns(void)
{
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 ? 0 : size.ws_col;
}

static int print_statistics(const struct command *command, const struct tp_view *view,
                            struct tp_error *error)
{
    struct tp_value_statistics *statistics;
    size_t n_workers = command->n_workers > 0 ? (size_t)command->n_workers : tp_workers_default();
    struct tp_progress *progress =
        tp_progress_start(TP_PROGRESS_BAR, "Reading", tp_tensor_statistics_bytes(view));
    int rc = tp_tensor_statistics(view, n_workers, progress, &statistics, error);
    tp_progress_finish(progress);
    if (rc < 0)
        return rc;
    if (!command->as_json)
        tp_statistics_print_table(view, statistics, terminal_columns(), stdout);
    else if (tp_statistics_print_json(view, statistics, stdout) < 0)
        rc = tp_error_set(error, -ENOMEM, "out of memory");
    free(statistics);
    return rc;
}

static int inspect(const struct command *command, const char *source, struct tp_error *error)
{
    const struct tp_log log = {.program = program.name, .level = TP_LOG_WARNING};
    struct tp_checkpoint *checkpoint;
    struct tp_view *view;
    int rc = tp_checkpoint_open(source, &log, &checkpoint, error);
    if (rc < 0)
        return rc;
    struct tp_view_options shown = command->view.view;
    if (command->with_statistics)
        shown.precision = TP_PRECISION_FLOAT32; /* holds what is stored; float64 has its own way */
    rc = tp_view_new(checkpoint, &shown, &log, &view, error);
    if (rc == 0) {
        if (command->with_statistics) {
            rc = print_statistics(command, view, error);
        } else if (command->as_json) {
            print_manifest(view);
        } else {
            print_table(view);
            print_totals(view);
        }
        tp_view_free(view);
    }
    tp_checkpoint_close(checkpoint);
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
        rc = tp_error_set(error, -EIO, "cannot write: %s", strerror(errno));
    return rc;
}

int tp_command_inspect(int argc, char **argv)
{
    struct command command = {.as_json = false};
    enum tp_options_result result;
    struct tp_error error;
    int n, status = 0;
    tp_view_arguments_init(&command.view);
    int rc =
        tp_options_parse(&program, argc, argv, handle_option, &command, &result, &n, &argv, &error);
    if (rc == 0 && result == TP_OPTIONS_RUN && n != 1)
        rc = tp_error_set(&error, -EINVAL, "expected one SOURCE, found %d; see '%s --help'", n,
                          program.name);
    if (rc < 0) {
        status = 2;
    } else if (result == TP_OPTIONS_RUN) {
        rc = inspect(&command, argv[0], &error);
        status = rc < 0 ? 1 : 0;
    }
    if (status != 0)
        fprintf(stderr, "%s: %s\n", program.name, error.text);
    tp_view_arguments_clear(&command.view);
    return status;
}
