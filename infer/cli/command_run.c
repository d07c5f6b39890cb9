/* `tpinfer run`: goes on with a text. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "fs/base/options.h"
#include "infer/backend.h"
#include "infer/cli/commands.h"
#include "infer/cli/standard_input.h"
#include "infer/engine/generate.h"
#include "infer/tokenizer/tokenizer.h"
#include "infer/weights/mapping.h"

enum {
    STEP_MAX = 512, /* tokens of a prompt taken in at a time */
    CONTEXT_DEFAULT = 4096,
    PREDICT_DEFAULT = 128,
    THREADS_MAX = 1024,
};

struct command {
    const char *prompt;
    uint64_t n_predict, context, threads, seed, top_k;
    double temperature, top_p, min_p, repeat_penalty;
    bool top_k_given, temperature_given, top_p_given, min_p_given, repeat_penalty_given;
    bool bf16_activations, bf16_cache, ignore_eos, quiet, pin;

    struct tp_weights_view *view;
    struct tp_model *model;
    struct tp_tokenizer *tokenizer;
    struct tp_backend *backend;
    struct tp_sequence *sequence;
    struct tp_decoder decoder;
    struct tp_buffer text;
};

static const struct tp_option options[] = {
    {"prompt", 'p', "TEXT", "the text to go on with (default: standard input)"},
    {"predict", 'n', "N", "tokens to generate at most (default 128)"},
    {"context", 'c', "N",
     "tokens the text may have in all (default 4096, or what the\n"
     "model allows)"},
    {"threads", 't', "N", "threads (default: one for each physical core)"},
    {"pin", 0, NULL, "keep each thread on a processor of its own"},
    {"temp", 0, "T",
     "temperature; 0 takes the likeliest token\n"
     "(default: the model's, else 1)"},
    {"top-k", 0, "K", "draw among the K likeliest tokens; 0: all"},
    {"top-p", 0, "P",
     "draw among the fewest likeliest tokens whose probabilities\n"
     "sum up to P"},
    {"min-p", 0, "P",
     "draw among tokens of at least P times the likeliest's\n"
     "probability"},
    {"repeat-penalty", 0, "X", "makes tokens that were there before less likely; 1: not"},
    {"seed", 's', "N", "another seed draws other tokens (default 0)"},
    {"ignore-eos", 0, NULL, "go on after the token that ends a text"},
    {"activations", 0, "TYPE", "f32 (default), or bf16: rounded before products"},
    {"kv-type", 0, "TYPE", "f32 (default), or bf16: half the memory for the context"},
    {"quiet", 'q', NULL, "no statistics at the end"},
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {
    .name = "tpinfer run",
    .arguments = "VIEW",
    .summary = "Goes on with a text, by the model that VIEW shows.",
    .options = options,
    .notes = "VIEW is a mount of tensorport-mount, or a copy of one (cp -r, tensorport convert).\n",
};

static int parse_number(const char *text, double least, double most, double *ret_value,
                        struct tp_error *error)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || errno != 0 || !(value >= least && value <= most))
        return tp_error_set(error, -EINVAL, "expected a number from %g to %g, found \"%s\"", least,
                            most, text);
    *ret_value = value;
    return 0;
}

