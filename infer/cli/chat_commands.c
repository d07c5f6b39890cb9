#include "infer/cli/chat_commands.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/options.h"
#include "infer/cli/answer_printer.h"

typedef int command_fn(struct tp_chat *chat, const char *argument, struct tp_error *error);

bool tp_chat_is_command(const char *text, size_t length)
{
    return length > 0 && text[0] == '/';
}

/* ---- the preface */

/* What somebody typed, or a file said: no control characters for the terminal. */
static void print_setting(const char *name, const char *text)
{
    struct tp_buffer printable = {0};
    if (text == NULL)
        printf("%s: none\n", name);
    else if (tp_printable_append(&printable, text, strlen(text)) == 0)
        printf("%s: %.*s\n", name, (int)printable.length, printable.bytes);
    tp_buffer_clear(&printable);
}

static int set_system(struct tp_chat *chat, const char *argument, struct tp_error *error)
{
    if (argument[0] == '\0') {
        print_setting("system", chat->system);
        return 0;
    }
    const char *text = strcmp(argument, "\"\"") == 0 ? NULL : argument;
    return tp_chat_set(chat, &chat->system, text, error);
}

static int set_effort(struct tp_chat *chat, const char *argument, struct tp_error *error)
{
    size_t effort;
    if (argument[0] == '\0') {
        print_setting("effort", chat->reasoning_effort != NULL ? chat->reasoning_effort
                                : tp_dialogue_harmony(chat->dialogue) != NULL ? "medium"
                                                                              : NULL);
        return 0;
    }
    int rc = tp_parse_choice(argument, tp_reasoning_efforts, &effort, error);
    return rc < 0 ? tp_error_prefix(error, rc, "/effort")
                  : tp_chat_set(chat, &chat->reasoning_effort, argument, error);
}

/* ---- the conversation */

static int reset(struct tp_chat *chat, const char *argument, struct tp_error *error)
{
    if (argument[0] != '\0')
        return tp_error_set(error, -EINVAL, "/reset: expected nothing more, found %s", argument);
    tp_chat_reset(chat);
    return 0;
}

static int save(struct tp_chat *chat, const char *argument, struct tp_error *error)
{
    if (argument[0] == '\0')
        return tp_error_set(error, -EINVAL, "/save: expected a file, found nothing");
    int rc = tp_chat_save(chat, argument, error);
    if (rc == 0)
        fprintf(stderr, "saved: %zu messages, %zu tokens\n", chat->conversation.n,
                chat->session.length);
    return rc;
}

static int load(struct tp_chat *chat, const char *argument, struct tp_error *error)
{
    if (argument[0] == '\0')
        return tp_error_set(error, -EINVAL, "/load: expected a file, found nothing");
    int rc = tp_chat_load(chat, argument, error);
    if (rc == 0)
        fprintf(stderr, "loaded: %zu messages, %zu tokens\n", chat->conversation.n,
                chat->session.length);
    return rc;
}

/* ---- figures */

static double rate(size_t n, double seconds)
{
    return seconds > 0 ? (double)n / seconds : 0;
}

static int print_statistics(struct tp_chat *chat, const char *argument, struct tp_error *error)
{
    const struct tp_generate_report *last = &chat->last;
    size_t n_read = last->n_prompt - last->n_reused;
    size_t n_decoded = last->n_generated > 1 ? last->n_generated - 1 : 0;
    uint64_t bytes = 0;
    if (argument[0] != '\0')
        return tp_error_set(error, -EINVAL, "/stats: expected nothing more, found %s", argument);
    chat->runtime->kind->sequence_bytes(chat->runtime->backend, chat->session.context, &bytes);
    printf("loaded in %.2f s; context: %zu of %zu tokens, %.1f MB when it is full\n",
           chat->runtime->load_seconds, chat->session.length, chat->session.context,
           1e-6 * (double)bytes);
    printf("last turn: prompt of %zu tokens, %zu of them kept, %zu read in %.2f s, %.1f tokens/s; "
           "%zu written in %.2f s, %.1f tokens/s\n",
           last->n_prompt, last->n_reused, n_read, last->prompt_seconds,
           rate(n_read, last->prompt_seconds), last->n_generated, last->decode_seconds,
           rate(n_decoded, last->decode_seconds));
    printf("%zu turns: %zu tokens of prompts, %zu of them kept; %zu written\n", chat->n_turns,
           chat->n_prompt, chat->n_reused, chat->n_generated);
    return 0;
}

/* ---- all of them */

static command_fn print_help;

static const struct {
    const char *name, *argument;
    command_fn *run; /* NULL: /quit */
    const char *help;
} commands[] = {
    {"/help", "", print_help, "this list"},
    {"/system", "[TEXT]", set_system,
     "what the model is told to be and do; \"\" for nothing; without\nTEXT, print it"},
    {"/effort", "[LEVEL]", set_effort,
     "how much a gpt_oss model reasons: low, medium, high; without\nLEVEL, print it"},
    {"/reset", "", reset, "forget the conversation"},
    {"/save", "FILE", save, "keep the conversation in a file"},
    {"/load", "FILE", load, "go on with a conversation that was kept"},
    {"/stats", "", print_statistics, "how much was read and written, and how fast"},
    {"/quit", "", NULL, "leave; so does Ctrl-D"},
};

static void print_row(const char *name, const char *argument, const char *help)
{
    const char *end = strchr(help, '\n');
    int n = (int)(end != NULL ? (size_t)(end - help) : strlen(help));
    int gap = 17 - (int)strlen(name);
    printf("%s %-*s%.*s\n", name, gap, argument, n, help);
    if (end != NULL)
        printf("%18s%s\n", "", end + 1);
}

static int print_help(struct tp_chat *chat, const char *argument, struct tp_error *error)
{
    (void)chat;
    if (argument[0] != '\0')
        return tp_error_set(error, -EINVAL, "/help: expected nothing more, found %s", argument);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        print_row(commands[i].name, commands[i].argument, commands[i].help);
    printf("A message goes on in the next line after a backslash, or between \"\"\" and \"\"\".\n"
           "Ctrl-C stops an answer.\n");
    return 0;
}

/* Cuts blanks off the end. */
static void trim(char *line)
{
    size_t n = strlen(line);
    while (n > 0 && strchr(" \t\n", line[n - 1]) != NULL)
        line[--n] = '\0';
}

int tp_chat_command(struct tp_chat *chat, char *line, bool *ret_quit, struct tp_error *error)
{
    trim(line);
    size_t n = strcspn(line, " \t\n");
    const char *argument = line + n + strspn(line + n, " \t\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strlen(commands[i].name) != n || memcmp(commands[i].name, line, n) != 0)
            continue;
        if (commands[i].run != NULL)
            return commands[i].run(chat, argument, error);
        *ret_quit = true;
        return 0;
    }
    return tp_error_set(error, -EINVAL, "unknown command %.*s; /help lists them", (int)n, line);
}
