/* `tpinfer validate`: holds an engine to what a reference implementation computed, or to itself or
 * the CPU's with plain float32. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/options.h"
#include "infer/cli/commands.h"
#include "infer/cli/engine_arguments.h"
#include "infer/cli/runtime.h"
#include "infer/cli/validate_report.h"
#include "infer/validate/goldens.h"
#include "infer/validate/judge.h"
#include "infer/validate/validate.h"

enum { CASES_MAX = 64 };
#define TOLERANCE_DEFAULT 1e-4

struct command {
    const char *cases[CASES_MAX]; /* those to run */
    size_t n_cases;               /* 0: all */
    double tolerance;             /* below 0: not given */
    double divergence_most;       /* below 0: not given */
    struct tp_engine_arguments engine;

    struct tp_runtime runtime;
    bool against_cpu;                         /* not the same engine */
    const struct tp_backend_kind *plain_kind; /* of what is compared with */
    struct tp_backend *plain;                 /* that, with float32 everywhere; or NULL */
    struct tp_goldens *goldens;
    struct tp_judge judge;
    struct tp_validate_report report;
};

static const struct tp_option options[] = {
    {"case", 0, "NAME", "only this case; may be given more than once"},
    TP_ENGINE_ARGUMENTS_TABLE,
    {"chunk", 0, "N", "tokens read in one step, 1 to 512 (default 512)"},
    {"tolerance", 0, "X",
     "how far numbers may be off, by their size (default 1e-4; with\n"
     "bf16 somewhere: as far as the reference in BF16)"},
    {"against", 0, "ENGINE",
     "f32: compare with this engine and float32 instead, on the same\n"
     "texts; cpu: with the CPU and float32; judges nothing without\n"
     "--max-kl or --tolerance"},
    {"max-kl", 0, "NATS", "largest mean KL divergence allowed with --against"},
    {"json", 0, NULL, "print one object"},
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {
    .name = "tpinfer validate",
    .arguments = "VIEW GOLDENS",
    .summary = "Compares what the model of VIEW computes with a folder of goldens.",
    .options = options,
    .notes = "Exit status: 0 if all holds; 1 if not, with a line for each thing that does not.\n",
};

/* ---- options ---- */

static int parse_number(const char *value, double *ret_number, struct tp_error *error)
{
    char *end;
    errno = 0;
    double number = strtod(value, &end);
    if (end == value || *end != '\0' || errno != 0 || !(number >= 0) || !isfinite(number))
        return tp_error_set(error, -EINVAL, "expected a number from 0 on, found \"%s\"", value);
    *ret_number = number;
    return 0;
}

static int handle_own(struct command *command, const char *name, const char *value,
                      struct tp_error *error)
{
    static const char *const engines[] = {"f32", "cpu", NULL};
    uint64_t chunk;
    size_t engine = 0;
    int rc = 0;
    if (strcmp(name, "case") == 0) {
        if (command->n_cases == CASES_MAX)
            return tp_error_set(error, -EINVAL, "given more than %d times", CASES_MAX);
        command->cases[command->n_cases++] = value;
    } else if (strcmp(name, "chunk") == 0) {
        rc = tp_parse_unsigned(value, 1, TP_STEP_MAX, &chunk, error);
        if (rc == 0)
            command->engine.step_max = (size_t)chunk;
    } else if (strcmp(name, "tolerance") == 0) {
        rc = parse_number(value, &command->tolerance, error);
    } else if (strcmp(name, "max-kl") == 0) {
        rc = parse_number(value, &command->divergence_most, error);
    } else if (strcmp(name, "against") == 0) {
        rc = tp_parse_choice(value, engines, &engine, error);
        command->report.against = true;
        command->against_cpu = engine == 1;
    } else {
        command->report.as_json = true;
    }
    return rc;
}

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    struct command *command = context;
    bool known;
    int rc = tp_engine_arguments_handle(&command->engine, option->name, value, &known, error);
    return known ? rc : handle_own(command, option->name, value, error);
}

static int check_usage(const struct command *command, int n, struct tp_error *error)
{
    if (n != 2)
        return tp_error_set(error, -EINVAL, "expected VIEW and GOLDENS, found %d; see '%s --help'",
                            n, program.name);
    if (command->divergence_most >= 0 && !command->report.against)
        return tp_error_set(error, -EINVAL, "--max-kl goes with --against; see '%s --help'",
                            program.name);
    return 0;
}

