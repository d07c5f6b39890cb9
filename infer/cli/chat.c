#include "infer/cli/chat.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "infer/cli/chat_note.h"
#include "infer/engine/session_file.h"

static struct tp_dialogue_preface preface_of(const struct tp_chat *chat)
{
    return (struct tp_dialogue_preface){chat->system, chat->reasoning_effort, chat->date};
}

static int replace(char **target, const char *text)
{
    char *copy = text != NULL ? strdup(text) : NULL;
    if (text != NULL && copy == NULL)
        return -ENOMEM;
    free(*target);
    *target = copy;
    return 0;
}

int tp_chat_open(struct tp_runtime *runtime, struct tp_dialogue *dialogue,
                 const struct tp_dialogue_preface *preface, const struct tp_generate_options *how,
                 struct tp_chat *ret_chat, struct tp_error *error)
{
    struct tp_chat chat = {.runtime = runtime, .dialogue = dialogue, .how = *how};
    chat.how.ignore_eos = true; /* the format's stops count, which know better */
    int rc = tp_dialogue_check(dialogue, preface, error);
    if (rc < 0)
        return rc;
    rc = tp_runtime_session(runtime, &chat.session, error);
    if (rc < 0)
        return rc;
    if (replace(&chat.system, preface->system) < 0 ||
        replace(&chat.reasoning_effort, preface->reasoning_effort) < 0 ||
        replace(&chat.date, preface->date) < 0) {
        tp_chat_close(&chat);
        return tp_error_set(error, -ENOMEM, "out of memory");
    }
    *ret_chat = chat;
    return 0;
}

void tp_chat_close(struct tp_chat *chat)
{
    if (chat->session.kind != NULL)
        tp_session_close(&chat->session);
    tp_conversation_clear(&chat->conversation);
    free(chat->system);
    free(chat->reasoning_effort);
    free(chat->date);
    *chat = (struct tp_chat){0};
}

/* ---- turns */

struct turn {
    const struct tp_dialogue *dialogue;
    struct tp_answer *answer;
    bool complete; /* the model has ended it */
    int rc;
};

/* A tp_generate_token_fn. */
static bool take_token(void *context, uint32_t token)
{
    struct turn *turn = context;
    turn->rc = tp_answer_feed(turn->answer, token);
    turn->complete = tp_dialogue_is_stop(turn->dialogue, token);
    return turn->rc == 0 && !turn->complete;
}

static enum tp_chat_end end_of(const struct turn *turn, const struct tp_generate_report *report)
{
    if (turn->complete)
        return TP_CHAT_ANSWERED;
    switch (report->end) {
    case TP_END_LENGTH:
        return TP_CHAT_LENGTH;
    case TP_END_CONTEXT:
        return TP_CHAT_CONTEXT;
    default:
        return TP_CHAT_STOPPED;
    }
}

static int answer(struct tp_chat *chat, const struct tp_ids *prompt, struct turn *turn,
                  struct tp_error *error)
{
    struct tp_generate_report report = {0};
    if (prompt->n >= chat->session.context)
        return tp_error_set(error, -ENOSPC,
                            "the conversation would have %zu tokens, the context has room for %zu; "
                            "/reset begins anew, /save and a larger --context go on",
                            prompt->n, chat->session.context);
    int rc = tp_generate(&chat->session, prompt->items, prompt->n, &chat->how, take_token, turn,
                         &report, error);
    if (rc < 0)
        return rc;
    rc = turn->rc < 0 ? turn->rc : tp_answer_finish(turn->answer);
    if (rc < 0)
        return tp_error_set(error, rc, "cannot print the answer: %s", strerror(-rc));
    chat->last = report;
    chat->n_turns++;
    chat->n_prompt += report.n_prompt;
    chat->n_reused += report.n_reused;
    chat->n_generated += report.n_generated;
    return 0;
}

static int write_prompt(const struct tp_chat *chat, struct tp_ids *prompt, struct tp_error *error)
{
    struct tp_dialogue_preface preface = preface_of(chat);
    return tp_dialogue_prompt(chat->dialogue, &preface, &chat->conversation, prompt, error);
}

int tp_chat_say(struct tp_chat *chat, const char *text, size_t length, tp_answer_handler *handle,
                void *context, enum tp_chat_end *ret_end, struct tp_error *error)
{
    struct turn turn = {.dialogue = chat->dialogue};
    size_t before = chat->conversation.n;
    struct tp_ids prompt = {0};
    int rc = tp_conversation_add(&chat->conversation, TP_ROLE_USER, text, length, NULL);
    if (rc == 0)
        rc = tp_answer_new(chat->dialogue, &chat->conversation, handle, context, &turn.answer);
    if (rc < 0)
        tp_error_set(error, rc, "out of memory");
    else
        rc = write_prompt(chat, &prompt, error);
    if (rc == 0)
        rc = answer(chat, &prompt, &turn, error);
    tp_answer_free(turn.answer);
    tp_ids_clear(&prompt);
    bool answered = chat->conversation.n > before + 1;
    if (rc < 0 || (!answered && !turn.complete))
        tp_conversation_cut(&chat->conversation, before);
    if (rc == 0)
        *ret_end = end_of(&turn, &chat->last);
    return rc;
}

/* ---- around turns */

int tp_chat_set(struct tp_chat *chat, char **which, const char *text, struct tp_error *error)
{
    char *old = *which;
    *which = NULL;
    int rc = replace(which, text);
    if (rc < 0) {
        *which = old;
        return tp_error_set(error, rc, "out of memory");
    }
    struct tp_dialogue_preface preface = preface_of(chat);
    rc = tp_dialogue_check(chat->dialogue, &preface, error);
    free(rc < 0 ? *which : old);
    if (rc < 0)
        *which = old;
    return rc;
}

void tp_chat_reset(struct tp_chat *chat)
{
    tp_conversation_clear(&chat->conversation);
    tp_session_cut(&chat->session, 0);
}

int tp_chat_save(const struct tp_chat *chat, const char *path, struct tp_error *error)
{
    struct tp_dialogue_preface preface = preface_of(chat);
    struct tp_buffer note = {0};
    int rc = tp_chat_note_write(&preface, &chat->conversation, &note);
    if (rc < 0)
        tp_error_set(error, rc, "%s: out of memory", path);
    else
        rc = tp_session_save(&chat->session, chat->runtime->model, note.bytes, note.length, path,
                             error);
    tp_buffer_clear(&note);
    return rc;
}

int tp_chat_load(struct tp_chat *chat, const char *path, struct tp_error *error)
{
    struct tp_chat loaded = *chat;
    char *text = NULL;
    size_t length = 0;
    loaded.conversation = (struct tp_conversation){0};
    loaded.system = loaded.reasoning_effort = loaded.date = NULL;
    loaded.session = (struct tp_session){0};
    int rc = tp_runtime_session(chat->runtime, &loaded.session, error);
    if (rc == 0)
        rc = tp_session_load(&loaded.session, chat->runtime->model, path, &text, &length, error);
    if (rc == 0) {
        rc = tp_chat_note_read(text, length, &loaded.system, &loaded.reasoning_effort, &loaded.date,
                               &loaded.conversation, error);
        struct tp_dialogue_preface preface = preface_of(&loaded);
        if (rc == 0)
            rc = tp_dialogue_check(chat->dialogue, &preface, error);
        if (rc < 0)
            tp_error_prefix(error, rc, "%s", path);
    }
    free(text);
    struct tp_chat other = rc == 0 ? *chat : loaded;
    if (rc == 0)
        *chat = loaded;
    tp_chat_close(&other);
    return rc;
}
