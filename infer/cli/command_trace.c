/* `tpinfer trace`: writes down what happens inside while a text is read. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/options.h"
#include "infer/cli/commands.h"
#include "infer/cli/engine_arguments.h"
#include "infer/cli/runtime.h"
#include "infer/cli/token_ids.h"
#include "infer/cli/trace_files.h"
#include "infer/validate/feed.h"

struct command {
    const char *dump, *prompt, *token_ids;
    struct tp_engine_arguments engine;
    bool force, quiet;

    struct tp_runtime runtime;
    struct tp_ids ids;
    struct tp_trace_files files;
};

static const struct tp_option options[] = {
    {"dump", 0, "DIR", "the folder to write to"},
    {"prompt", 'p', "TEXT", "the text to read"},
    {"token-ids", 0, "IDS", "its tokens instead: \"1,2,3\", or @FILE.npy"},
    {"force", 0, NULL, "replace an earlier trace in DIR"},
    TP_ENGINE_ARGUMENTS_TABLE,
    {"quiet", 'q', NULL, "do not say what was written"},
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {
    .name = "tpinfer trace",
    .arguments = "--dump=DIR VIEW",
    .summary = "Writes down what happens inside the model while it reads a text.",
    .options = options,
    .notes = "DIR gets a .npy file for each stage of each layer, and index.json.\n",
};

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    struct command *command = context;
    const char *name = option->name;
    bool known;
    int rc = tp_engine_arguments_handle(&command->engine, name, value, &known, error);
    if (known)
        return rc;
    if (strcmp(name, "dump") == 0)
        command->dump = value;
    else if (strcmp(name, "prompt") == 0)
        command->prompt = value;
    else if (strcmp(name, "token-ids") == 0)
        command->token_ids = value;
    else if (strcmp(name, "force") == 0)
        command->force = true;
    else
        command->quiet = true;
    return 0;
}

static int check_usage(const struct command *command, int n, struct tp_error *error)
{
    if (n != 1)
        return tp_error_set(error, -EINVAL, "expected one VIEW, found %d; see '%s --help'", n,
                            program.name);
    if (command->dump == NULL)
        return tp_error_set(error, -EINVAL, "expected --dump DIR; see '%s --help'", program.name);
    if ((command->prompt != NULL) == (command->token_ids != NULL))
        return tp_error_set(error, -EINVAL, "expected --prompt or --token-ids; see '%s --help'",
                            program.name);
    return 0;
}

/* ---- the text ---- */

static int read_text(struct command *command, struct tp_error *error)
{
    const struct tp_runtime *runtime = &command->runtime;
    const struct tp_ids *ids = &command->ids;
    int rc;
    if (command->prompt != NULL)
        rc = tp_tokenizer_encode(runtime->tokenizer, command->prompt, strlen(command->prompt), 0,
                                 &command->ids, error);
    else
        rc = tp_token_ids_read(command->token_ids, &command->ids, error);
    if (rc < 0)
        return tp_error_prefix(error, rc, command->prompt != NULL ? "prompt" : "--token-ids");
    rc = tp_token_ids_check(ids, runtime->model->config.vocab_size, error);
    if (rc < 0)
        return rc;
    if (ids->n > runtime->context)
        return tp_error_set(error, -ENOSPC,
                            "the text has %zu tokens, the context room for %zu; give a larger "
                            "--context",
                            ids->n, runtime->context);
    return 0;
}

/* ---- the trace ---- */

/* A tp_feed_row_fn. */
static void take_logits(void *context, size_t position, const float *const *rows)
{
    tp_trace_files_add_logits(context, position, rows[0]);
}

static cJSON *describe(const struct command *command)
{
    cJSON *object = cJSON_CreateObject();
    struct tp_backend_options backend = command->runtime.options;
    const struct tp_model_config *config = &command->runtime.model->config;
    cJSON_AddNumberToObject(object, "format_version", 1);
    cJSON_AddStringToObject(object, "model_type", tp_architecture_names[config->architecture]);
    cJSON_AddStringToObject(object, "activations", backend.bf16_activations ? "bf16" : "f32");
    cJSON_AddStringToObject(object, "dense", backend.int8_dense ? "int8" : "source");
    cJSON_AddStringToObject(object, "kv_type", backend.bf16_cache ? "bf16" : "f32");
    cJSON *tokens = cJSON_AddArrayToObject(object, "tokens");
    for (size_t i = 0; i < command->ids.n; i++)
        cJSON_AddItemToArray(tokens, cJSON_CreateNumber(command->ids.items[i]));
    return object;
}

static int write_trace(struct command *command, struct tp_error *error)
{
    struct tp_runtime *runtime = &command->runtime;
    struct tp_feed_engine engine = {runtime->kind, runtime->backend};
    struct tp_feed feed;
    size_t n = command->ids.n;
    int rc = tp_feed_open(&engine, 1, &runtime->model->config, n, TP_STEP_MAX, &feed, error);
    if (rc < 0)
        return rc;
    tp_trace_files_attach(&command->files, &feed.sessions[0], n);
    rc = tp_feed_text(&feed, command->ids.items, n, 0, take_logits, &command->files, error);
    tp_feed_close(&feed);
    if (rc == 0)
        rc = tp_trace_files_end(&command->files, describe(command), error);
    if (rc < 0)
        return tp_error_prefix(error, rc, "%s", command->dump);
    if (!command->quiet)
        fprintf(stderr, "%zu files in %s: %zu tokens\n", command->files.n, command->dump, n);
    return 0;
}

static int run(struct command *command, const char *path, struct tp_error *error)
{
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is an error like a full disk */
    int rc =
        tp_runtime_open(&command->runtime, path, &command->engine, command->prompt != NULL, error);
    if (rc == 0)
        rc = read_text(command, error);
    if (rc == 0)
        rc = tp_trace_files_open(&command->files, command->dump, command->force, error);
    if (rc == 0)
        rc = write_trace(command, error);
    tp_trace_files_close(&command->files);
    tp_ids_clear(&command->ids);
    tp_runtime_close(&command->runtime);
    return rc;
}

int tp_command_trace(int argc, char **argv)
{
    struct command command = {0};
    struct tp_error error = {""};
    enum tp_options_result result;
    int n, status = 0;
    int rc =
        tp_options_parse(&program, argc, argv, handle_option, &command, &result, &n, &argv, &error);
    if (rc == 0 && result == TP_OPTIONS_RUN)
        rc = check_usage(&command, n, &error);
    if (rc < 0)
        status = 2;
    else if (result == TP_OPTIONS_RUN)
        status = run(&command, argv[0], &error) < 0 ? 1 : 0;
    if (status != 0)
        fprintf(stderr, "%s: %s\n", program.name, error.text);
    return status;
}
