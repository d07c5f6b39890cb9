#include "infer/chat/template.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/bytes.h"
#include "infer/chat/prompt.h"

enum { STOPS_MAX = 8, FILE_MAX = 1 << 20 };

/* The lines that hold one text; the first five in the order of enum tp_role. */
enum line { SYSTEM, DEVELOPER, USER, ASSISTANT, TOOL, BEGIN, REPLY, N_LINES };
static const char *const line_names[] = {"system", "developer", "user", "assistant",
                                         "tool",   "begin",     "reply"};

/* A text in quotes, cut where something is put in. */
enum part_kind { LITERAL, CONTENT, SYSTEM_TEXT };
struct part {
    enum part_kind kind;
    struct tp_buffer literal;
};
struct text {
    struct part *parts;
    size_t n;
    bool given;
};

struct tp_template {
    struct text lines[N_LINES];
    struct tp_buffer stops[STOPS_MAX]; /* NUL-terminated */
    size_t n_stops;
    bool trim, fold_system;
};

const char *const tp_template_names[] = {"llama3", "mistral-instruct", "chatml", NULL};
static const char *const built_in[] = {
    "begin \"<|begin_of_text|>\"\n"
    "system \"<|start_header_id|>system<|end_header_id|>\\n\\n{content}<|eot_id|>\"\n"
    "user \"<|start_header_id|>user<|end_header_id|>\\n\\n{content}<|eot_id|>\"\n"
    "assistant \"<|start_header_id|>assistant<|end_header_id|>\\n\\n{content}<|eot_id|>\"\n"
    "tool \"<|start_header_id|>ipython<|end_header_id|>\\n\\n{content}<|eot_id|>\"\n"
    "reply \"<|start_header_id|>assistant<|end_header_id|>\\n\\n\"\n"
    "stop \"<|eot_id|>\" \"<|end_of_text|>\"\n"
    "trim\n",
    "begin \"<s>\"\n"
    "system \"{content}\\n\\n\"\n"
    "fold-system\n"
    "user \"[INST] {system}{content} [/INST]\"\n"
    "assistant \" {content}</s>\"\n"
    "stop \"</s>\"\n"
    "trim\n",
    "system \"<|im_start|>system\\n{content}<|im_end|>\\n\"\n"
    "user \"<|im_start|>user\\n{content}<|im_end|>\\n\"\n"
    "assistant \"<|im_start|>assistant\\n{content}<|im_end|>\\n\"\n"
    "tool \"<|im_start|>tool\\n{content}<|im_end|>\\n\"\n"
    "reply \"<|im_start|>assistant\\n\"\n"
    "stop \"<|im_end|>\"\n",
};

void tp_template_free(struct tp_template *template)
{
    if (template == NULL)
        return;
    for (size_t i = 0; i < N_LINES; i++) {
        for (size_t k = 0; k < template->lines[i].n; k++)
            tp_buffer_clear(&template->lines[i].parts[k].literal);
        free(template->lines[i].parts);
    }
    for (size_t i = 0; i < template->n_stops; i++)
        tp_buffer_clear(&template->stops[i]);
    free(template);
}

/* ---- reading */

struct reader {
    const char *at, *end;
    size_t line;
    struct tp_error *error;
};

static int mistake(const struct reader *reader, const char *what)
{
    const char *stop = memchr(reader->at, '\n', (size_t)(reader->end - reader->at));
    size_t left = (size_t)((stop != NULL ? stop : reader->end) - reader->at);
    if (left == 0)
        return tp_error_set(reader->error, -EINVAL,
                            "line %zu: expected %s, found the end of the line", reader->line, what);
    return tp_error_set(reader->error, -EINVAL, "line %zu: expected %s, found \"%.*s\"",
                        reader->line, what, (int)(left < 40 ? left : 40), reader->at);
}

