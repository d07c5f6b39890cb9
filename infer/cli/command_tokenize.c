/* `tpinfer tokenize`: text to ids and back, as the engine does it, for people and for tests. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"
#include "fs/base/options.h"
#include "infer/chat/conversation.h"
#include "infer/cli/chat_text.h"
#include "infer/cli/commands.h"
#include "infer/cli/print.h"
#include "infer/cli/standard_input.h"
#include "infer/tokenizer/tokenizer.h"

enum {
    JSON,
    DECODE,
    BYTES,
    SKIP_SPECIAL,
    NO_SPECIAL,
    NO_BOS,
    REPLACE_INVALID,
    LINES,
    CHAT,
    TEMPLATE,
    EFFORT,
    DATE,
    NO_REPLY,
    PARSE,
    N_OPTIONS
};
static const struct tp_option options[] = {
    [JSON] = {"json", 0, NULL, "print {\"tokens\": [...]}, or {\"text\": ...} with --decode"},
    [DECODE] = {"decode", 'd', NULL, "read ids as they are printed, and print their text"},
    [BYTES] = {"bytes", 0, NULL,
               "with --decode: print the bytes as they are, even if they are\n"
               "not UTF-8"},
    [SKIP_SPECIAL] = {"skip-special", 0, NULL, "with --decode: leave special tokens out"},
    [NO_SPECIAL] = {"no-special", 0, NULL, "special tokens written in the text are ordinary text"},
    [NO_BOS] = {"no-bos", 0, NULL, "leave out what the model puts around a text, such as <s>"},
    [REPLACE_INVALID] = {"replace-invalid", 0, NULL,
                         "bytes that are not UTF-8 become U+FFFD, instead of an error"},
    [LINES] = {"lines", 0, NULL,
               "many texts, each a JSON string on a line of its own (with\n"
               "--decode: arrays of ids); a line of output for each"},
    [CHAT] = {"chat", 0, NULL,
              "read a conversation, [{\"role\": ..., \"content\": ...}, ...], and\n"
              "print its prompt's ids; with --decode its text; with --json\n"
              "both"},
    [TEMPLATE] = {"template", 0, "NAME",
                  "how a prompt is written: harmony (default), llama3,\n"
                  "mistral-instruct, chatml, or a file"},
    [EFFORT] = {"effort", 0, "LEVEL", "harmony's reasoning effort: low, medium, high"},
    [DATE] = {"date", 0, "DATE", "harmony's current date; none unless it is given"},
    [NO_REPLY] = {"no-reply", 0, NULL, "do not end the prompt where the model goes on"},
    [PARSE] = {"parse", 0, NULL,
               "read ids that a model wrote in harmony's format, and print\n"
               "its messages"},
    [N_OPTIONS] = {NULL, 0, NULL, NULL}};
static const struct tp_program program = {
    .name = "tpinfer tokenize",
    .arguments = "MODEL",
    .summary = "Turns standard input into token ids, and back, as MODEL's tokenizer.json says.",
    .options = options,
    .notes =
        "MODEL is a folder with a tokenizer.json, such as a mounted checkpoint, or the file.\n"};

struct command {
    bool chosen[N_OPTIONS];
    struct tp_chat_text_options chat;
    struct tp_tokenizer *tokenizer;
    struct tp_error *error;
};

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    struct command *command = context;
    size_t effort;
    int rc = 0;
    command->chosen[option - options] = true;
    if (option == &options[TEMPLATE])
        command->chat.template = value;
    else if (option == &options[DATE])
        command->chat.date = value;
    else if (option == &options[NO_REPLY])
        command->chat.no_reply = true;
    else if (option == &options[EFFORT] &&
             (rc = tp_parse_choice(value, tp_reasoning_efforts, &effort, error)) == 0)
        command->chat.reasoning_effort = value;
    return rc;
}

/* ---- one text */

static int encode(const struct command *command, const char *text, size_t length)
{
    struct tp_buffer repaired = {0};
    struct tp_utf8_repair repair = {0};
    struct tp_ids ids = {0};
    unsigned flags = (command->chosen[NO_SPECIAL] ? TP_ENCODE_ORDINARY : 0u) |
                     (command->chosen[NO_BOS] ? TP_ENCODE_BARE : 0u);
    int rc = 0;
    if (command->chosen[REPLACE_INVALID]) {
        rc = tp_utf8_repair_feed(&repair, text, length, &repaired);
        if (rc == 0)
            rc = tp_utf8_repair_finish(&repair, &repaired);
        text = repaired.bytes;
        length = repaired.length;
    }
    if (rc == 0)
        rc = tp_tokenizer_encode(command->tokenizer, text, length, flags, &ids, command->error);
    if (rc == 0)
        tp_print_ids(&ids, command->chosen[JSON]);
    tp_ids_clear(&ids);
    tp_buffer_clear(&repaired);
    return rc;
}

static int write_prompt(const struct command *command, const char *json, size_t length)
{
    struct tp_ids ids = {0};
    struct tp_buffer text = {0};
    int rc =
        tp_chat_text_write(command->tokenizer, &command->chat, json, length, &ids, command->error);
    if (rc == 0)
        rc = tp_tokenizer_decode(command->tokenizer, ids.items, ids.n, 0, &text);
    if (rc == 0 && command->chosen[JSON])
        tp_print_ids_and_text(&ids, &text);
    else if (rc == 0 && command->chosen[DECODE] && command->chosen[LINES])
        tp_print_text_json(&text, NULL);
    else if (rc == 0 && command->chosen[DECODE])
        fwrite(text.bytes, 1, text.length, stdout);
    else if (rc == 0)
        tp_print_ids(&ids, false);
    tp_ids_clear(&ids);
    tp_buffer_clear(&text);
    return rc;
}