static int handle_sampling(struct command *command, const char *name, const char *value,
                           bool *ret_known, struct tp_error *error)
{
    const struct {
        const char *name;
        double *number;
        bool *given;
        double most;
    } numbers[] = {
        {"temp", &command->temperature, &command->temperature_given, 1000},
        {"top-p", &command->top_p, &command->top_p_given, 1},
        {"min-p", &command->min_p, &command->min_p_given, 1},
        {"repeat-penalty", &command->repeat_penalty, &command->repeat_penalty_given, 1000},
    };
    *ret_known = true;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (strcmp(name, numbers[i].name) == 0) {
            *numbers[i].given = true;
            return parse_number(value, 0, numbers[i].most, numbers[i].number, error);
        }
    }
    if (strcmp(name, "top-k") == 0) {
        command->top_k_given = true;
        return tp_parse_unsigned(value, 0, UINT32_MAX, &command->top_k, error);
    }
    if (strcmp(name, "seed") == 0)
        return tp_parse_unsigned(value, 0, UINT64_MAX, &command->seed, error);
    *ret_known = false;
    return 0;
}

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    static const char *const types[] = {"f32", "bf16", NULL};
    struct command *command = context;
    const char *name = option->name;
    size_t type = 0;
    bool known;
    int rc = handle_sampling(command, name, value, &known, error);
    if (known)
        return rc;
    if (strcmp(name, "prompt") == 0) {
        command->prompt = value;
    } else if (strcmp(name, "predict") == 0) {
        rc = tp_parse_unsigned(value, 1, UINT32_MAX, &command->n_predict, error);
    } else if (strcmp(name, "context") == 0) {
        rc = tp_parse_unsigned(value, 1, UINT32_MAX, &command->context, error);
    } else if (strcmp(name, "threads") == 0) {
        rc = tp_parse_unsigned(value, 1, THREADS_MAX, &command->threads, error);
    } else if (strcmp(name, "activations") == 0) {
        rc = tp_parse_choice(value, types, &type, error);
        command->bf16_activations = type == 1;
    } else if (strcmp(name, "kv-type") == 0) {
        rc = tp_parse_choice(value, types, &type, error);
        command->bf16_cache = type == 1;
    } else if (strcmp(name, "pin") == 0) {
        command->pin = true;
    } else if (strcmp(name, "ignore-eos") == 0) {
        command->ignore_eos = true;
    } else {
        command->quiet = true;
    }
    return rc;
}

/* ---- opening ---- */

static size_t choose_context(const struct command *command)
{
    size_t most = command->model->config.context;
    if (command->context > 0)
        return (size_t)command->context;
    return most < CONTEXT_DEFAULT ? most : (size_t)CONTEXT_DEFAULT;
}

/* Told in advance: later the kernel would kill somebody. */
static int check_memory(const struct command *command, size_t context, struct tp_error *error)
{
    struct sysinfo info;
    uint64_t bytes;
    int rc = tp_backend_cpu.sequence_bytes(command->backend, context, &bytes);
    if (rc < 0)
        return tp_error_set(error, rc, "a context of %zu tokens is too long", context);
    if (sysinfo(&info) == 0 && bytes > (uint64_t)info.totalram * info.mem_unit)
        return tp_error_set(error, -ENOMEM,
                            "a context of %zu tokens takes %" PRIu64
                            " bytes, more than this machine has; give a smaller --context",
                            context, bytes);
    return 0;
}

static int open_all(struct command *command, const char *path, struct tp_error *error)
{
    struct tp_backend_options backend = {.n_threads = (size_t)command->threads,
                                         .pin = command->pin,
                                         .bf16_activations = command->bf16_activations,
                                         .bf16_cache = command->bf16_cache,
                                         .step_max = STEP_MAX};
    int rc = tp_weights_view_open(path, &command->view, error);
    if (rc == 0)
        rc = tp_tokenizer_open(command->view->path, &command->tokenizer, error);
    if (rc == 0)
        rc = tp_model_open(command->view, 1, &command->model, error);
    if (rc == 0)
        rc = tp_backend_cpu.open(command->model, &backend, &command->backend, error);
    if (rc < 0)
        return rc;
    size_t context = choose_context(command);
    rc = check_memory(command, context, error);
    if (rc == 0)
        rc = tp_backend_cpu.sequence_new(command->backend, context, &command->sequence, error);
    return rc;
}

static void close_all(struct command *command)
{
    tp_backend_cpu.sequence_free(command->sequence);
    if (command->backend != NULL)
        tp_backend_cpu.close(command->backend);
    if (command->model != NULL)
        tp_model_close(command->model);
    tp_tokenizer_free(command->tokenizer);
    if (command->view != NULL)
        tp_weights_view_close(command->view);
    tp_buffer_clear(&command->text);
}

/* ---- running ---- */

