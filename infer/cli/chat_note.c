#include "infer/cli/chat_note.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/json_text.h"
#include "infer/chat/conversation_json.h"
#include "infer/tokenizer/members.h"

enum { SYSTEM, EFFORT, DATE, MESSAGES };
static const char *const names[] = {"system", "reasoning_effort", "date", "messages", NULL};

static void add(cJSON *object, const char *key, const char *text)
{
    if (text != NULL)
        tp_json_add_text(object, key, text, strlen(text));
}

int tp_chat_note_write(const struct tp_dialogue_preface *preface,
                       const struct tp_conversation *conversation, struct tp_buffer *note)
{
    cJSON *object = cJSON_CreateObject();
    cJSON *messages = tp_conversation_json(conversation);
    add(object, names[SYSTEM], preface->system);
    add(object, names[EFFORT], preface->reasoning_effort);
    add(object, names[DATE], preface->date);
    if (!cJSON_AddItemToObject(object, names[MESSAGES], messages)) {
        cJSON_Delete(messages);
        cJSON_Delete(object);
        return -ENOMEM;
    }
    char *text = cJSON_PrintUnformatted(object);
    int rc = text == NULL ? -ENOMEM : tp_buffer_append_text(note, text);
    cJSON_free(text);
    cJSON_Delete(object);
    return rc;
}

/* A string without NUL. */
static int read_text(const struct tp_members *members, size_t i, char **target)
{
    size_t length = 0;
    if (!members->present[i])
        return 0;
    int rc = tp_members_text(members, i, target, &length);
    return rc < 0 || strlen(*target) == length ? rc
                                               : tp_members_mistake(members, i, "text without NUL");
}

int tp_chat_note_read(const char *text, size_t length, char **system, char **reasoning_effort,
                      char **date, struct tp_conversation *conversation, struct tp_error *error)
{
    struct tp_json json;
    struct tp_members members;
    size_t effort;
    tp_json_init(&json, text, length, error);
    int rc = tp_members_read_whole(&members, &json, names);
    if (rc == 0)
        rc = read_text(&members, SYSTEM, system);
    if (rc == 0)
        rc = read_text(&members, DATE, date);
    if (rc == 0)
        rc = read_text(&members, EFFORT, reasoning_effort);
    if (rc == 0 && members.present[EFFORT])
        rc = tp_members_choice(&members, EFFORT, tp_reasoning_efforts, &effort);
    if (rc == 0 && !members.present[MESSAGES])
        rc = tp_members_mistake(&members, MESSAGES, "an array");
    return rc < 0 ? rc : tp_conversation_read(conversation, text, length, error);
}
