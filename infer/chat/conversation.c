#include "infer/chat/conversation.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/tokenizer/members.h"

const char *const tp_role_names[] = {"system", "developer", "user", "assistant", "tool", NULL};
const char *const tp_reasoning_efforts[] = {"low", "medium", "high", NULL};

static void clear_message(struct tp_message *message)
{
    free(message->content);
    free(message->name);
    free(message->recipient);
    free(message->channel);
    free(message->content_type);
    free(message->model_identity);
    free(message->knowledge_cutoff);
    free(message->reasoning_effort);
    free(message->date);
    free(message->instructions);
    free(message->tools);
}

void tp_conversation_cut(struct tp_conversation *conversation, size_t n)
{
    while (conversation->n > n)
        clear_message(&conversation->messages[--conversation->n]);
}

void tp_conversation_clear(struct tp_conversation *conversation)
{
    tp_conversation_cut(conversation, 0);
    free(conversation->messages);
    *conversation = (struct tp_conversation){0};
}

/* Takes over what the message holds, also when it fails. */
static int add_message(struct tp_conversation *conversation, struct tp_message message)
{
    if (conversation->n == conversation->capacity) {
        size_t capacity = conversation->capacity == 0 ? 16 : 2 * conversation->capacity;
        struct tp_message *messages = realloc(conversation->messages, capacity * sizeof *messages);
        if (messages == NULL) {
            clear_message(&message);
            return -ENOMEM;
        }
        conversation->messages = messages;
        conversation->capacity = capacity;
    }
    conversation->messages[conversation->n++] = message;
    return 0;
}

int tp_conversation_add(struct tp_conversation *conversation, enum tp_role role,
                        const char *content, size_t length, struct tp_message **ret_message)
{
    struct tp_message message = {.role = role};
    if (content != NULL) {
        message.content = malloc(length + 1);
        if (message.content == NULL)
            return -ENOMEM;
        memcpy(message.content, content, length);
        message.content[length] = '\0';
        message.content_length = length;
    }
    int rc = add_message(conversation, message);
    if (rc == 0 && ret_message != NULL)
        *ret_message = &conversation->messages[conversation->n - 1];
    return rc;
}

/* ---- JSON */

enum {
    ROLE,
    CONTENT,
    NAME,
    RECIPIENT,
    CHANNEL,
    CONTENT_TYPE,
    MODEL_IDENTITY,
    KNOWLEDGE_CUTOFF,
    REASONING_EFFORT,
    DATE,
    INSTRUCTIONS,
    TOOLS,
};
static const char *const names[] = {"role",
                                    "content",
                                    "name",
                                    "recipient",
                                    "channel",
                                    "content_type",
                                    "model_identity",
                                    "knowledge_cutoff",
                                    "reasoning_effort",
                                    "conversation_start_date",
                                    "instructions",
                                    "tools",
                                    NULL};

/* A string that becomes part of a header or a line: no NUL, since it is kept as a C string. */
static int read_word(const struct tp_members *members, size_t i, char **target)
{
    size_t length = 0;
    if (!members->present[i])
        return 0;
    int rc = tp_members_text(members, i, target, &length);
    return rc < 0 || strlen(*target) == length ? rc
                                               : tp_members_mistake(members, i, "text without NUL");
}

/* [{"type": "text", "text": ...}, ...], joined. */
static int read_parts(const struct tp_members *members, struct tp_message *message)
{
    enum { TYPE, TEXT };
    static const char *const part_names[] = {"type", "text", NULL};
    static const char *const types[] = {"text", NULL};
    struct tp_json at = members->values[CONTENT];
    struct tp_members part;
    struct tp_buffer joined = {0};
    bool first = true, more = true;
    int rc = tp_json_enter_array(&at);
    while (rc == 0 && (rc = tp_json_array_next(&at, &first, &more)) == 0 && more) {
        char *text = NULL;
        size_t length = 0, type;
        rc = tp_members_read(&part, &at, "content[]", part_names);
        if (rc == 0)
            rc = tp_members_choice(&part, TYPE, types, &type);
        if (rc == 0)
            rc = tp_members_text(&part, TEXT, &text, &length);
        if (rc == 0)
            rc = tp_buffer_append(&joined, text, length);
        free(text);
        if (rc == 0)
            rc = tp_json_skip(&at);
    }
    if (rc == 0)
        rc = tp_buffer_append(&joined, "", 1);
    if (rc < 0) {
        tp_buffer_clear(&joined);
        return rc;
    }
    message->content = joined.bytes;
    message->content_length = joined.length - 1;
    return 0;
}