/* ---- the cases ---- */

/* A failure of the judge. */
static void fail(void *context, const char *line)
{
    struct command *command = context;
    tp_validate_report_failure(&command->report, line);
}

static struct tp_validate_options validate_options(const struct command *command)
{
    return (struct tp_validate_options){
        .context = command->engine.context,
        .chunk = tp_engine_arguments_request(&command->engine).options.step_max,
        .tolerance = command->tolerance >= 0 ? command->tolerance : TOLERANCE_DEFAULT,
    };
}

/* What an engine is held to when it is compared with another one. */
static void judge_against(struct command *command, const char *where,
                          const struct tp_difference *logits)
{
    char line[256];
    double divergence = tp_difference_divergence(logits);
    double limit = tp_judge_limit(&command->judge, logits);
    if (logits->n_unfinished > 0) {
        snprintf(line, sizeof line,
                 "%.64s: logits: %zu of %zu are NaN or infinite in one engine only", where,
                 logits->n_unfinished, logits->n);
        fail(command, line);
    } else if (command->divergence_most >= 0 && !(divergence <= command->divergence_most)) {
        snprintf(line, sizeof line, "%.64s: mean KL divergence: %.3g, expected at most %.3g", where,
                 divergence, command->divergence_most);
        fail(command, line);
    }
    if (command->tolerance >= 0 && !(logits->largest <= limit)) {
        snprintf(line, sizeof line, "%.64s: logits: off by up to %.3g, expected at most %.3g",
                 where, logits->largest, limit);
        fail(command, line);
    }
}

static int run_case(struct command *command, size_t i, struct tp_error *error)
{
    const struct tp_model_config *config = &command->runtime.model->config;
    struct tp_validate_options how = validate_options(command);
    struct tp_feed_engine engines[2] = {{command->runtime.kind, command->runtime.backend},
                                        {command->plain_kind, command->plain}};
    struct tp_golden_case golden;
    struct tp_case_report found = {0};
    int rc = tp_goldens_read(command->goldens, i, config, &golden, error);
    if (rc < 0)
        return rc;
    rc = command->report.against
             ? tp_validate_against(engines, config, &golden, &how, &found, error)
             : tp_validate_case(engines, config, &golden, &how, &found, error);
    if (rc == 0) {
        tp_validate_report_case(&command->report, &golden, &found);
        if (command->report.against)
            judge_against(command, golden.name, &found.logits);
        else
            tp_judge_case(&command->judge, &golden, &found);
    }
    tp_case_report_clear(&found);
    tp_golden_case_clear(&golden);
    return rc;
}

static bool is_wanted(const struct command *command, const char *name)
{
    for (size_t i = 0; i < command->n_cases; i++) {
        if (strcmp(command->cases[i], name) == 0)
            return true;
    }
    return command->n_cases == 0;
}

static int check_cases(const struct command *command, struct tp_error *error)
{
    size_t n = tp_goldens_count(command->goldens);
    for (size_t i = 0; i < command->n_cases; i++) {
        size_t at = 0;
        while (at < n && strcmp(tp_goldens_name(command->goldens, at), command->cases[i]) != 0)
            at++;
        if (at == n)
            return tp_error_set(error, -EINVAL, "--case: the goldens have no case \"%s\"",
                                command->cases[i]);
    }
    return 0;
}

static int run_rope(struct command *command, struct tp_error *error)
{
    const struct tp_model *model = command->runtime.model;
    struct tp_golden_rope golden;
    struct tp_rope_report found;
    int rc = tp_goldens_read_rope(command->goldens, &model->config, &golden, error);
    if (rc == -ENOENT)
        return 0;
    if (rc < 0)
        return rc;
    rc = tp_validate_rope(&model->rope, &golden, validate_options(command).tolerance, &found);
    tp_golden_rope_clear(&golden);
    if (rc < 0)
        return tp_error_set(error, rc, "out of memory");
    tp_validate_report_rope(&command->report, &found);
    tp_judge_rope(&command->judge, &found);
    return 0;
}

