/* A conversation with a model: what was said, and the session that holds it computed.
 *
 * Each turn's prompt is the whole conversation, written as the model's format has it; of that the
 * session computes what it does not hold yet. So a turn's answer is the one that the same
 * conversation gets anywhere, whatever was kept.
 */
#ifndef TENSORPORT_INFER_CLI_CHAT_H
#define TENSORPORT_INFER_CLI_CHAT_H

#include "infer/chat/answer.h"
#include "infer/cli/runtime.h"
#include "infer/engine/generate.h"

struct tp_chat {
    struct tp_runtime *runtime; /* the caller's, like the next */
    struct tp_dialogue *dialogue;
    struct tp_generate_options how;
    struct tp_session session;
    struct tp_conversation conversation;
    char *system, *reasoning_effort, *date;          /* the preface; NULL: none */
    struct tp_generate_report last;                  /* of the last turn */
    size_t n_turns, n_prompt, n_reused, n_generated; /* of all */
};

/* How a turn ended. */
enum tp_chat_end {
    TP_CHAT_ANSWERED, /* by a token that ends answers */
    TP_CHAT_LENGTH,   /* after how.n_most tokens */
    TP_CHAT_CONTEXT,  /* the context is full */
    TP_CHAT_STOPPED,  /* by how.interrupted */
};

/* An empty conversation. The preface is copied. Everything has a message. */
int tp_chat_open(struct tp_runtime *runtime, struct tp_dialogue *dialogue,
                 const struct tp_dialogue_preface *preface, const struct tp_generate_options *how,
                 struct tp_chat *ret_chat, struct tp_error *error);
/* Of a chat that is all zeros, too. */
void tp_chat_close(struct tp_chat *chat);

/* Says `text` [length] to the model and hands its answer on as it comes. Both belong to the
 * conversation then; an answer that was stopped, as far as it came. What fails, and a turn that was
 * stopped before there was an answer, leaves the conversation as it was. -EILSEQ for what is not
 * UTF-8; -ENOSPC when it does not fit the context, with a message that says what to do. */
int tp_chat_say(struct tp_chat *chat, const char *text, size_t length, tp_answer_handler *handle,
                void *context, enum tp_chat_end *ret_end, struct tp_error *error);

/* Changes one of the preface's strings; NULL takes it away. -EINVAL if the format has no place for
 * it: nothing has changed then. */
int tp_chat_set(struct tp_chat *chat, char **which, const char *text, struct tp_error *error);

/* Forgets what was said, not the preface. */
void tp_chat_reset(struct tp_chat *chat);

/* All of it to a file and back: engine/session_file.h, with the messages and the preface in JSON as
 * the note. A chat that cannot be loaded stays as it was. */
int tp_chat_save(const struct tp_chat *chat, const char *path, struct tp_error *error);
int tp_chat_load(struct tp_chat *chat, const char *path, struct tp_error *error);

#endif
