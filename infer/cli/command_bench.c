/* `tpinfer bench`: how fast a model is computed here, and how far that is from what the machine can
 * do. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/clock.h"
#include "fs/base/options.h"
#include "infer/cli/bench_prompts.h"
#include "infer/cli/bench_report.h"
#include "infer/cli/commands.h"
#include "infer/cli/engine_arguments.h"
#include "infer/cli/interrupt.h"

enum { LIST_MAX = 32, LENGTH_MAX = 1 << 24, REPEAT_MAX = 10000 };

/* Measuring the machine takes a moment; what is older than this is measured again. */
static const double LIMITS_AGE_SECONDS = 1;
static const double PROGRESS_SECONDS = 0.1;

struct list {
    size_t n;
    size_t values[LIST_MAX];
};

struct command {
    struct list prompt_lengths, depths, batches;
    bool lengths_given, stages;
    const char *cases_only;           /* an option that was given and does not go with --stages */
    const char *prompts, *json, *csv; /* files */
    struct tp_engine_arguments engine;
    struct tp_bench_settings settings;

    struct tp_runtime runtime;
    struct tp_bench_prompts suite; /* of the file */
    struct tp_bench_report report;
    FILE *json_file, *csv_file;
    bool prints_table;

    const volatile sig_atomic_t *interrupted;
    bool draws_progress, has_drawn;
    double drawn, measured;          /* when */
    struct tp_backend_limits limits; /* the latest */
};

static const struct tp_option options[] = {
    {"prompt-lengths", 'p', "LIST", "prefill of prompts of so many tokens (default 512); 0: none"},
    {"depths", 'd', "LIST", "decode after so many tokens (default 0)"},
    {"tokens", 'n', "N", "tokens that a decode adds to each text (default 64); 0: no\ndecode"},
    {"batch", 'b', "LIST", "texts at once (default 1)"},
    {"prompts", 'f', "FILE",
     "instead of random texts the lines of FILE, prefilled and gone on\n"
     "with; of a .jsonl file, strings or {\"prompt\": \"...\"}"},
    {"repeat", 'r', "N", "runs of each case (default 5)"},
    {"warm-up", 'w', "N", "runs before them that do not count (default 1)"},
    {"seed", 's', "N", "another seed gives other random texts (default 0)"},
    {"stages", 0, NULL,
     "instead of all that, measure each stage of a step by itself, for\n"
     "each batch and depth; on a GPU"},
    TP_ENGINE_ARGUMENTS_TABLE,
    {"json", 0, "FILE", "write all figures; '-': to standard output, instead of the table"},
    {"csv", 0, "FILE", "write a line for each case; '-' as above"},
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {
    .name = "tpinfer bench",
    .arguments = "VIEW",
    .summary = "Measures how fast the model that VIEW shows is computed.",
    .options = options,
    .notes =
        "A LIST is numbers with commas between. VIEW is a mount of tensorport-mount, or a copy of\n"
        "one (cp -r, tensorport convert).\n",
};

/* ---- the command line ---- */

static int parse_list(const char *text, uint64_t minimum, uint64_t maximum, struct list *ret_list,
                      struct tp_error *error)
{
    struct list list = {0};
    for (bool more = true; more; list.n++) {
        char number[32];
        uint64_t value;
        size_t length = strcspn(text, ",");
        if (list.n == LIST_MAX)
            return tp_error_set(error, -EINVAL, "expected at most %d numbers", LIST_MAX);
        snprintf(number, sizeof number, "%.*s", (int)(length < 31 ? length : 31), text);
        int rc = tp_parse_unsigned(number, minimum, maximum, &value, error);
        if (rc < 0)
            return rc;
        list.values[list.n] = (size_t)value;
        more = text[length] == ',';
        text += length + more;
    }
    *ret_list = list;
    return 0;
}

static int parse_size(const char *text, uint64_t minimum, uint64_t maximum, size_t *ret_size,
                      struct tp_error *error)
{
    uint64_t value;
    int rc = tp_parse_unsigned(text, minimum, maximum, &value, error);
    if (rc == 0)
        *ret_size = (size_t)value;
    return rc;
}

static bool is_of_stages(const char *name)
{
    static const char *const names[] = {"depths", "batch", "json", "stages", NULL};
    for (size_t i = 0; names[i] != NULL; i++) {
        if (strcmp(name, names[i]) == 0)
            return true;
    }
    return false;
}

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    struct command *command = context;
    struct tp_bench_settings *settings = &command->settings;
    const char *name = option->name;
    bool known;
    int rc = tp_engine_arguments_handle(&command->engine, name, value, &known, error);
    if (known)
        return rc;
    command->lengths_given |= option == &options[0] || option == &options[1];
    command->cases_only = is_of_stages(name) ? command->cases_only : name;
    if (strcmp(name, "prompt-lengths") == 0)
        return parse_list(value, 0, LENGTH_MAX, &command->prompt_lengths, error);
    if (strcmp(name, "depths") == 0)
        return parse_list(value, 0, LENGTH_MAX, &command->depths, error);
    if (strcmp(name, "batch") == 0)
        return parse_list(value, 1, TP_STEP_MAX, &command->batches, error);
    if (strcmp(name, "tokens") == 0)
        return parse_size(value, 0, LENGTH_MAX, &settings->tokens, error);
    if (strcmp(name, "repeat") == 0)
        return parse_size(value, 1, REPEAT_MAX, &settings->repeat, error);
    if (strcmp(name, "warm-up") == 0)
        return parse_size(value, 0, REPEAT_MAX, &settings->warm_up, error);
    if (strcmp(name, "seed") == 0)
        return tp_parse_unsigned(value, 0, UINT64_MAX, &settings->seed, error);
    if (strcmp(name, "stages") == 0)
        command->stages = true;
    else if (strcmp(name, "prompts") == 0)
        command->prompts = value;
    else if (strcmp(name, "json") == 0)
        command->json = value;
    else
        command->csv = value;
    return 0;
}

