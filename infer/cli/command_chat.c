/* `tpinfer chat`: a conversation at a terminal, or line by line for a program. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/options.h"
#include "infer/cli/answer_printer.h"
#include "infer/cli/chat.h"
#include "infer/cli/chat_commands.h"
#include "infer/cli/commands.h"
#include "infer/cli/dialogue_arguments.h"
#include "infer/cli/message_reader.h"
#include "infer/cli/prompt_signals.h"
#include "infer/cli/sampling_arguments.h"

enum reasoning { REASONING_DEFAULT, REASONING_SHOW, REASONING_HIDE };

struct command {
    uint64_t n_predict;
    enum reasoning reasoning;
    struct tp_engine_arguments engine;
    struct tp_sampling_arguments sampling;
    struct tp_dialogue_arguments dialogue_arguments;

    bool at_terminal; /* somebody types, and reads what comes */
    bool failed;      /* something did, and went on */
    struct tp_runtime runtime;
    struct tp_dialogue *dialogue;
    struct tp_chat chat;
    struct tp_answer_printer printer;
    struct tp_line_reader *lines;
};

static const struct tp_option options[] = {
    {"predict", 'n', "N", "tokens of one answer at most (default: what fits the context)"},
    TP_DIALOGUE_ARGUMENTS_TABLE,
    {"reasoning", 0, "WHAT",
     "show what the model thinks, or hide it (default: show it on\n"
     "a terminal)"},
    TP_ENGINE_ARGUMENTS_TABLE,
    TP_SAMPLING_ARGUMENTS_TABLE,
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {
    .name = "tpinfer chat",
    .arguments = "VIEW",
    .summary = "Has a conversation with the model that VIEW shows.",
    .options = options,
    .notes = "VIEW is a mount of tensorport-mount, or a copy of one (cp -r, tensorport convert).\n"
             "/help, typed in the chat, lists its commands.\n",
};

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    static const char *const what[] = {"show", "hide", NULL};
    struct command *command = context;
    size_t choice;
    bool known;
    int rc = tp_engine_arguments_handle(&command->engine, option->name, value, &known, error);
    if (!known)
        rc = tp_sampling_arguments_handle(&command->sampling, option->name, value, &known, error);
    if (!known)
        rc = tp_dialogue_arguments_handle(&command->dialogue_arguments, option->name, value, &known,
                                          error);
    if (known)
        return rc;
    if (strcmp(option->name, "predict") == 0)
        return tp_parse_unsigned(value, 1, UINT32_MAX, &command->n_predict, error);
    rc = tp_parse_choice(value, what, &choice, error);
    if (rc == 0)
        command->reasoning = choice == 0 ? REASONING_SHOW : REASONING_HIDE;
    return rc;
}

/* ---- the loop */

static void report(struct command *command, const struct tp_error *error)
{
    fprintf(stderr, "%s: %s\n", program.name, error->text);
    command->failed = true;
}

/* Why an answer ends where nobody would expect it. */
static void print_end(const struct command *command, enum tp_chat_end end)
{
    if (end == TP_CHAT_LENGTH)
        fprintf(stderr, "[the answer was cut after %zu tokens: -n]\n",
                command->chat.last.n_generated);
    else if (end == TP_CHAT_CONTEXT)
        fprintf(stderr,
                "[the context of %zu tokens is full: /reset begins anew, /save and a larger "
                "--context go on]\n",
                command->chat.session.context);
}

/* -EIO when nobody reads the answers any more; everything else is told, and the chat goes on. */
static int say(struct command *command, const struct tp_buffer *text)
{
    struct tp_error error = {""};
    enum tp_chat_end end = TP_CHAT_STOPPED;
    int rc = tp_chat_say(&command->chat, text->bytes, text->length, tp_answer_printer_take,
                         &command->printer, &end, &error);
    tp_answer_printer_end(&command->printer);
    tp_prompt_signals_take(SIGINT);
    if (command->printer.failed)
        return -EIO;
    if (rc < 0)
        report(command, &error);
    else
        print_end(command, end);
    return 0;
}

static bool is_blank(const struct tp_buffer *text)
{
    for (size_t i = 0; i < text->length; i++) {
        if (strchr(" \t\n", text->bytes[i]) == NULL || text->bytes[i] == '\0')
            return false;
    }
    return true;
}