static int parse(const struct command *command, const char *text, size_t length)
{
    struct tp_ids ids = {0};
    int rc = tp_parse_ids(text, length, &ids, command->error);
    if (rc == 0)
        rc = tp_chat_text_print_parsed(command->tokenizer, &ids, command->error);
    tp_ids_clear(&ids);
    return rc;
}

static int expect_tokens(const struct command *command, const struct tp_ids *ids)
{
    for (size_t i = 0; i < ids->n; i++) {
        if (!tp_tokenizer_has(command->tokenizer, ids->items[i]))
            return tp_error_set(command->error, -EINVAL,
                                "expected ids of tokens below %zu, found %u",
                                tp_tokenizer_size(command->tokenizer), ids->items[i]);
    }
    return 0;
}

static int decode(const struct command *command, const char *text, size_t length)
{
    struct tp_ids ids = {0};
    struct tp_buffer out = {0};
    unsigned flags = (command->chosen[BYTES] ? TP_DECODE_BYTES : 0u) |
                     (command->chosen[SKIP_SPECIAL] ? TP_DECODE_SKIP_SPECIAL : 0u);
    int rc = tp_parse_ids(text, length, &ids, command->error);
    if (rc == 0)
        rc = expect_tokens(command, &ids);
    if (rc == 0)
        rc = tp_tokenizer_decode(command->tokenizer, ids.items, ids.n, flags, &out);
    if (rc == 0 && (command->chosen[JSON] || command->chosen[LINES]))
        tp_print_text_json(&out, command->chosen[JSON] ? "text" : NULL);
    else if (rc == 0 && out.length > 0)
        fwrite(out.bytes, 1, out.length, stdout);
    tp_ids_clear(&ids);
    tp_buffer_clear(&out);
    return rc;
}

/* ---- many */

static int encode_json_string(const struct command *command, const char *line, size_t length)
{
    struct tp_json json;
    struct tp_json_string string;
    tp_json_init(&json, line, length, command->error);
    int rc = tp_json_string(&json, &string);
    if (rc == 0)
        rc = tp_json_end(&json);
    if (rc < 0)
        return rc;
    char *text = malloc(string.length + 1);
    if (text == NULL)
        return -ENOMEM;
    tp_json_string_copy(&string, text);
    rc = encode(command, text, string.length);
    free(text);
    return rc;
}

typedef int encoder(const struct command *command, const char *text, size_t length);

static int work_on_one(const struct command *command, const char *text, size_t length,
                       encoder *encode_text)
{
    if (command->chosen[PARSE])
        return parse(command, text, length);
    if (command->chosen[CHAT])
        return write_prompt(command, text, length);
    return command->chosen[DECODE] ? decode(command, text, length)
                                   : encode_text(command, text, length);
}

static int work_on_lines(const struct command *command, const char *text, size_t length)
{
    int rc = 0;
    for (size_t at = 0, line = 1; rc == 0 && at < length; line++) {
        const char *end = memchr(text + at, '\n', length - at);
        size_t n = end != NULL ? (size_t)(end - (text + at)) : length - at;
        rc = work_on_one(command, text + at, n, encode_json_string);
        if (rc < 0)
            tp_error_prefix(command->error, rc, "line %zu", line);
        at += n + 1;
    }
    return rc;
}

static int work(const struct command *command)
{
    struct tp_buffer input = {0};
    int rc = tp_read_standard_input(&input, command->error);
    if (rc == 0) {
        if (command->chosen[LINES])
            rc = work_on_lines(command, input.bytes, input.length);
        else
            rc = work_on_one(command, input.bytes, input.length, encode);
        if (rc < 0 && !command->chosen[LINES])
            tp_error_prefix(command->error, rc, "standard input");
    }
    tp_buffer_clear(&input);
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
        rc = tp_error_set(command->error, -EIO, "cannot write: %s", strerror(errno));
    return rc;
}

/* Options that say something of a conversation need one. */
static int check_options(const struct command *command, struct tp_error *error)
{
    for (size_t i = TEMPLATE; i <= NO_REPLY; i++) {
        if (command->chosen[i] && !command->chosen[CHAT])
            return tp_error_set(error, -EINVAL, "--%s needs --chat; see '%s --help'",
                                options[i].name, program.name);
    }
    if (command->chosen[CHAT] && command->chosen[PARSE])
        return tp_error_set(error, -EINVAL,
                            "expected --chat or --parse, found both; see '%s --help'",
                            program.name);
    return 0;
}

int tp_command_tokenize(int argc, char **argv)
{
    struct tp_error error = {""};
    struct command command = {.error = &error};
    enum tp_options_result result;
    int n, status = 0;
    int rc =
        tp_options_parse(&program, argc, argv, handle_option, &command, &result, &n, &argv, &error);
    if (rc == 0 && result == TP_OPTIONS_RUN && n != 1)
        rc = tp_error_set(&error, -EINVAL, "expected one MODEL, found %d; see '%s --help'", n,
                          program.name);
    if (rc == 0 && result == TP_OPTIONS_RUN)
        rc = check_options(&command, &error);
    if (rc < 0) {
        status = 2;
    } else if (result == TP_OPTIONS_RUN) {
        rc = tp_tokenizer_open(argv[0], &command.tokenizer, &error);
        if (rc == 0)
            rc = work(&command);
        status = rc < 0 ? 1 : 0;
    }
    if (status != 0)
        fprintf(stderr, "%s: %s\n", program.name,
                error.text[0] != '\0' ? error.text : strerror(-rc));
    tp_tokenizer_free(command.tokenizer);
    return status;
}