static bool is_standard_output(const char *file)
{
    return file != NULL && strcmp(file, "-") == 0;
}

static int check_arguments(const struct command *command, int n, struct tp_error *error)
{
    if (n != 1)
        return tp_error_set(error, -EINVAL, "expected one VIEW, found %d; see '%s --help'", n,
                            program.name);
    if (command->stages && command->cases_only != NULL)
        return tp_error_set(error, -EINVAL, "--%s does not go with --stages; see '%s --help'",
                            command->cases_only, program.name);
    if (command->prompts != NULL && command->lengths_given)
        return tp_error_set(
            error, -EINVAL,
            "--prompts has its own lengths: leave out --prompt-lengths and --depths");
    if (is_standard_output(command->json) && is_standard_output(command->csv))
        return tp_error_set(error, -EINVAL, "only one of --json and --csv can be '-'");
    return 0;
}

/* ---- progress, and the end of patience ---- */

static void erase_progress(struct command *command)
{
    if (command->has_drawn)
        fputs("\r\033[K", stderr);
    command->has_drawn = false;
}

/* Of a tp_bench_observer. */
static bool show_progress(void *context, const struct tp_bench_case *what, size_t run,
                          size_t n_runs)
{
    struct command *command = context;
    double now = tp_clock_seconds();
    if (command->draws_progress && now - command->drawn > PROGRESS_SECONDS) {
        fprintf(stderr, "\r%s, batch %zu, %zu tokens: run %zu of %zu\033[K",
                tp_bench_kind_names[what->kind], what->n, what->length, run + 1, n_runs);
        command->has_drawn = true;
        command->drawn = now;
    }
    return *command->interrupted == 0;
}

/* ---- one case ---- */

static int measure_limits(struct command *command, bool small_pages, struct tp_error *error)
{
    struct tp_backend_limits *now = &command->limits, *best = &command->report.limits;
    int rc = command->runtime.kind->measure(command->runtime.backend, small_pages, now, error);
    if (rc < 0)
        return rc;
    command->measured = tp_clock_seconds();
    if (small_pages) {
        *best = *now;
        return 0;
    }
    if (now->read_bandwidth > best->read_bandwidth)
        best->read_bandwidth = now->read_bandwidth;
    if (now->multiply_adds > best->multiply_adds)
        best->multiply_adds = now->multiply_adds;
    return 0;
}

