/* `tpinfer run`: answers a prompt, or goes on with a text. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "infer/cli/answer_text.h"
#include "infer/cli/commands.h"
#include "infer/cli/interrupt.h"
#include "infer/cli/logits_file.h"
#include "infer/cli/run_arguments.h"
#include "infer/cli/run_report.h"
#include "infer/cli/runtime.h"
#include "infer/cli/standard_input.h"
#include "infer/cli/token_ids.h"
#include "infer/engine/generate.h"

enum { PREDICT_DEFAULT = 128 };

struct command {
    struct tp_run_arguments arguments;
    struct tp_runtime runtime;
    struct tp_session session;
    struct tp_dialogue *dialogue; /* NULL: there is no tokenizer */
    struct tp_buffer input;       /* the prompt as it was given */
    struct tp_ids prompt;         /* the prompt as the model sees it */
    struct tp_ids tokens;         /* generated */
    struct tp_ids stop_tokens;
    struct tp_answer_text text;
    struct tp_run_logprobs logprobs;
    struct tp_logits_file logits;
    struct tp_memory_use memory;
    int rc; /* of what happens in between */
};

/* ---- the prompt ---- */

/* What is given on the command line is looked at before anything takes time. */
static int read_input(struct command *command, struct tp_error *error)
{
    const struct tp_run_arguments *arguments = &command->arguments;
    if (arguments->token_ids != NULL) {
        int rc = tp_token_ids_read(arguments->token_ids, &command->prompt, error);
        return rc < 0 ? tp_error_prefix(error, rc, "--token-ids") : 0;
    }
    if (arguments->prompt != NULL)
        return tp_buffer_append_text(&command->input, arguments->prompt);
    if (arguments->file != NULL)
        return tp_read_text_file(arguments->file, &command->input, error);
    if (isatty(STDIN_FILENO) && isatty(STDERR_FILENO))
        fprintf(stderr, "The prompt, ended with Ctrl-D:\n");
    return tp_read_standard_input(&command->input, error);
}

/* Ids need no tokenizer, so what is wrong with it only costs the text. */
static int open_tokenizer_for_ids(struct command *command, struct tp_error *error)
{
    struct tp_runtime *runtime = &command->runtime;
    struct tp_error why = {""};
    int rc = tp_token_ids_check(&command->prompt, runtime->model->config.vocab_size, error);
    if (rc < 0)
        return tp_error_prefix(error, rc, "--token-ids");
    rc = tp_tokenizer_open(runtime->view->path, &runtime->tokenizer, &why);
    if (rc < 0 && rc != -ENOENT && !command->arguments.quiet)
        fprintf(stderr, "%s: without text: %s\n", tp_run_program.name, why.text);
    return 0;
}

static int open_dialogue(struct command *command, struct tp_error *error)
{
    struct tp_dialogue_arguments arguments = command->arguments.dialogue;
    struct tp_error why = {""};
    if (command->runtime.tokenizer == NULL)
        return 0;
    if (command->arguments.raw || command->arguments.token_ids != NULL)
        arguments.template = "none";
    int rc = tp_dialogue_arguments_open(&arguments, &command->runtime.model->config,
                                        command->runtime.tokenizer, &command->dialogue, &why);
    if (rc < 0)
        tp_error_set(error, rc, "%s%s", why.text,
                     arguments.template == NULL ? "; --raw goes on with the prompt as it is" : "");
    return rc;
}

static bool has_format(const struct command *command)
{
    return command->dialogue != NULL && tp_dialogue_format(command->dialogue) != TP_DIALOGUE_NONE;
}

static bool has_preface(const struct tp_dialogue_preface *preface)
{
    return preface->system != NULL || preface->reasoning_effort != NULL || preface->date != NULL;
}

static int make_prompt(struct command *command, struct tp_error *error)
{
    const struct tp_dialogue_preface *preface = &command->arguments.dialogue.preface;
    const struct tp_buffer *input = &command->input;
    struct tp_conversation conversation = {0};
    if (command->arguments.token_ids != NULL)
        return 0;
    int rc = 0;
    if (!has_format(command)) {
        if (has_preface(preface))
            return tp_dialogue_check(command->dialogue, preface, error);
        rc = tp_tokenizer_encode(command->runtime.tokenizer, input->bytes, input->length, 0,
                                 &command->prompt, error);
        return rc < 0 ? tp_error_prefix(error, rc, "prompt") : 0;
    }
    if (input->length == 0)
        return tp_error_set(error, -EINVAL, "the prompt is empty");
    rc = tp_conversation_add(&conversation, TP_ROLE_USER, input->bytes, input->length, NULL);
    if (rc == 0)
        rc = tp_dialogue_prompt(command->dialogue, preface, &conversation, &command->prompt, error);
    tp_conversation_clear(&conversation);
    return rc;
}

