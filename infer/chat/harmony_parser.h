/* Reads what a model writes in harmony's format, token by token.
 *
 *                  <|message|>                 <|end|> <|call|> <|return|>
 *     HEADER ---------------------> CONTENT ---------------------------------> BETWEEN
 *       ^                                                                         |
 *       +------------------------------- <|start|> -------------------------------+
 *
 * A model may write anything, so every token is good for something in every state and nothing is
 * lost: text without a header, a header that ends before its message or makes no sense, control
 * tokens out of place all become text of a message that is marked malformed. <|start|> inside
 * a text ends it, since models forget <|end|> before the next message.
 */
#ifndef TENSORPORT_INFER_CHAT_HARMONY_PARSER_H
#define TENSORPORT_INFER_CHAT_HARMONY_PARSER_H

#include "infer/chat/harmony.h"

/* Why a message ended. */
enum tp_harmony_end {
    TP_HARMONY_END,    /* <|end|>: more may follow */
    TP_HARMONY_CALL,   /* <|call|>: a tool is to be run */
    TP_HARMONY_RETURN, /* <|return|> or <|endoftext|>: the answer is complete */
    TP_HARMONY_CUT,    /* the output stopped, or another message began, in the middle */
};

/* Their names, NULL at the end, in the order of the enum. */
extern const char *const tp_harmony_end_names[];

/* Strings are NULL if the header has none; the role is then "assistant". */
struct tp_harmony_header {
    char *role, *channel, *recipient, *content_type;
    bool malformed;
};

enum tp_harmony_event_kind {
    TP_HARMONY_MESSAGE, /* a message begins */
    TP_HARMONY_TEXT,    /* a piece of its text, whole characters of UTF-8 */
    TP_HARMONY_ENDED,   /* it has ended */
};

/* Good during the call only. */
struct tp_harmony_event {
    enum tp_harmony_event_kind kind;
    const struct tp_harmony_header *header; /* of this message, with every event */
    const char *text;
    size_t length;
    enum tp_harmony_end end;
};

/* A negative result ends the parsing and is passed on. */
typedef int tp_harmony_handler(void *context, const struct tp_harmony_event *event);

struct tp_harmony_parser;

/* Begins in the header of an assistant's message, where "<|start|>assistant" has left it; with
 * role NULL, between messages. -ENOMEM. */
int tp_harmony_parser_new(const struct tp_harmony *harmony, const char *role,
                          tp_harmony_handler *handle, void *context,
                          struct tp_harmony_parser **ret_parser);
void tp_harmony_parser_free(struct tp_harmony_parser *parser);

/* The next token, any id. Fails only if the handler does, or with -ENOMEM. */
int tp_harmony_parser_feed(struct tp_harmony_parser *parser, uint32_t id);

/* No more tokens come. */
int tp_harmony_parser_finish(struct tp_harmony_parser *parser);

#endif