/* Of a tp_bench_observer. */
static int look_at_limits(void *context, struct tp_backend_limits *ret_limits,
                          struct tp_error *error)
{
    struct command *command = context;
    int rc = 0;
    if (tp_clock_seconds() - command->measured > LIMITS_AGE_SECONDS)
        rc = measure_limits(command, false, error);
    *ret_limits = command->limits;
    return rc;
}

typedef int case_fn(struct command *command, const struct tp_bench_case *what,
                    struct tp_error *error);

static int check_case(struct command *command, const struct tp_bench_case *what,
                      struct tp_error *error)
{
    return tp_bench_case_check(what, &command->settings, &command->runtime, error);
}

static int keep_result(struct command *command, const struct tp_bench_result *result)
{
    struct tp_bench_report *report = &command->report;
    struct tp_bench_result *results =
        realloc(report->results, (report->n + 1) * sizeof *report->results);
    if (results == NULL)
        return -ENOMEM;
    results[report->n++] = *result;
    report->results = results;
    return 0;
}

static int run_case(struct command *command, const struct tp_bench_case *what,
                    struct tp_error *error)
{
    struct tp_bench_report *report = &command->report;
    const struct tp_bench_observer observer = {show_progress, look_at_limits, command};
    struct tp_bench_result result;
    int rc =
        tp_bench_case_run(what, &command->settings, &command->runtime, &observer, &result, error);
    erase_progress(command);
    if (rc < 0)
        return rc;
    if (keep_result(command, &result) < 0) {
        tp_bench_result_clear(&result);
        return tp_error_set(error, -ENOMEM, "out of memory");
    }
    if (command->prints_table)
        tp_bench_print_result(report, &result);
    if (command->csv_file != NULL)
        tp_bench_write_csv(report, &result, command->csv_file);
    return 0;
}

/* ---- all cases ---- */

static int with_random(struct command *command, enum tp_bench_kind kind, size_t n, size_t length,
                       case_fn *work, struct tp_error *error)
{
    struct tp_bench_case what = {.kind = kind, .n = n, .length = length};
    struct tp_bench_prompts prompts = {0};
    if (work == check_case) /* before memory is taken for the texts */
        return work(command, &what, error);
    int rc =
        tp_bench_prompts_random(command->settings.seed, command->runtime.model->config.vocab_size,
                                n, length, &prompts, error);
    what.prompts = prompts.tokens;
    what.lengths = prompts.lengths;
    if (rc == 0)
        rc = work(command, &what, error);
    tp_bench_prompts_clear(&prompts);
    return rc;
}

static int with_random_cases(struct command *command, size_t n, case_fn *work,
                             struct tp_error *error)
{
    const struct list *lengths = &command->prompt_lengths, *depths = &command->depths;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < lengths->n; i++) {
        if (lengths->values[i] > 0)
            rc = with_random(command, TP_BENCH_PREFILL, n, lengths->values[i], work, error);
    }
    for (size_t i = 0; rc == 0 && i < depths->n && command->settings.tokens > 0; i++)
        rc = with_random(command, TP_BENCH_DECODE, n, depths->values[i], work, error);
    return rc;
}

/* `n` prompts of the file at a time; the last time what is left. */
static int with_file_cases(struct command *command, size_t n, case_fn *work, struct tp_error *error)
{
    const struct tp_bench_prompts *suite = &command->suite;
    int rc = 0;
    for (size_t first = 0; rc == 0 && first < suite->n; first += n) {
        struct tp_bench_case what = {.kind = TP_BENCH_PREFILL,
                                     .n = suite->n - first < n ? suite->n - first : n,
                                     .prompts = suite->tokens + first,
                                     .lengths = suite->lengths + first,
                                     .first_prompt = first + 1};
        for (size_t i = 0; i < what.n; i++)
            what.length = what.lengths[i] > what.length ? what.lengths[i] : what.length;
        rc = work(command, &what, error);
        what.kind = TP_BENCH_DECODE;
        if (rc == 0 && command->settings.tokens > 0)
            rc = work(command, &what, error);
    }
    return rc;
}