static int read_content(const struct tp_members *members, struct tp_message *message)
{
    struct tp_json at = members->values[CONTENT];
    enum tp_json_kind kind;
    if (!members->present[CONTENT])
        return 0;
    if (tp_json_peek(&at, &kind) == 0 && kind == TP_JSON_ARRAY)
        return read_parts(members, message);
    return tp_members_text(members, CONTENT, &message->content, &message->content_length);
}

/* The text of the array as it stands. */
static int read_tools(const struct tp_members *members, struct tp_message *message)
{
    struct tp_json at = members->values[TOOLS];
    enum tp_json_kind kind;
    if (!members->present[TOOLS])
        return 0;
    int rc = tp_json_peek(&at, &kind);
    if (rc < 0 || kind != TP_JSON_ARRAY)
        return rc < 0 ? rc : tp_members_mistake(members, TOOLS, "an array");
    size_t begin = at.at;
    rc = tp_json_skip(&at);
    if (rc < 0)
        return rc;
    message->tools_length = at.at - begin;
    message->tools = strndup(at.text + begin, message->tools_length);
    return message->tools == NULL ? -ENOMEM : 0;
}

/* What makes no sense for a role is a mistake of the one who wrote it. */
static int check_message(const struct tp_members *members, const struct tp_message *message)
{
    size_t effort;
    if (message->reasoning_effort != NULL && message->role == TP_ROLE_SYSTEM)
        return tp_members_choice(members, REASONING_EFFORT, tp_reasoning_efforts, &effort);
    if (message->role == TP_ROLE_TOOL && message->name == NULL)
        return tp_members_mistake(members, NAME, "the tool's name");
    if (message->content == NULL && message->role >= TP_ROLE_USER)
        return tp_members_mistake(members, CONTENT, "a string");
    if (message->content == NULL && message->role == TP_ROLE_DEVELOPER &&
        message->instructions == NULL && message->tools == NULL)
        return tp_members_mistake(members, INSTRUCTIONS, "instructions, tools or content");
    return 0;
}

static int read_message(struct tp_conversation *conversation, const struct tp_json *json,
                        const char *path)
{
    struct tp_members members;
    struct tp_message message = {0};
    char **const words[] = {
        [NAME] = &message.name,
        [RECIPIENT] = &message.recipient,
        [CHANNEL] = &message.channel,
        [CONTENT_TYPE] = &message.content_type,
        [MODEL_IDENTITY] = &message.model_identity,
        [KNOWLEDGE_CUTOFF] = &message.knowledge_cutoff,
        [REASONING_EFFORT] = &message.reasoning_effort,
        [DATE] = &message.date,
    };
    size_t role = 0;
    int rc = tp_members_read(&members, json, path, names);
    if (rc == 0)
        rc = tp_members_choice(&members, ROLE, tp_role_names, &role);
    message.role = (enum tp_role)role;
    for (size_t i = NAME; rc == 0 && i <= DATE; i++)
        rc = read_word(&members, i, words[i]);
    if (rc == 0)
        rc = read_content(&members, &message);
    if (rc == 0 && members.present[INSTRUCTIONS])
        rc = tp_members_text(&members, INSTRUCTIONS, &message.instructions,
                             &message.instructions_length);
    if (rc == 0)
        rc = read_tools(&members, &message);
    if (rc == 0)
        rc = check_message(&members, &message);
    if (rc < 0) {
        clear_message(&message);
        return rc;
    }
    return add_message(conversation, message);
}

int tp_conversation_read(struct tp_conversation *conversation, const char *json, size_t length,
                         struct tp_error *error)
{
    static const char *const wrapper[] = {"messages", NULL};
    struct tp_json at, whole;
    struct tp_members members;
    enum tp_json_kind kind = TP_JSON_NULL;
    bool first = true, more = true;
    char path[32];
    tp_json_init(&at, json, length, error);
    whole = at;
    int rc = tp_json_skip(&whole);
    if (rc == 0)
        rc = tp_json_end(&whole);
    if (rc == 0)
        rc = tp_json_peek(&at, &kind);
    if (rc == 0 && kind == TP_JSON_OBJECT) {
        rc = tp_members_read(&members, &at, "", wrapper);
        if (rc == 0 && !members.present[0])
            rc = tp_members_mistake(&members, 0, "an array");
        if (rc == 0)
            at = members.values[0];
    }
    if (rc == 0)
        rc = tp_json_enter_array(&at);
    for (size_t i = 0; rc == 0; i++) {
        rc = tp_json_array_next(&at, &first, &more);
        if (rc < 0 || !more)
            break;
        snprintf(path, sizeof path, "messages[%zu]", i);
        rc = read_message(conversation, &at, path);
        if (rc == 0)
            rc = tp_json_skip(&at);
    }
    return rc == -ENOMEM ? tp_error_set(error, rc, "out of memory") : rc;
}
