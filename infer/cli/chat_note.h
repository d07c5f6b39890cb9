/* What a chat says beside the keys and values in a session's file:
 *
 *     {"system": "...", "reasoning_effort": "low", "date": "...", "messages": [...]}
 *
 * with the messages as tp_conversation_read() takes them. Absent members were not given.
 */
#ifndef TENSORPORT_INFER_CLI_CHAT_NOTE_H
#define TENSORPORT_INFER_CLI_CHAT_NOTE_H

#include "infer/chat/dialogue.h"

/* Appends the text. -ENOMEM. */
int tp_chat_note_write(const struct tp_dialogue_preface *preface,
                       const struct tp_conversation *conversation, struct tp_buffer *note);

/* The strings are the caller's to free, also after a failure; NULL before. -EINVAL with a message
 * for anything else than such a text. */
int tp_chat_note_read(const char *text, size_t length, char **system, char **reasoning_effort,
                      char **date, struct tp_conversation *conversation, struct tp_error *error);

#endif