static int with_all_cases(struct command *command, case_fn *work, struct tp_error *error)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < command->batches.n; i++)
        rc = command->prompts != NULL
                 ? with_file_cases(command, command->batches.values[i], work, error)
                 : with_random_cases(command, command->batches.values[i], work, error);
    return rc;
}

/* ---- stages ---- */

static int keep_stages(struct command *command, const struct tp_bench_stages *stages)
{
    struct tp_bench_report *report = &command->report;
    struct tp_bench_stages *all =
        realloc(report->stages, (report->n_stages + 1) * sizeof *report->stages);
    if (all == NULL)
        return -ENOMEM;
    all[report->n_stages++] = *stages;
    report->stages = all;
    return 0;
}

static int measure_stages(struct command *command, struct tp_error *error)
{
    const struct list *batches = &command->batches, *depths = &command->depths;
    struct tp_bench_stages stages;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < batches->n * depths->n; i++) {
        if (*command->interrupted != 0)
            return -EINTR;
        rc = tp_bench_stages_measure(&command->runtime, batches->values[i / depths->n],
                                     depths->values[i % depths->n], &stages, error);
        if (rc < 0)
            return rc;
        if (command->prints_table)
            tp_bench_stages_print(&stages);
        if (keep_stages(command, &stages) < 0) {
            tp_bench_stages_clear(&stages);
            return tp_error_set(error, -ENOMEM, "out of memory");
        }
    }
    return rc;
}

/* ---- before and after ---- */

static int open_output(const char *name, FILE **ret_file, struct tp_error *error)
{
    if (name == NULL)
        return 0;
    FILE *file = is_standard_output(name) ? stdout : fopen(name, "we");
    if (file == NULL)
        return tp_error_set(error, -errno, "%s: cannot create: %s", name, strerror(errno));
    *ret_file = file;
    return 0;
}

static int close_output(const char *name, FILE *file, struct tp_error *error)
{
    if (file == NULL)
        return 0;
    bool failed = fflush(file) != 0 || ferror(file) != 0;
    if (file != stdout)
        failed |= fclose(file) != 0;
    return failed ? tp_error_set(error, -EIO, "%s: cannot write", name) : 0;
}

/* A first step of one token: what somebody waits for who has just started. */
static int measure_first_token(struct command *command, double start, struct tp_error *error)
{
    static const size_t one = 1;
    const struct tp_runtime *runtime = &command->runtime;
    uint64_t seed = command->settings.seed;
    uint32_t token = tp_bench_random_token(seed, runtime->model->config.vocab_size, 0, 0);
    const uint32_t *tokens = &token;
    struct tp_batch batch;
    int rc = tp_batch_open(runtime->kind, runtime->backend, runtime->model, &runtime->options, 1, 1,
                           &batch, error);
    if (rc < 0)
        return rc;
    rc = tp_batch_feed(&batch, &tokens, &one, NULL, NULL, error);
    tp_batch_close(&batch);
    command->report.first_token_seconds = tp_clock_seconds() - start;
    return rc;
}

/* Tokens of the longest text; of prompts in a file nobody knows yet. */
static size_t longest_text(const struct command *command)
{
    const struct list *lengths = &command->prompt_lengths, *depths = &command->depths;
    size_t longest = 1;
    if (command->prompts != NULL)
        return SIZE_MAX;
    for (size_t i = 0; i < lengths->n; i++)
        longest = lengths->values[i] > longest ? lengths->values[i] : longest;
    for (size_t i = 0; i < depths->n; i++) {
        size_t length = depths->values[i] + command->settings.tokens;
        longest = length > longest ? length : longest;
    }
    return longest;
}

