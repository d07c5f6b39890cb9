#include "infer/chat/conversation_json.h"

#include <string.h>

#include "fs/base/json_text.h"

static void add_word(cJSON *object, const char *key, const char *word)
{
    if (word != NULL)
        tp_json_add_text(object, key, word, strlen(word));
}

static cJSON *message_json(const struct tp_message *message)
{
    cJSON *object = cJSON_CreateObject();
    add_word(object, "role", tp_role_names[message->role]);
    add_word(object, "name", message->name);
    add_word(object, "recipient", message->recipient);
    add_word(object, "channel", message->channel);
    add_word(object, "content_type", message->content_type);
    add_word(object, "model_identity", message->model_identity);
    add_word(object, "knowledge_cutoff", message->knowledge_cutoff);
    add_word(object, "reasoning_effort", message->reasoning_effort);
    add_word(object, "conversation_start_date", message->date);
    if (message->instructions != NULL)
        tp_json_add_text(object, "instructions", message->instructions,
                         message->instructions_length);
    if (message->tools != NULL)
        cJSON_AddRawToObject(object, "tools", message->tools);
    if (message->content != NULL)
        tp_json_add_text(object, "content", message->content, message->content_length);
    return object;
}

cJSON *tp_conversation_json(const struct tp_conversation *conversation)
{
    cJSON *array = cJSON_CreateArray();
    for (size_t i = 0; array != NULL && i < conversation->n; i++) {
        cJSON *object = message_json(&conversation->messages[i]);
        if (!cJSON_AddItemToArray(array, object)) {
            cJSON_Delete(object);
            cJSON_Delete(array);
            return NULL;
        }
    }
    return array;
}
