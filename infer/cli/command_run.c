/* `tpinfer run`: goes on with a text. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/options.h"
#include "infer/cli/commands.h"
#include "infer/cli/engine_arguments.h"
#include "infer/cli/runtime.h"
#include "infer/cli/sampling_arguments.h"
#include "infer/cli/standard_input.h"
#include "infer/engine/generate.h"

enum { PREDICT_DEFAULT = 128 };

struct command {
    const char *prompt;
    uint64_t n_predict;
    struct tp_engine_arguments engine;
    struct tp_sampling_arguments sampling;
    bool ignore_eos, quiet;

    struct tp_runtime runtime;
    struct tp_session session;
    struct tp_decoder decoder;
    struct tp_buffer text;
};

static const struct tp_option options[] = {
    {"prompt", 'p', "TEXT", "the text to go on with (default: standard input)"},
    {"predict", 'n', "N", "tokens to generate at most (default 128)"},
    TP_ENGINE_ARGUMENTS_TABLE,
    TP_SAMPLING_ARGUMENTS_TABLE,
    {"ignore-eos", 0, NULL, "go on after the token that ends a text"},
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

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    struct command *command = context;
    const char *name = option->name;
    bool known;
    int rc = tp_engine_arguments_handle(&command->engine, name, value, &known, error);
    if (!known)
        rc = tp_sampling_arguments_handle(&command->sampling, name, value, &known, error);
    if (known)
        return rc;
    if (strcmp(name, "prompt") == 0)
        command->prompt = value;
    else if (strcmp(name, "predict") == 0)
        return tp_parse_unsigned(value, 1, UINT32_MAX, &command->n_predict, error);
    else if (strcmp(name, "ignore-eos") == 0)
        command->ignore_eos = true;
    else
        command->quiet = true;
    return 0;
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
    static const char *const ends[] = {"length", "end of text", "context is full", "stopped",
                                       "interrupted"};
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
    const struct tp_tokenizer *tokenizer = command->runtime.tokenizer;
    struct tp_generate_options how = {
        .sampling = tp_sampling_arguments_for(&command->sampling, &command->runtime.model->config),
        .n_most = (size_t)command->n_predict,
        .chunk = TP_STEP_MAX,
        .ignore_eos = command->ignore_eos};
    struct tp_generate_report report;
    struct tp_ids ids = {0};
    int rc = tp_tokenizer_encode(tokenizer, prompt, length, 0, &ids, error);
    if (rc < 0) {
        tp_error_prefix(error, rc, "prompt");
    } else {
        command->decoder =
            (struct tp_decoder){.tokenizer = tokenizer, .flags = TP_DECODE_SKIP_SPECIAL};
        rc = tp_generate(&command->session, ids.items, ids.n, &how, print_token, command, &report,
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
    int rc = tp_runtime_open(&command->runtime, path, &command->engine, true, error);
    if (rc == 0)
        rc = tp_runtime_session(&command->runtime, &command->session, error);
    if (rc == 0 && command->prompt == NULL)
        rc = tp_read_standard_input(&input, error);
    if (rc == 0)
        rc = command->prompt != NULL
                 ? generate(command, command->prompt, strlen(command->prompt), error)
                 : generate(command, input.bytes, input.length, error);
    tp_buffer_clear(&input);
    tp_buffer_clear(&command->text);
    tp_session_close(&command->session);
    tp_runtime_close(&command->runtime);
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