static int obey(struct command *command, struct tp_buffer *text, bool *ret_quit)
{
    struct tp_error error = {""};
    if (memchr(text->bytes, '\0', text->length) != NULL) {
        tp_error_set(&error, -EINVAL, "expected a command without NUL");
        report(command, &error);
        return 0;
    }
    if (tp_buffer_append(text, "", 1) < 0)
        return -ENOMEM;
    if (tp_chat_command(&command->chat, text->bytes, ret_quit, &error) < 0)
        report(command, &error);
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : -EIO;
}

static int converse(struct command *command, struct tp_typed *typed, struct tp_error *error)
{
    enum tp_line line = TP_LINE_READ;
    bool quit = false;
    while (!quit && !tp_prompt_signals_end()) {
        int rc = tp_message_read(command->lines, "> ", ". ", typed, &line, error);
        if (rc < 0)
            return rc;
        if (line == TP_LINE_END)
            return 0;
        if (line == TP_LINE_CLEARED || is_blank(&typed->text))
            continue;
        if (!typed->quoted && tp_chat_is_command(typed->text.bytes, typed->text.length))
            rc = obey(command, &typed->text, &quit);
        else
            rc = say(command, &typed->text);
        if (rc < 0)
            return tp_error_set(error, rc, "cannot write: %s", strerror(-rc));
    }
    return 0;
}

/* ---- before and after */

static enum tp_line_style line_style(const struct command *command)
{
    const char *term = getenv("TERM");
    if (!command->at_terminal)
        return TP_LINES_PLAIN;
    return term == NULL || term[0] == '\0' || strcmp(term, "dumb") == 0 ? TP_LINES_PROMPTED
                                                                        : TP_LINES_EDITED;
}

static int open_chat(struct command *command, const char *path, struct tp_error *error)
{
    const struct tp_dialogue_arguments *how = &command->dialogue_arguments;
    int rc = tp_runtime_open(&command->runtime, path, &command->engine, true, error);
    if (rc < 0)
        return rc;
    const struct tp_model_config *config = &command->runtime.model->config;
    const struct tp_generate_options generate = {
        .sampling = tp_sampling_arguments_for(&command->sampling, config),
        .n_most = command->n_predict > 0 ? (size_t)command->n_predict : SIZE_MAX,
        .chunk = TP_STEP_MAX,
        .interrupted = tp_prompt_signals_flag()};
    rc = tp_dialogue_arguments_open(how, config, command->runtime.tokenizer, &command->dialogue,
                                    error);
    return rc < 0 ? rc
                  : tp_chat_open(&command->runtime, command->dialogue, &how->preface, &generate,
                                 &command->chat, error);
}

static int run(struct command *command, const char *path, struct tp_error *error)
{
    struct tp_typed typed = {0};
    command->at_terminal = isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1;
    bool show = command->reasoning == REASONING_DEFAULT ? command->at_terminal
                                                        : command->reasoning == REASONING_SHOW;
    tp_answer_printer_init(&command->printer, show);
    int rc = open_chat(command, path, error);
    if (rc == 0 && command->at_terminal)
        rc = tp_prompt_signals_open(error);
    if (rc == 0)
        rc = tp_line_reader_new(line_style(command), &command->lines, error);
    if (rc == 0 && command->at_terminal)
        printf("/help lists the commands, Ctrl-D leaves.\n");
    if (rc == 0)
        rc = converse(command, &typed, error);
    tp_buffer_clear(&typed.text);
    tp_line_reader_free(command->lines);
    tp_answer_printer_clear(&command->printer);
    tp_chat_close(&command->chat);
    tp_dialogue_free(command->dialogue);
    tp_runtime_close(&command->runtime);
    tp_prompt_signals_close();
    return rc;
}

int tp_command_chat(int argc, char **argv)
{
    struct command command = {0};
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
        rc = run(&command, argv[0], &error);
    if (rc < 0)
        fprintf(stderr, "%s: %s\n", program.name, error.text);
    if (rc < 0 && status == 0)
        status = 1;
    /* Somebody at a terminal has seen what failed; a program learns of it. */
    return status != 0 || (command.failed && !command.at_terminal) ? (status != 0 ? status : 1) : 0;
}