/* ---- what ends the answer ---- */

/* A control token has no text that could be found: it is a stop token. */
static int add_stop(struct command *command, const char *text, struct tp_error *error)
{
    const struct tp_tokenizer *tokenizer = command->runtime.tokenizer;
    uint32_t id;
    if (tokenizer == NULL)
        return tp_error_set(error, -EINVAL,
                            "--stop needs a text, and there is no tokenizer; give --stop-token ID");
    if (tp_tokenizer_find(tokenizer, text, &id) && tp_tokenizer_is_special(tokenizer, id))
        return tp_ids_append(&command->stop_tokens, id);
    return tp_stop_strings_add(&command->text.stops, text, strlen(text));
}

static int add_stops(struct command *command, struct tp_error *error)
{
    const struct tp_run_arguments *arguments = &command->arguments;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < arguments->stop_tokens.n; i++)
        rc = tp_ids_append(&command->stop_tokens, arguments->stop_tokens.items[i]);
    for (size_t i = 0; rc == 0 && i < arguments->n_stops; i++)
        rc = add_stop(command, arguments->stops[i], error);
    return rc;
}

static bool is_stop_token(const struct command *command, uint32_t token)
{
    for (size_t i = 0; i < command->stop_tokens.n; i++) {
        if (command->stop_tokens.items[i] == token)
            return true;
    }
    return false;
}

/* ---- generating ---- */

/* A tp_generate_token_fn. A stop token is no part of the text. */
static bool take_token(void *context, uint32_t token)
{
    struct command *command = context;
    if (command->tokens.n == 0) /* all that the prompt took is still there */
        tp_memory_use_look(&command->memory);
    command->rc = tp_ids_append(&command->tokens, token);
    if (command->rc == 0 && !is_stop_token(command, token))
        command->rc = tp_answer_text_feed(&command->text, token);
    return command->rc == 0 && !command->text.stops.found;
}

static int take_logits(void *context, const float *logits, size_t n, struct tp_error *error)
{
    struct command *command = context;
    return tp_logits_file_append(&command->logits, logits, n, error);
}

static int take_choice(void *context, const float *logits, uint32_t token, struct tp_error *error)
{
    struct command *command = context;
    size_t vocabulary = command->runtime.model->config.vocab_size;
    int rc = tp_run_logprobs_add(&command->logprobs, logits, vocabulary, token);
    return rc < 0 ? tp_error_set(error, rc, "out of memory") : 0;
}

static int begin_output(struct command *command, struct tp_error *error)
{
    const struct tp_run_arguments *arguments = &command->arguments;
    struct tp_answer_text *text = &command->text;
    text->silent = arguments->json;
    text->show_reasoning =
        arguments->show_reasoning || (!arguments->hide_reasoning && isatty(STDERR_FILENO));
    int rc = tp_answer_text_begin(text, command->dialogue);
    if (rc == 0 && arguments->wants_logprobs) {
        command->logprobs = (struct tp_run_logprobs){.tokenizer = command->runtime.tokenizer,
                                                     .n_top = arguments->n_logprobs,
                                                     .list = cJSON_CreateArray()};
        rc = command->logprobs.list == NULL ? -ENOMEM : 0;
    }
    if (rc == 0 && arguments->logits != NULL)
        rc = tp_logits_file_open(&command->logits, arguments->logits,
                                 command->runtime.model->config.vocab_size, error);
    return rc;
}

static int generate(struct command *command, const volatile sig_atomic_t *interrupted,
                    struct tp_generate_report *ret_report, struct tp_error *error)
{
    const struct tp_run_arguments *arguments = &command->arguments;
    const struct tp_ids none = {0};
    const struct tp_ids *ends =
        command->dialogue != NULL ? tp_dialogue_stops(command->dialogue) : &none;
    const struct tp_generate_observer observer = {
        .context = command,
        .see_logits = arguments->logits != NULL ? take_logits : NULL,
        .see_choice = arguments->wants_logprobs ? take_choice : NULL};
    const struct tp_generate_options how = {
        .sampling =
            tp_sampling_arguments_for(&arguments->sampling, &command->runtime.model->config),
        .n_most = arguments->has_n_most ? arguments->n_most
                  : has_format(command) ? SIZE_MAX
                                        : PREDICT_DEFAULT,
        .chunk = TP_STEP_MAX,
        .ignore_eos = arguments->ignore_eos,
        .end_tokens = ends->items,
        .n_end_tokens = ends->n,
        .stop_tokens = command->stop_tokens.items,
        .n_stop_tokens = command->stop_tokens.n,
        .lookup = arguments->lookup,
        .interrupted = interrupted,
        .observer = &observer};
    int rc = tp_generate(&command->session, command->prompt.items, command->prompt.n, &how,
                         take_token, command, ret_report, error);
    return rc < 0 ? rc : command->rc;
}

