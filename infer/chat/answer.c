#include "infer/chat/answer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "infer/chat/harmony_parser.h"

const char *const tp_channel_names[] = {"analysis", "commentary", "final", "call", NULL};

struct tp_answer {
    const struct tp_dialogue *dialogue;
    struct tp_conversation *conversation;
    tp_answer_handler *handle;
    void *context;
    struct tp_buffer content; /* of the message that is being written */
    struct tp_harmony_parser *parser;
    /* Without harmony: */
    bool begun;
    struct tp_decoder decoder;
    struct tp_buffer piece;
};

static int send(struct tp_answer *answer, enum tp_answer_event_kind kind, enum tp_channel channel,
                const char *recipient, const char *text, size_t length)
{
    const struct tp_answer_event event = {kind, channel, recipient, text, length};
    if (kind == TP_ANSWER_BEGIN)
        answer->content.length = 0;
    int rc = kind == TP_ANSWER_TEXT ? tp_buffer_append(&answer->content, text, length) : 0;
    return rc < 0 ? rc : answer->handle(answer->context, &event);
}

static int copy_word(const char *word, char **target)
{
    if (word == NULL)
        return 0;
    *target = strdup(word);
    return *target == NULL ? -ENOMEM : 0;
}

/* Whatever role a header claims, it was the assistant who wrote it. `header` may be NULL. */
static int keep_message(struct tp_answer *answer, const struct tp_harmony_header *header)
{
    const char *content = answer->content.bytes != NULL ? answer->content.bytes : "";
    struct tp_message *message;
    if (answer->conversation == NULL)
        return 0;
    int rc = tp_conversation_add(answer->conversation, TP_ROLE_ASSISTANT, content,
                                 answer->content.length, &message);
    if (rc == 0 && header != NULL)
        rc = copy_word(header->channel, &message->channel);
    if (rc == 0 && header != NULL)
        rc = copy_word(header->recipient, &message->recipient);
    if (rc == 0 && header != NULL)
        rc = copy_word(header->content_type, &message->content_type);
    return rc;
}

/* ---- harmony */

static enum tp_channel channel_of(const struct tp_harmony_header *header)
{
    if (header->recipient != NULL && strcmp(header->recipient, "all") != 0)
        return TP_CHANNEL_CALL;
    for (int i = 0; header->channel != NULL && i < TP_CHANNEL_FINAL; i++) {
        if (strcmp(header->channel, tp_channel_names[i]) == 0)
            return (enum tp_channel)i;
    }
    return TP_CHANNEL_FINAL;
}

/* A tp_harmony_handler. */
static int take_event(void *context, const struct tp_harmony_event *event)
{
    struct tp_answer *answer = context;
    enum tp_channel channel = channel_of(event->header);
    const char *recipient = channel == TP_CHANNEL_CALL ? event->header->recipient : NULL;
    int rc = 0;
    switch (event->kind) {
    case TP_HARMONY_MESSAGE:
        return send(answer, TP_ANSWER_BEGIN, channel, recipient, "", 0);
    case TP_HARMONY_TEXT:
        return send(answer, TP_ANSWER_TEXT, channel, recipient, event->text, event->length);
    case TP_HARMONY_ENDED:
        break;
    }
    if (event->end != TP_HARMONY_CUT || answer->content.length > 0)
        rc = keep_message(answer, event->header);
    return rc < 0 ? rc : send(answer, TP_ANSWER_END, channel, recipient, "", 0);
}

/* ---- plain text */

static int send_piece(struct tp_answer *answer)
{
    int rc = 0;
    if (answer->piece.length == 0)
        return 0;
    if (!answer->begun)
        rc = send(answer, TP_ANSWER_BEGIN, TP_CHANNEL_FINAL, NULL, "", 0);
    answer->begun = true;
    if (rc == 0)
        rc = send(answer, TP_ANSWER_TEXT, TP_CHANNEL_FINAL, NULL, answer->piece.bytes,
                  answer->piece.length);
    answer->piece.length = 0;
    return rc;
}

static int feed_plain(struct tp_answer *answer, uint32_t id)
{
    int rc = tp_decoder_feed(&answer->decoder, id, &answer->piece);
    return rc < 0 ? rc : send_piece(answer);
}

static int finish_plain(struct tp_answer *answer)
{
    int rc = tp_decoder_finish(&answer->decoder, &answer->piece);
    if (rc == 0)
        rc = send_piece(answer);
    if (rc < 0 || !answer->begun)
        return rc;
    answer->begun = false;
    rc = keep_message(answer, NULL);
    return rc < 0 ? rc : send(answer, TP_ANSWER_END, TP_CHANNEL_FINAL, NULL, "", 0);
}

/* ---- both */

int tp_answer_new(const struct tp_dialogue *dialogue, struct tp_conversation *conversation,
                  tp_answer_handler *handle, void *context, struct tp_answer **ret_answer)
{
    const struct tp_harmony *harmony = tp_dialogue_harmony(dialogue);
    struct tp_answer *answer = calloc(1, sizeof *answer);
    if (answer == NULL)
        return -ENOMEM;
    *answer = (struct tp_answer){
        .dialogue = dialogue,
        .conversation = conversation,
        .handle = handle,
        .context = context,
        .decoder = {.tokenizer = tp_dialogue_tokenizer(dialogue), .flags = TP_DECODE_SKIP_SPECIAL}};
    if (harmony != NULL &&
        tp_harmony_parser_new(harmony, "assistant", take_event, answer, &answer->parser) < 0) {
        free(answer);
        return -ENOMEM;
    }
    *ret_answer = answer;
    return 0;
}

void tp_answer_free(struct tp_answer *answer)
{
    if (answer == NULL)
        return;
    tp_harmony_parser_free(answer->parser);
    tp_buffer_clear(&answer->content);
    tp_buffer_clear(&answer->piece);
    free(answer);
}

/* A stop that harmony knows says how a message ends; any other is no text. */
static bool is_silent(const struct tp_answer *answer, uint32_t id)
{
    const struct tp_harmony *harmony = tp_dialogue_harmony(answer->dialogue);
    if (harmony != NULL &&
        (id == harmony->done || id == harmony->call || id == harmony->end_of_text))
        return false;
    return tp_dialogue_is_stop(answer->dialogue, id);
}

int tp_answer_feed(struct tp_answer *answer, uint32_t id)
{
    if (is_silent(answer, id))
        return 0;
    return answer->parser != NULL ? tp_harmony_parser_feed(answer->parser, id)
                                  : feed_plain(answer, id);
}

int tp_answer_finish(struct tp_answer *answer)
{
    return answer->parser != NULL ? tp_harmony_parser_finish(answer->parser) : finish_plain(answer);
}
