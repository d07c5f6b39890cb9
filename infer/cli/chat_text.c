#include "infer/cli/chat_text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/json_text.h"
#include "infer/chat/dialogue.h"
#include "infer/chat/harmony_parser.h"

int tp_chat_text_write(const struct tp_tokenizer *tokenizer,
                       const struct tp_chat_text_options *options, const char *json, size_t length,
                       struct tp_ids *ids, struct tp_error *error)
{
    const struct tp_harmony_options how = {options->reasoning_effort, options->date,
                                           !options->no_reply};
    const char *format = options->template != NULL ? options->template : "harmony";
    struct tp_conversation conversation = {0};
    struct tp_dialogue *dialogue = NULL;
    int rc = tp_conversation_read(&conversation, json, length, error);
    if (rc == 0)
        rc = tp_dialogue_open(format, tokenizer, NULL, 0, &dialogue, error);
    if (rc == 0)
        rc = tp_dialogue_write(dialogue, &conversation, &how, ids, error);
    tp_dialogue_free(dialogue);
    tp_conversation_clear(&conversation);
    return rc;
}

/* ---- parsing */

struct printing {
    cJSON *messages;
    struct tp_buffer content;
};

static void add_word(cJSON *message, const char *key, const char *text)
{
    if (text != NULL)
        tp_json_add_text(message, key, text, strlen(text));
}

static int take_event(void *context, const struct tp_harmony_event *event)
{
    struct printing *printing = context;
    if (event->kind == TP_HARMONY_TEXT)
        return tp_buffer_append(&printing->content, event->text, event->length);
    if (event->kind == TP_HARMONY_MESSAGE) {
        printing->content.length = 0;
        return 0;
    }
    cJSON *message = cJSON_CreateObject();
    add_word(message, "role", event->header->role);
    add_word(message, "recipient", event->header->recipient);
    add_word(message, "channel", event->header->channel);
    add_word(message, "content_type", event->header->content_type);
    tp_json_add_text(message, "content",
                     printing->content.bytes != NULL ? printing->content.bytes : "",
                     printing->content.length);
    add_word(message, "end", tp_harmony_end_names[event->end]);
    if (event->header->malformed)
        cJSON_AddTrueToObject(message, "malformed");
    return cJSON_AddItemToArray(printing->messages, message) ? 0 : -ENOMEM;
}

static int print_messages(const struct printing *printing)
{
    char *text = cJSON_PrintUnformatted(printing->messages);
    if (text == NULL)
        return -ENOMEM;
    printf("{\"messages\": %s}\n", text);
    cJSON_free(text);
    return 0;
}

int tp_chat_text_print_parsed(const struct tp_tokenizer *tokenizer, const struct tp_ids *ids,
                              struct tp_error *error)
{
    struct tp_harmony harmony;
    struct tp_harmony_parser *parser;
    int rc = tp_harmony_init(&harmony, tokenizer, error);
    if (rc < 0)
        return rc;
    struct printing printing = {.messages = cJSON_CreateArray()};
    rc = printing.messages == NULL
             ? -ENOMEM
             : tp_harmony_parser_new(&harmony, "assistant", take_event, &printing, &parser);
    if (rc == 0) {
        for (size_t i = 0; rc == 0 && i < ids->n; i++)
            rc = tp_harmony_parser_feed(parser, ids->items[i]);
        if (rc == 0)
            rc = tp_harmony_parser_finish(parser);
        tp_harmony_parser_free(parser);
    }
    if (rc == 0)
        rc = print_messages(&printing);
    cJSON_Delete(printing.messages);
    tp_buffer_clear(&printing.content);
    return rc < 0 ? tp_error_set(error, rc, "%s", strerror(-rc)) : 0;
}