static cJSON *describe_engine(const struct command *command)
{
    cJSON *object = cJSON_CreateObject();
    struct tp_backend_options backend = command->runtime.options;
    cJSON_AddStringToObject(object, "backend", command->runtime.kind->name);
    cJSON_AddStringToObject(object, "activations", backend.bf16_activations ? "bf16" : "f32");
    cJSON_AddStringToObject(object, "prompts",
                            backend.bf16_activations || backend.bf16_prompts ? "bf16" : "f32");
    cJSON_AddStringToObject(object, "dense", backend.int8_dense ? "int8" : "source");
    cJSON_AddStringToObject(object, "kv_type", backend.bf16_cache ? "bf16" : "f32");
    cJSON_AddNumberToObject(object, "chunk", (double)backend.step_max);
    cJSON_AddStringToObject(object, "judged",
                            command->against_cpu      ? "against cpu"
                            : command->report.against ? "against f32"
                            : command->judge.bf16     ? "as bf16"
                                                      : "as f32");
    if (!command->judge.bf16)
        cJSON_AddNumberToObject(object, "tolerance", command->judge.tolerance);
    return object;
}

static int run_all(struct command *command, struct tp_error *error)
{
    int rc = tp_goldens_check(command->goldens, &command->runtime.model->config, error);
    if (rc == 0)
        rc = check_cases(command, error);
    for (size_t i = 0; rc == 0 && i < tp_goldens_count(command->goldens); i++) {
        if (is_wanted(command, tp_goldens_name(command->goldens, i)))
            rc = run_case(command, i, error);
    }
    if (rc == 0 && command->n_cases == 0 && !command->report.against)
        rc = run_rope(command, error);
    if (rc < 0)
        return rc;
    if (!command->report.against)
        tp_judge_end(&command->judge);
    rc = tp_validate_report_end(&command->report, describe_engine(command));
    if (rc < 0)
        return tp_error_set(error, rc, "out of memory");
    if (fflush(stdout) != 0 || ferror(stdout))
        return tp_error_set(error, -EIO, "cannot write: %s", strerror(errno));
    return 0;
}

/* The same threads and steps, but float32 everywhere and nothing that an option makes quicker. */
static int open_plain(struct command *command, struct tp_error *error)
{
    struct tp_engine_arguments plain = {.threads = command->engine.threads,
                                        .pin = command->engine.pin,
                                        .step_max = command->engine.step_max};
    struct tp_backend_options how = tp_engine_arguments_request(&plain).options;
    how.context = command->runtime.options.context;
    command->plain_kind = command->against_cpu ? &tp_backend_cpu : command->runtime.kind;
    return command->plain_kind->open(command->runtime.model, &how, &command->plain, error);
}

/* What the engine that was opened is held to. */
static struct tp_judge judge_of(struct command *command)
{
    const struct tp_backend_options *how = &command->runtime.options;
    bool rounds = how->bf16_activations || how->bf16_prompts || how->bf16_cache;
    return (struct tp_judge){.bf16 = command->tolerance < 0 && rounds,
                             .any_steps = command->runtime.kind->same_bits_in_any_steps,
                             .tolerance = validate_options(command).tolerance,
                             .fail = fail,
                             .context = command};
}

static int run(struct command *command, char **arguments, struct tp_error *error)
{
    struct tp_runtime *runtime = &command->runtime;
    command->engine.context_max = SIZE_MAX; /* of each case its own */
    int rc = tp_goldens_open(arguments[1], &command->goldens, error);
    if (rc == 0)
        rc = tp_runtime_open(runtime, arguments[0], &command->engine, false, error);
    if (rc == 0)
        command->judge = judge_of(command);
    if (rc == 0 && command->report.against)
        rc = open_plain(command, error);
    if (rc == 0)
        rc = run_all(command, error);
    if (command->plain != NULL)
        command->plain_kind->close(command->plain);
    tp_goldens_close(command->goldens);
    tp_runtime_close(runtime);
    return rc;
}

int tp_command_validate(int argc, char **argv)
{
    struct command command = {.tolerance = -1, .divergence_most = -1};
    struct tp_error error = {""};
    enum tp_options_result result;
    int n, status = 0;
    int rc =
        tp_options_parse(&program, argc, argv, handle_option, &command, &result, &n, &argv, &error);
    if (rc == 0 && result == TP_OPTIONS_RUN)
        rc = check_usage(&command, n, &error);
    if (rc < 0)
        status = 2;
    else if (result == TP_OPTIONS_RUN && run(&command, argv, &error) < 0)
        status = 1;
    if (status != 0)
        fprintf(stderr, "%s: %s\n", program.name, error.text);
    else if (command.report.n_failures > 0)
        status = 1;
    tp_validate_report_clear(&command.report);
    return status;
}
