/* Conversations as JSON on one side, ids on the other: what `tpinfer tokenize` shows of infer/chat.
 */
#ifndef TENSORPORT_INFER_CLI_CHAT_TEXT_H
#define TENSORPORT_INFER_CLI_CHAT_TEXT_H

#include "infer/tokenizer/tokenizer.h"

struct tp_chat_text_options {
    const char *template; /* "harmony", a name or a file of chat/template.h; NULL: harmony */
    const char *reasoning_effort, *date; /* NULL: as the messages say */
    bool no_reply;                       /* do not end where the model begins */
};

/* The ids of the conversation that `json` has. */
int tp_chat_text_write(const struct tp_tokenizer *tokenizer,
                       const struct tp_chat_text_options *options, const char *json, size_t length,
                       struct tp_ids *ids, struct tp_error *error);

/* Prints what a model wrote in harmony's format, from the header of its first message on, as
 * {"messages": [...]}. */
int tp_chat_text_print_parsed(const struct tp_tokenizer *tokenizer, const struct tp_ids *ids,
                              struct tp_error *error);

#endif
