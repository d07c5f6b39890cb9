/* The format that GPT-OSS is trained on: messages with roles, channels and recipients.
 *
 *     <|start|>ROLE[ to=RECIPIENT][<|channel|>CHANNEL][ CONTENT-TYPE]<|message|>TEXT<|end|>
 *
 * An assistant's call of a tool ends with <|call|> instead of <|end|>, its last answer, when the
 * model writes it, with <|return|>. What is written here equals what the openai-harmony package
 * writes, token for token. In the text of messages nothing is ever a control token.
 */
#ifndef TENSORPORT_INFER_CHAT_HARMONY_H
#define TENSORPORT_INFER_CHAT_HARMONY_H

#include "infer/chat/conversation.h"
#include "infer/tokenizer/tokenizer.h"

/* The control tokens of one tokenizer. */
struct tp_harmony {
    const struct tp_tokenizer *tokenizer;
    uint32_t start, end, message, channel, constrain, call, done, end_of_text;
};

struct tp_harmony_options {
    const char *reasoning_effort; /* low, medium, high; NULL: as the message says, or medium */
    const char *date; /* "2025-06-28"; NULL: as the message says, or none: never the clock's */
    bool complete;    /* end with "<|start|>assistant", ready for the model */
};

/* -ENOENT if a token is missing: the model speaks another format. */
int tp_harmony_init(struct tp_harmony *harmony, const struct tp_tokenizer *tokenizer,
                    struct tp_error *error);

/* Appends the conversation's ids. What was thought (channel analysis) before the first final
 * message is left out once the last message of the assistant is final. */
int tp_harmony_write(const struct tp_harmony *harmony, const struct tp_conversation *conversation,
                     const struct tp_harmony_options *options, struct tp_ids *ids,
                     struct tp_error *error);

/* The "# Tools" section for a JSON array of functions, {"name", "description", "parameters"} each,
 * alone or inside {"type": "function", "function": ...}: JSON schemas become TypeScript types. */
int tp_harmony_write_tools(const char *tools, size_t length, struct tp_buffer *out,
                           struct tp_error *error);

#endif
