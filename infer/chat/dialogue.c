#include "infer/chat/dialogue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "infer/chat/template.h"

struct tp_dialogue {
    enum tp_dialogue_format format;
    const struct tp_tokenizer *tokenizer;
    struct tp_harmony harmony;
    struct tp_template *template;
    struct tp_ids stops;
};

void tp_dialogue_free(struct tp_dialogue *dialogue)
{
    if (dialogue == NULL)
        return;
    tp_template_free(dialogue->template);
    tp_ids_clear(&dialogue->stops);
    free(dialogue);
}

/* ---- which format, and its stops */

bool tp_dialogue_is_stop(const struct tp_dialogue *dialogue, uint32_t id)
{
    for (size_t i = 0; i < dialogue->stops.n; i++) {
        if (dialogue->stops.items[i] == id)
            return true;
    }
    return false;
}

static int add_stop(struct tp_dialogue *dialogue, uint32_t id)
{
    bool ends_message = dialogue->format == TP_DIALOGUE_HARMONY && id == dialogue->harmony.end;
    return ends_message || tp_dialogue_is_stop(dialogue, id) ? 0
                                                             : tp_ids_append(&dialogue->stops, id);
}

static int open_harmony(struct tp_dialogue *dialogue, struct tp_error *error)
{
    const struct tp_harmony *harmony = &dialogue->harmony;
    dialogue->format = TP_DIALOGUE_HARMONY;
    int rc = tp_harmony_init(&dialogue->harmony, dialogue->tokenizer, error);
    if (rc < 0)
        return rc;
    rc = add_stop(dialogue, harmony->done);
    if (rc == 0)
        rc = add_stop(dialogue, harmony->call);
    return rc < 0 ? rc : add_stop(dialogue, harmony->end_of_text);
}

static int open_template(struct tp_dialogue *dialogue, const char *name, struct tp_error *error)
{
    dialogue->format = TP_DIALOGUE_TEMPLATE;
    int rc = tp_template_open(name, &dialogue->template, error);
    return rc < 0 ? rc
                  : tp_template_stops(dialogue->template, dialogue->tokenizer, &dialogue->stops,
                                      error);
}