static int open_all(struct command *command, const char *path, struct tp_error *error)
{
    struct tp_runtime *runtime = &command->runtime;
    double start = tp_clock_seconds();
    command->engine.context_max = longest_text(command);
    int rc = tp_runtime_open(runtime, path, &command->engine, command->prompts != NULL, error);
    if (rc == 0)
        rc = measure_first_token(command, start, error);
    if (rc == 0 && command->prompts != NULL)
        rc = tp_bench_prompts_read(command->prompts, runtime->tokenizer,
                                   runtime->model->config.vocab_size, &command->suite, error);
    if (rc == 0)
        rc = command->stages ? tp_bench_stages_check(runtime, error)
                             : with_all_cases(command, check_case, error);
    if (rc == 0)
        rc = open_output(command->json, &command->json_file, error);
    if (rc == 0)
        rc = open_output(command->csv, &command->csv_file, error);
    return rc < 0 ? rc : measure_limits(command, true, error);
}

static int measure_all(struct command *command, struct tp_error *error)
{
    struct tp_bench_report *report = &command->report;
    if (command->prints_table)
        tp_bench_print_machine(report);
    if (command->prints_table && !command->stages)
        tp_bench_print_head();
    if (command->csv_file != NULL)
        tp_bench_write_csv_head(command->csv_file);
    int rc =
        command->stages ? measure_stages(command, error) : with_all_cases(command, run_case, error);
    report->interrupted = rc == -EINTR;
    if (rc < 0 && rc != -EINTR)
        return rc;
    if (command->prints_table)
        tp_bench_print_end(report);
    if (command->json_file != NULL && tp_bench_write_json(report, command->json_file) < 0)
        return tp_error_set(error, -ENOMEM, "out of memory");
    return 0;
}

static int close_all(struct command *command, int rc, struct tp_error *error)
{
    struct tp_error other;
    int json = close_output(command->json, command->json_file, &other);
    int csv = close_output(command->csv, command->csv_file, json < 0 ? NULL : &other);
    if (rc == 0 && (json < 0 || csv < 0)) {
        *error = other;
        rc = -EIO;
    }
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
        rc = tp_error_set(error, -EIO, "cannot write: %s", strerror(errno));
    for (size_t i = 0; i < command->report.n; i++)
        tp_bench_result_clear(&command->report.results[i]);
    for (size_t i = 0; i < command->report.n_stages; i++)
        tp_bench_stages_clear(&command->report.stages[i]);
    free(command->report.results);
    free(command->report.stages);
    tp_bench_prompts_clear(&command->suite);
    tp_runtime_close(&command->runtime);
    return rc;
}

static int run(struct command *command, const char *path, struct tp_error *error)
{
    struct tp_bench_report *report = &command->report;
    *report =
        (struct tp_bench_report){.settings = &command->settings, .runtime = &command->runtime};
    command->settings.context = command->engine.context;
    command->prints_table = !is_standard_output(command->json) && !is_standard_output(command->csv);
    command->draws_progress = isatty(STDERR_FILENO) == 1;
    int rc = open_all(command, path, error);
    if (rc == 0) {
        command->interrupted = tp_interrupt_catch();
        rc = measure_all(command, error);
    }
    rc = close_all(command, rc, error);
    if (command->interrupted != NULL)
        tp_interrupt_release();
    return rc;
}

int tp_command_bench(int argc, char **argv)
{
    struct command command = {.prompt_lengths = {1, {512}},
                              .depths = {1, {0}},
                              .batches = {1, {1}},
                              .settings = {.tokens = 64, .warm_up = 1, .repeat = 5}};
    struct tp_error error = {""};
    enum tp_options_result result;
    int n, status = 0;
    int rc =
        tp_options_parse(&program, argc, argv, handle_option, &command, &result, &n, &argv, &error);
    if (rc == 0 && result == TP_OPTIONS_RUN)
        rc = check_arguments(&command, n, &error);
    if (rc < 0)
        status = 2;
    else if (result == TP_OPTIONS_RUN)
        status = run(&command, argv[0], &error) < 0 ? 1 : 0;
    if (status != 0)
        fprintf(stderr, "%s: %s\n", program.name, error.text);
    return status;
}
