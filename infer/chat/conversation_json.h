/* A conversation as JSON again: what tp_conversation_read() reads. */
#ifndef TENSORPORT_INFER_CHAT_CONVERSATION_JSON_H
#define TENSORPORT_INFER_CHAT_CONVERSATION_JSON_H

#include <cjson/cJSON.h>

#include "infer/chat/conversation.h"

/* The array of messages, the caller's; NULL when there is no memory. */
cJSON *tp_conversation_json(const struct tp_conversation *conversation);

#endif