int tp_dialogue_open(const char *format, const struct tp_tokenizer *tokenizer, const size_t *eos,
                     size_t n_eos, struct tp_dialogue **ret_dialogue, struct tp_error *error)
{
    struct tp_dialogue *dialogue = calloc(1, sizeof *dialogue);
    if (dialogue == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    dialogue->tokenizer = tokenizer;
    int rc = 0;
    if (strcmp(format, "harmony") == 0)
        rc = open_harmony(dialogue, error);
    else if (strcmp(format, "none") != 0)
        rc = open_template(dialogue, format, error);
    for (size_t i = 0; rc == 0 && i < n_eos; i++) {
        if (eos[i] <= UINT32_MAX)
            rc = add_stop(dialogue, (uint32_t)eos[i]);
    }
    if (rc < 0) {
        tp_dialogue_free(dialogue);
        return rc == -ENOMEM ? tp_error_set(error, rc, "out of memory") : rc;
    }
    *ret_dialogue = dialogue;
    return 0;
}

enum tp_dialogue_format tp_dialogue_format(const struct tp_dialogue *dialogue)
{
    return dialogue->format;
}

const struct tp_tokenizer *tp_dialogue_tokenizer(const struct tp_dialogue *dialogue)
{
    return dialogue->tokenizer;
}

const struct tp_harmony *tp_dialogue_harmony(const struct tp_dialogue *dialogue)
{
    return dialogue->format == TP_DIALOGUE_HARMONY ? &dialogue->harmony : NULL;
}

const struct tp_ids *tp_dialogue_stops(const struct tp_dialogue *dialogue)
{
    return &dialogue->stops;
}

/* ---- prompts */

static int refuse_none(struct tp_error *error)
{
    return tp_error_set(error, -EINVAL,
                        "expected a model whose format of conversations is known, found one that "
                        "goes on with a text; give --template NAME or --template FILE");
}

int tp_dialogue_check(const struct tp_dialogue *dialogue, const struct tp_dialogue_preface *preface,
                      struct tp_error *error)
{
    if (dialogue->format == TP_DIALOGUE_NONE)
        return refuse_none(error);
    if (dialogue->format == TP_DIALOGUE_TEMPLATE &&
        (preface->reasoning_effort != NULL || preface->date != NULL))
        return tp_error_set(error, -EINVAL,
                            "a template has no place for %s: expected a model that speaks harmony",
                            preface->date != NULL ? "a date" : "a reasoning effort");
    return 0;
}

int tp_dialogue_write(const struct tp_dialogue *dialogue,
                      const struct tp_conversation *conversation,
                      const struct tp_harmony_options *options, struct tp_ids *ids,
                      struct tp_error *error)
{
    switch (dialogue->format) {
    case TP_DIALOGUE_HARMONY:
        return tp_harmony_write(&dialogue->harmony, conversation, options, ids, error);
    case TP_DIALOGUE_TEMPLATE:
        return tp_template_write(dialogue->template, dialogue->tokenizer, conversation,
                                 options->complete, ids, error);
    case TP_DIALOGUE_NONE:
        break;
    }
    return refuse_none(error);
}

/* The preface as messages: a system's in a template; in harmony a developer's, since the system
 * message there is a form of its own. */
static int add_preface(const struct tp_dialogue *dialogue,
                       const struct tp_dialogue_preface *preface, bool needs_system,
                       struct tp_conversation *messages)
{
    size_t length = preface->system != NULL ? strlen(preface->system) : 0;
    struct tp_message *message;
    int rc = 0;
    if (dialogue->format == TP_DIALOGUE_HARMONY && needs_system)
        rc = tp_conversation_add(messages, TP_ROLE_SYSTEM, NULL, 0, NULL);
    if (rc < 0 || length == 0)
        return rc;
    if (dialogue->format == TP_DIALOGUE_TEMPLATE)
        return tp_conversation_add(messages, TP_ROLE_SYSTEM, preface->system, length, NULL);
    rc = tp_conversation_add(messages, TP_ROLE_DEVELOPER, NULL, 0, &message);
    if (rc < 0)
        return rc;
    message->instructions = strdup(preface->system);
    message->instructions_length = length;
    return message->instructions == NULL ? -ENOMEM : 0;
}

/* The messages of `own`, then those of `conversation`, which stay its. */
static int join(const struct tp_conversation *own, const struct tp_conversation *conversation,
                struct tp_conversation *ret_joined)
{
    size_t n = own->n + conversation->n;
    struct tp_message *messages = calloc(n > 0 ? n : 1, sizeof *messages);
    if (messages == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        messages[i] = i < own->n ? own->messages[i] : conversation->messages[i - own->n];
    *ret_joined = (struct tp_conversation){messages, n, n};
    return 0;
}

int tp_dialogue_prompt(const struct tp_dialogue *dialogue,
                       const struct tp_dialogue_preface *preface,
                       const struct tp_conversation *conversation, struct tp_ids *ids,
                       struct tp_error *error)
{
    const struct tp_harmony_options options = {preface->reasoning_effort, preface->date, true};
    struct tp_conversation own = {0}, joined = {0};
    bool needs_system = conversation->n == 0 || conversation->messages[0].role != TP_ROLE_SYSTEM;
    int rc = tp_dialogue_check(dialogue, preface, error);
    if (rc < 0)
        return rc;
    rc = add_preface(dialogue, preface, needs_system, &own);
    if (rc == 0)
        rc = join(&own, conversation, &joined);
    if (rc < 0) {
        tp_error_set(error, rc, "out of memory");
    } else {
        rc = tp_dialogue_write(dialogue, &joined, &options, ids, error);
        free(joined.messages);
    }
    tp_conversation_clear(&own);
    return rc;
}
