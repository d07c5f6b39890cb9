/* What a model answers, as text of channels while its tokens come.
 *
 * Every model's answer is a sequence of messages here. One that speaks harmony thinks in the
 * channel analysis, calls tools, and says the rest in the final one; the answer of another is one
 * final message. Whatever a model writes becomes text: nothing fails on it.
 */
#ifndef TENSORPORT_INFER_CHAT_ANSWER_H
#define TENSORPORT_INFER_CHAT_ANSWER_H

#include "infer/chat/dialogue.h"

enum tp_channel {
    TP_CHANNEL_ANALYSIS,   /* what the model thinks: not for the user, unless wanted */
    TP_CHANNEL_COMMENTARY, /* what it tells the user before it calls tools */
    TP_CHANNEL_FINAL,      /* the answer; and what is in no channel, or an unknown one */
    TP_CHANNEL_CALL,       /* a call of the tool `recipient`: its arguments */
};

/* Their names, NULL at the end, in the order of the enum. */
extern const char *const tp_channel_names[];

enum tp_answer_event_kind {
    TP_ANSWER_BEGIN, /* of a message */
    TP_ANSWER_TEXT,  /* a piece of it, whole characters of UTF-8 */
    TP_ANSWER_END,   /* of the message */
};

/* Good during the call only. */
struct tp_answer_event {
    enum tp_answer_event_kind kind;
    enum tp_channel channel; /* of this message, with every event */
    const char *recipient;   /* of a call; NULL otherwise */
    const char *text;
    size_t length;
};

/* A negative result ends the reading and is passed on. */
typedef int tp_answer_handler(void *context, const struct tp_answer_event *event);

struct tp_answer;

/* Reads what follows a prompt of `dialogue`. Each message is added to `conversation` (NULL: to
 * none) when it has ended, so that the next prompt has it. -ENOMEM. */
int tp_answer_new(const struct tp_dialogue *dialogue, struct tp_conversation *conversation,
                  tp_answer_handler *handle, void *context, struct tp_answer **ret_answer);
void tp_answer_free(struct tp_answer *answer);

/* The next token, any id. Fails only if the handler does, or with -ENOMEM. */
int tp_answer_feed(struct tp_answer *answer, uint32_t id);

/* No more tokens come: a message that is not complete ends here. */
int tp_answer_finish(struct tp_answer *answer);

#endif