static void skip_blanks(struct reader *reader)
{
    while (reader->at < reader->end && (*reader->at == ' ' || *reader->at == '\t'))
        reader->at++;
}

static bool at_end_of_line(struct reader *reader)
{
    skip_blanks(reader);
    return reader->at == reader->end || *reader->at == '\n' || *reader->at == '\r' ||
           *reader->at == '#';
}

static bool take(struct reader *reader, const char *text)
{
    size_t n = strlen(text);
    if ((size_t)(reader->end - reader->at) < n || memcmp(reader->at, text, n) != 0)
        return false;
    reader->at += n;
    return true;
}

/* The part that literal text is added to; a new one if the last is of another kind. */
static struct part *add_part(struct text *text, enum part_kind kind)
{
    if (kind == LITERAL && text->n > 0 && text->parts[text->n - 1].kind == LITERAL)
        return &text->parts[text->n - 1];
    struct part *parts = realloc(text->parts, (text->n + 1) * sizeof *parts);
    if (parts == NULL)
        return NULL;
    text->parts = parts;
    parts[text->n] = (struct part){.kind = kind};
    return &parts[text->n++];
}

static int read_escape(struct reader *reader, char *ret_char)
{
    static const char letters[] = "nt\"\\{", meant[] = "\n\t\"\\{";
    const char *letter = reader->at < reader->end ? strchr(letters, *reader->at) : NULL;
    if (letter == NULL || *letter == '\0')
        return mistake(reader, "n, t, \", \\ or { after the backslash");
    *ret_char = meant[letter - letters];
    reader->at++;
    return 0;
}

/* What stands at the cursor inside quotes. */
static int read_part(struct reader *reader, struct text *text)
{
    enum part_kind kind = LITERAL;
    char c = *reader->at;
    int rc = 0;
    if (take(reader, "{content}"))
        kind = CONTENT;
    else if (take(reader, "{system}"))
        kind = SYSTEM_TEXT;
    else if (c == '{')
        return mistake(reader, "{content}, {system} or \\{");
    else
        reader->at++;
    if (kind == LITERAL && c == '\\')
        rc = read_escape(reader, &c);
    struct part *part = rc == 0 ? add_part(text, kind) : NULL;
    if (rc == 0 && part == NULL)
        rc = -ENOMEM;
    return rc < 0 || kind != LITERAL ? rc : tp_buffer_append(&part->literal, &c, 1);
}