static int finish_output(struct command *command, const struct tp_generate_report *generation,
                         struct tp_error *error)
{
    const struct tp_run_arguments *arguments = &command->arguments;
    int rc = tp_answer_text_finish(&command->text);
    if (rc == 0 && arguments->logits != NULL)
        rc = tp_logits_file_commit(&command->logits, error);
    if (rc < 0)
        return rc;
    tp_memory_use_look(&command->memory);
    struct tp_run_report report = {.prompt = &command->prompt,
                                   .tokens = &command->tokens,
                                   .text = &command->text,
                                   .has_text = command->dialogue != NULL,
                                   .has_reasoning =
                                       command->dialogue != NULL &&
                                       tp_dialogue_format(command->dialogue) == TP_DIALOGUE_HARMONY,
                                   .has_lookup = arguments->lookup > 0,
                                   .logprobs = command->logprobs.list,
                                   .load_seconds = command->runtime.load_seconds,
                                   .memory = command->memory,
                                   .generation = *generation};
    command->logprobs.list = NULL;
    if (arguments->json)
        return tp_run_report_print_json(&report);
    if (!arguments->quiet)
        tp_run_report_print(&report);
    return 0;
}

/* ---- the whole ---- */

static int prepare(struct command *command, const char *path, struct tp_error *error)
{
    const struct tp_run_arguments *arguments = &command->arguments;
    struct tp_runtime *runtime = &command->runtime;
    int rc = read_input(command, error);
    if (rc == 0)
        rc =
            tp_runtime_open(runtime, path, &arguments->engine, arguments->token_ids == NULL, error);
    if (rc == 0 && arguments->token_ids != NULL)
        rc = open_tokenizer_for_ids(command, error);
    if (rc == 0)
        rc = open_dialogue(command, error);
    if (rc == 0)
        rc = make_prompt(command, error);
    if (rc == 0)
        rc = add_stops(command, error);
    if (rc == 0)
        rc = tp_runtime_session(runtime, &command->session, error);
    return rc;
}

static int run(struct command *command, const char *path, struct tp_error *error)
{
    struct tp_generate_report report;
    int rc = prepare(command, path, error);
    if (rc < 0)
        return rc;
    const volatile sig_atomic_t *interrupted = tp_interrupt_catch();
    rc = begin_output(command, error);
    if (rc == 0)
        rc = generate(command, interrupted, &report, error);
    return rc < 0 ? rc : finish_output(command, &report, error);
}

static void clear(struct command *command)
{
    tp_logits_file_close(&command->logits);
    cJSON_Delete(command->logprobs.list);
    tp_answer_text_clear(&command->text);
    tp_session_close(&command->session);
    tp_dialogue_free(command->dialogue);
    tp_runtime_close(&command->runtime);
    tp_buffer_clear(&command->input);
    tp_ids_clear(&command->prompt);
    tp_ids_clear(&command->tokens);
    tp_ids_clear(&command->stop_tokens);
    tp_run_arguments_clear(&command->arguments);
}

int tp_command_run(int argc, char **argv)
{
    struct command command = {.rc = 0};
    struct tp_error error = {""};
    enum tp_options_result result;
    int n, status = 0;
    int rc = tp_options_parse(&tp_run_program, argc, argv, tp_run_arguments_handle,
                              &command.arguments, &result, &n, &argv, &error);
    if (rc == 0 && result == TP_OPTIONS_RUN && n != 1)
        rc = tp_error_set(&error, -EINVAL, "expected one VIEW, found %d; see '%s --help'", n,
                          tp_run_program.name);
    if (rc == 0 && result == TP_OPTIONS_RUN)
        rc = tp_run_arguments_check(&command.arguments, &error);
    if (rc < 0) {
        status = 2;
    } else if (result == TP_OPTIONS_RUN) {
        rc = run(&command, argv[0], &error);
        status = rc < 0 ? 1 : 0;
    }
    if (status != 0)
        fprintf(stderr, "%s: %s\n", tp_run_program.name,
                error.text[0] != '\0' ? error.text
                : rc == -EIO          ? "cannot write to standard output"
                                      : strerror(-rc));
    clear(&command);
    tp_interrupt_release();
    return status;
}
