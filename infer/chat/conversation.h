/* A conversation: messages in order, as a user's program writes them in JSON. */
#ifndef TENSORPORT_INFER_CHAT_CONVERSATION_H
#define TENSORPORT_INFER_CHAT_CONVERSATION_H

#include <stddef.h>

#include "decode/error.h"
#include "infer/tokenizer/buffer.h"

enum tp_role { TP_ROLE_SYSTEM, TP_ROLE_DEVELOPER, TP_ROLE_USER, TP_ROLE_ASSISTANT, TP_ROLE_TOOL };

/* Their names, NULL at the end, in the order of the enum. */
extern const char *const tp_role_names[];

/* Harmony's reasoning efforts, NULL at the end. */
extern const char *const tp_reasoning_efforts[];

/* All strings are allocated and belong to the message; NULL: not given. */
struct tp_message {
    enum tp_role role;
    char *content; /* any valid UTF-8, NUL included; never read as anything but text */
    size_t content_length;
    char *name;         /* of the tool or the author */
    char *recipient;    /* harmony: whom it is for, such as functions.get_weather */
    char *channel;      /* harmony: analysis, commentary or final */
    char *content_type; /* harmony: "<|constrain|>json" or other */
    /* What harmony's system message says; each has a default but the date. */
    char *model_identity, *knowledge_cutoff, *reasoning_effort, *date;
    char *instructions; /* of a developer */
    size_t instructions_length;
    char *tools; /* of a developer: a JSON array of functions, validated */
    size_t tools_length;
};

/* Starts as zeros. */
struct tp_conversation {
    struct tp_message *messages;
    size_t n, capacity;
};

/* Adds a message with a copy of the content (NULL: none). *ret_message, if wanted, may be filled
 * further and is good until the next is added. -ENOMEM. */
int tp_conversation_add(struct tp_conversation *conversation, enum tp_role role,
                        const char *content, size_t length, struct tp_message **ret_message);

/* Adds the messages of [{"role": ..., "content": ..., ...}, ...] or {"messages": [...]}. The
 * members are those of struct tp_message ("conversation_start_date" for the date); `content` is a
 * string, or a list of {"type": "text", "text": ...}. -EINVAL says which message and what is wrong.
 */
int tp_conversation_read(struct tp_conversation *conversation, const char *json, size_t length,
                         struct tp_error *error);

/* Takes the messages from the `n`th on away. */
void tp_conversation_cut(struct tp_conversation *conversation, size_t n);

void tp_conversation_clear(struct tp_conversation *conversation);

#endif