/* "..." */
static int read_text(struct reader *reader, struct text *text)
{
    skip_blanks(reader);
    if (!take(reader, "\""))
        return mistake(reader, "a text in quotes");
    text->given = true;
    while (!take(reader, "\"")) {
        if (reader->at == reader->end || *reader->at == '\n')
            return mistake(reader, "'\"'");
        int rc = read_part(reader, text);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int read_stops(struct reader *reader, struct tp_template *template)
{
    while (!at_end_of_line(reader)) {
        struct text text = {0};
        int rc = template->n_stops == STOPS_MAX ? mistake(reader, "at most 8 tokens") : 0;
        if (rc == 0)
            rc = read_text(reader, &text);
        if (rc == 0 && (text.n != 1 || text.parts[0].kind != LITERAL))
            rc = mistake(reader, "a token");
        if (rc == 0)
            rc = tp_buffer_append(&text.parts[0].literal, "", 1);
        if (rc == 0)
            template->stops[template->n_stops++] = text.parts[0].literal;
        for (size_t i = 0; rc < 0 && i < text.n; i++)
            tp_buffer_clear(&text.parts[i].literal);
        free(text.parts);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int read_line(struct reader *reader, struct tp_template *template)
{
    const char *word = reader->at;
    while (reader->at < reader->end && (isalpha((unsigned char)*reader->at) || *reader->at == '-'))
        reader->at++;
    size_t n = (size_t)(reader->at - word);
    for (size_t i = 0; i < N_LINES; i++) {
        if (n == strlen(line_names[i]) && memcmp(word, line_names[i], n) == 0) {
            if (template->lines[i].given)
                return mistake(reader, "each role once");
            return read_text(reader, &template->lines[i]);
        }
    }
    if (n == 4 && memcmp(word, "stop", n) == 0)
        return read_stops(reader, template);
    if (n == 4 && memcmp(word, "trim", n) == 0)
        template->trim = true;
    else if (n == 11 && memcmp(word, "fold-system", n) == 0)
        template->fold_system = true;
    else {
        reader->at = word;
        return mistake(reader, "begin, system, user, assistant, developer, tool, reply, stop, trim "
                               "or fold-system");
    }
    return 0;
}

static int read_lines(struct reader *reader, struct tp_template *template)
{
    int rc = 0;
    while (rc == 0 && reader->at < reader->end) {
        if (!at_end_of_line(reader))
            rc = read_line(reader, template);
        if (rc == 0 && !at_end_of_line(reader))
            rc = mistake(reader, "the end of the line");
        while (rc == 0 && reader->at < reader->end && *reader->at != '\n')
            reader->at++;
        reader->at += rc == 0 && reader->at < reader->end;
        reader->line++;
    }
    return rc;
}

int tp_template_parse(const char *text, size_t length, struct tp_template **ret_template,
                      struct tp_error *error)
{
    struct reader reader = {text, text + length, 1, error};
    struct tp_template *template = calloc(1, sizeof *template);
    if (template == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    size_t valid = tp_utf8_valid(text, length);
    int rc = valid == length
                 ? read_lines(&reader, template)
                 : tp_error_set(error, -EINVAL, "expected UTF-8, found byte 0x%02x at offset %zu",
                                (unsigned char)text[valid], valid);
    if (rc == 0 && !template->lines[USER].given)
        rc = tp_error_set(error, -EINVAL, "expected a line for user, found none");
    if (rc == -ENOMEM)
        tp_error_set(error, rc, "out of memory");
    if (rc < 0)
        tp_template_free(template);
    else
        *ret_template = template;
    return rc;
}

int tp_template_open(const char *name, struct tp_template **ret_template, struct tp_error *error)
{
    char *text;
    size_t length;
    for (size_t i = 0; tp_template_names[i] != NULL; i++) {
        if (strcmp(name, tp_template_names[i]) == 0)
            return tp_template_parse(built_in[i], strlen(built_in[i]), ret_template, error);
    }
    int rc = tp_bytes_read_file(AT_FDCWD, name, FILE_MAX, &text, &length, error);
    if (rc < 0)
        return tp_error_prefix(error, rc,
                               "template: expected llama3, mistral-instruct, chatml or a "
                               "file");
    rc = tp_template_parse(text, length, ret_template, error);
    free(text);
    return rc < 0 ? tp_error_prefix(error, rc, "%s", name) : 0;
}

/* ---- writing */

struct writing {
    const struct tp_template *template;
    struct tp_prompt prompt;
    struct tp_buffer system; /* what waits for the next user's message */
};

/* Literal text, its special tokens as tokens: they cut the run, and the rest joins it. */
static void write_literal(struct writing *writing, const struct tp_buffer *literal)
{
    const struct tp_tokenizer *tokenizer = writing->prompt.tokenizer;
    size_t at = 0, begin, end;
    uint32_t id;
    while (tp_tokenizer_find_special(tokenizer, literal->bytes, literal->length, at, &begin, &end,
                                     &id)) {
        tp_prompt_add(&writing->prompt, literal->bytes + at, begin - at);
        tp_prompt_token(&writing->prompt, id);
        at = end;
    }
    tp_prompt_add(&writing->prompt, literal->bytes + at, literal->length - at);
}

static struct tp_buffer trimmed(const struct tp_message *message, bool trim)
{
    struct tp_buffer content = {.bytes = message->content, .length = message->content_length};
    if (content.bytes == NULL && message->instructions != NULL)
        content = (struct tp_buffer){.bytes = message->instructions,
                                     .length = message->instructions_length};
    if (content.bytes == NULL)
        return (struct tp_buffer){0};
    while (trim && content.length > 0 && isspace((unsigned char)content.bytes[0])) {
        content.bytes++;
        content.length--;
    }
    while (trim && content.length > 0 && isspace((unsigned char)content.bytes[content.length - 1]))
        content.length--;
    return content;
}

static void write_line(struct writing *writing, const struct text *text,
                       const struct tp_buffer *content)
{
    for (size_t i = 0; i < text->n; i++) {
        const struct part *part = &text->parts[i];
        if (part->kind == LITERAL)
            write_literal(writing, &part->literal);
        else if (part->kind == CONTENT)
            tp_prompt_add(&writing->prompt, content->bytes, content->length);
        else
            tp_prompt_add(&writing->prompt, writing->system.bytes, writing->system.length);
    }
}

/* A system's text as its line has it, kept for the next user's message. */
static int fold_system(struct writing *writing, const struct tp_buffer *content)
{
    const struct text *text = &writing->template->lines[SYSTEM];
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < text->n; i++) {
        const struct tp_buffer *source =
            text->parts[i].kind == LITERAL ? &text->parts[i].literal : content;
        rc = tp_buffer_append(&writing->system, source->bytes, source->length);
    }
    return rc;
}

static int write_message(struct writing *writing, const struct tp_message *message, size_t i)
{
    const struct tp_template *template = writing->template;
    size_t line = message->role;
    if (line == DEVELOPER && !template->lines[DEVELOPER].given)
        line = SYSTEM;
    struct tp_buffer content = trimmed(message, template->trim);
    if (message->tools != NULL)
        return tp_error_set(writing->prompt.error, -EINVAL,
                            "messages[%zu]: expected no tools with this template: only harmony "
                            "shows them",
                            i);
    if (!template->lines[line].given)
        return tp_error_set(writing->prompt.error, -EINVAL,
                            "messages[%zu]: expected a role that the template has a line for, "
                            "found %s",
                            i, tp_role_names[message->role]);
    if (line == SYSTEM && template->fold_system)
        return fold_system(writing, &content);
    write_line(writing, &template->lines[line], &content);
    if (line == USER)
        writing->system.length = 0;
    return writing->prompt.rc;
}

int tp_template_write(const struct tp_template *template, const struct tp_tokenizer *tokenizer,
                      const struct tp_conversation *conversation, bool complete, struct tp_ids *ids,
                      struct tp_error *error)
{
    struct writing writing = {.template = template};
    const struct tp_buffer nothing = {0};
    int rc = 0;
    tp_prompt_init(&writing.prompt, tokenizer, ids, error);
    write_line(&writing, &template->lines[BEGIN], &nothing);
    for (size_t i = 0; rc == 0 && i < conversation->n; i++)
        rc = write_message(&writing, &conversation->messages[i], i);
    if (complete)
        write_line(&writing, &template->lines[REPLY], &nothing);
    int finished = tp_prompt_finish(&writing.prompt);
    tp_buffer_clear(&writing.system);
    return rc < 0 ? rc : finished;
}

int tp_template_stops(const struct tp_template *template, const struct tp_tokenizer *tokenizer,
                      struct tp_ids *ids, struct tp_error *error)
{
    for (size_t i = 0; i < template->n_stops; i++) {
        uint32_t id;
        if (!tp_tokenizer_find(tokenizer, template->stops[i].bytes, &id))
            return tp_error_set(
                error, -ENOENT,
                "stop: expected a token of this model's tokenizer.json, found \"%s\"; "
                "choose another template",
                template->stops[i].bytes);
        int rc = tp_ids_append(ids, id);
        if (rc < 0)
            return tp_error_set(error, rc, "out of memory");
    }
    return 0;
}