static struct tp_sampling choose_sampling(const struct command *command)
{
    const struct tp_sampling_defaults *defaults = &command->model->config.sampling;
    return (struct tp_sampling){
        .temperature = command->temperature_given ? command->temperature
                       : defaults->sample         ? defaults->temperature
                                                  : 0,
        .top_k = command->top_k_given ? (size_t)command->top_k : defaults->top_k,
        .top_p = command->top_p_given ? command->top_p : defaults->top_p,
        .min_p = command->min_p_given ? command->min_p : defaults->min_p,
        .repetition_penalty =
            command->repeat_penalty_given ? command->repeat_penalty : defaults->repetition_penalty,
        .seed = command->seed,
    };
}

static int flush_text(struct command *command)
{
    fwrite(command->text.bytes, 1, command->text.length, stdout);
    command->text.length = 0;
    return fflush(stdout) == 0 && !ferror(stdout);
}

/* A tp_generate_token_fn. */
static bool print_token(void *context, uint32_t token)
{
    struct command *command = context;
    return tp_decoder_feed(&command->decoder, token, &command->text) == 0 && flush_text(command);
}

static void print_statistics(const struct tp_generate_report *report)
{
    static const char *const ends[] = {"length", "end of text", "context is full", "stopped"};
    double decoded = report->n_generated > 1 ? (double)(report->n_generated - 1) : 0;
    fprintf(stderr,
            "prompt: %zu tokens, %.2f s, %.1f tokens/s; generated: %zu tokens, %.2f s, %.1f "
            "tokens/s; ended: %s\n",
            report->n_prompt, report->prompt_seconds,
            (double)report->n_prompt / report->prompt_seconds, report->n_generated,
            report->decode_seconds, decoded / report->decode_seconds, ends[report->end]);
}

static int generate(struct command *command, const char *prompt, size_t length,
                    struct tp_error *error)
{
    struct tp_generate_options how = {.sampling = choose_sampling(command),
                                      .n_most = (size_t)command->n_predict,
                                      .chunk = STEP_MAX,
                                      .ignore_eos = command->ignore_eos};
    struct tp_generate_report report;
    struct tp_ids ids = {0};
    int rc = tp_tokenizer_encode(command->tokenizer, prompt, length, 0, &ids, error);
    if (rc < 0) {
        tp_error_prefix(error, rc, "prompt");
    } else {
        command->decoder =
            (struct tp_decoder){.tokenizer = command->tokenizer, .flags = TP_DECODE_SKIP_SPECIAL};
        rc = tp_generate(&tp_backend_cpu, command->backend, &command->model->config,
                         command->sequence, ids.items, ids.n, &how, print_token, command, &report,
                         error);
    }
    tp_ids_clear(&ids);
    if (rc < 0)
        return rc;
    tp_decoder_finish(&command->decoder, &command->text);
    flush_text(command);
    putchar('\n');
    if (!command->quiet)
        print_statistics(&report);
    if (fflush(stdout) != 0 || ferror(stdout))
        return tp_error_set(error, -EIO, "cannot write: %s", strerror(errno));
    return 0;
}

static int run(struct command *command, const char *path, struct tp_error *error)
{
    struct tp_buffer input = {0};
    tp_mapping_guard("tpinfer");
    int rc = open_all(command, path, error);
    if (rc == 0 && command->prompt == NULL)
        rc = tp_read_standard_input(&input, error);
    if (rc == 0)
        rc = command->prompt != NULL
                 ? generate(command, command->prompt, strlen(command->prompt), error)
                 : generate(command, input.bytes, input.length, error);
    tp_buffer_clear(&input);
    close_all(command);
    return rc;
}

int tp_command_run(int argc, char **argv)
{
    struct command command = {.n_predict = PREDICT_DEFAULT};
    struct tp_error error = {""};
    enum tp_options_result result;
    int n, status = 0;
    int rc =
        tp_options_parse(&program, argc, argv, handle_option, &command, &result, &n, &argv, &error);
    if (rc == 0 && result == TP_OPTIONS_RUN && n != 1)
        rc = tp_error_set(&error, -EINVAL, "expected one VIEW, found %d; see '%s --help'", n,
                          program.name);
    if (rc < 0)
        status = 2;
    else if (result == TP_OPTIONS_RUN)
        status = run(&command, argv[0], &error) < 0 ? 1 : 0;
    if (status != 0)
        fprintf(stderr, "%s: %s\n", program.name, error.text);
    return status;
}
