#include "infer/chat/harmony.h"

#include <errno.h>
#include <string.h>

#include "infer/chat/prompt.h"

#define CONSTRAIN "<|constrain|>"

int tp_harmony_init(struct tp_harmony *harmony, const struct tp_tokenizer *tokenizer,
                    struct tp_error *error)
{
    struct tp_harmony found = {.tokenizer = tokenizer};
    const struct {
        const char *name;
        uint32_t *id;
    } tokens[] = {
        {"<|start|>", &found.start},     {"<|end|>", &found.end},
        {"<|message|>", &found.message}, {"<|channel|>", &found.channel},
        {CONSTRAIN, &found.constrain},   {"<|call|>", &found.call},
        {"<|return|>", &found.done},     {"<|endoftext|>", &found.end_of_text},
    };
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        if (!tp_tokenizer_find(tokenizer, tokens[i].name, tokens[i].id))
            return tp_error_set(error, -ENOENT,
                                "harmony: expected a tokenizer with the token %s, found none; "
                                "choose another template",
                                tokens[i].name);
    }
    *harmony = found;
    return 0;
}

/* ---- what stands in a message */

static void write_system(struct tp_prompt *prompt, const struct tp_message *message,
                         const struct tp_harmony_options *options, bool has_tools)
{
    const char *identity = message->model_identity, *cutoff = message->knowledge_cutoff;
    const char *date = options->date != NULL ? options->date : message->date;
    const char *effort =
        options->reasoning_effort != NULL ? options->reasoning_effort : message->reasoning_effort;
    tp_prompt_add_text(prompt, identity != NULL
                                   ? identity
                                   : "You are ChatGPT, a large language model trained by OpenAI.");
    tp_prompt_add_text(prompt, "\nKnowledge cutoff: ");
    tp_prompt_add_text(prompt, cutoff != NULL ? cutoff : "2024-06");
    if (date != NULL) {
        tp_prompt_add_text(prompt, "\nCurrent date: ");
        tp_prompt_add_text(prompt, date);
    }
    tp_prompt_add_text(prompt, "\n\nReasoning: ");
    tp_prompt_add_text(prompt, effort != NULL ? effort : "medium");
    tp_prompt_add_text(prompt, "\n\n# Valid channels: analysis, commentary, final. Channel must be "
                               "included for every message.");
    if (has_tools)
        tp_prompt_add_text(prompt, "\nCalls to these tools must go to the commentary channel: "
                                   "'functions'.");
}

/* A list of tools that has something in it. */
static bool has_tools(const struct tp_message *message)
{
    return message->role == TP_ROLE_DEVELOPER && message->tools != NULL &&
           strspn(message->tools, "[] \t\r\n") < message->tools_length;
}

static void write_developer(struct tp_prompt *prompt, const struct tp_message *message)
{
    struct tp_buffer tools = {0};
    if (message->instructions != NULL) {
        tp_prompt_add_text(prompt, "# Instructions\n\n");
        tp_prompt_add(prompt, message->instructions, message->instructions_length);
    }
    if (has_tools(message) && prompt->rc == 0) {
        if (message->instructions != NULL)
            tp_prompt_add_text(prompt, "\n\n");
        prompt->rc =
            tp_harmony_write_tools(message->tools, message->tools_length, &tools, prompt->error);
        tp_prompt_add(prompt, tools.bytes, tools.length);
    }
    tp_buffer_clear(&tools);
}

static void write_content(struct tp_prompt *prompt, const struct tp_message *message,
                          const struct tp_harmony_options *options, bool tools)
{
    if (message->content != NULL)
        tp_prompt_add(prompt, message->content, message->content_length);
    else if (message->role == TP_ROLE_SYSTEM)
        write_system(prompt, message, options, tools);
    else if (message->role == TP_ROLE_DEVELOPER)
        write_developer(prompt, message);
}

/* ---- messages */

/* Each word of a header is encoded by itself, as the reference does it. */
static void write_word(struct tp_prompt *prompt, const char *before, const char *word)
{
    tp_prompt_cut(prompt);
    tp_prompt_add_text(prompt, before);
    tp_prompt_add_text(prompt, word);
    tp_prompt_cut(prompt);
}

static void write_header(const struct tp_harmony *harmony, struct tp_prompt *prompt,
                         const struct tp_message *message)
{
    const char *type = message->content_type;
    tp_prompt_token(prompt, harmony->start);
    if (message->role == TP_ROLE_TOOL) {
        write_word(prompt, "", message->name != NULL ? message->name : "tool");
    } else {
        write_word(prompt, "", tp_role_names[message->role]);
        if (message->name != NULL)
            write_word(prompt, ":", message->name);
    }
    if (message->recipient != NULL && strcmp(message->recipient, "all") != 0)
        write_word(prompt, " to=", message->recipient);
    if (message->channel != NULL) {
        tp_prompt_token(prompt, harmony->channel);
        write_word(prompt, "", message->channel);
    }
    if (type != NULL && strncmp(type, CONSTRAIN, strlen(CONSTRAIN)) == 0) {
        write_word(prompt, " ", "");
        tp_prompt_token(prompt, harmony->constrain);
        write_word(prompt, "", type + strlen(CONSTRAIN));
    } else if (type != NULL) {
        write_word(prompt, " ", type);
    }
    tp_prompt_token(prompt, harmony->message);
}

static bool is_in_channel(const struct tp_message *message, const char *channel)
{
    return message->channel != NULL && strcmp(message->channel, channel) == 0;
}

/* Messages below this index lose their analysis. */
static size_t end_of_dropped(const struct tp_conversation *conversation)
{
    size_t last = conversation->n;
    while (last > 0 && conversation->messages[last - 1].role != TP_ROLE_ASSISTANT)
        last--;
    if (last == 0 || !is_in_channel(&conversation->messages[last - 1], "final"))
        return 0;
    for (size_t i = 0; i < last; i++) {
        if (is_in_channel(&conversation->messages[i], "final"))
            return i;
    }
    return 0;
}

int tp_harmony_write(const struct tp_harmony *harmony, const struct tp_conversation *conversation,
                     const struct tp_harmony_options *options, struct tp_ids *ids,
                     struct tp_error *error)
{
    struct tp_prompt prompt;
    size_t dropped = end_of_dropped(conversation);
    bool tools = false;
    tp_prompt_init(&prompt, harmony->tokenizer, ids, error);
    for (size_t i = 0; i < conversation->n; i++)
        tools |= has_tools(&conversation->messages[i]);
    for (size_t i = 0; i < conversation->n; i++) {
        const struct tp_message *message = &conversation->messages[i];
        bool is_call = message->role == TP_ROLE_ASSISTANT && message->recipient != NULL;
        if (i < dropped && is_in_channel(message, "analysis"))
            continue;
        write_header(harmony, &prompt, message);
        write_content(&prompt, message, options, tools);
        tp_prompt_token(&prompt, is_call ? harmony->call : harmony->end);
    }
    if (options->complete) {
        tp_prompt_token(&prompt, harmony->start);
        tp_prompt_add_text(&prompt, "assistant");
    }
    return tp_prompt_finish(&prompt);
}
