/* How a model is spoken to: the format of its prompts, and the tokens that end its answers.
 *
 * A dialogue is one of three: harmony, a template, or none (a model that only goes on with a text).
 * What is read back is in chat/answer.h.
 */
#ifndef TENSORPORT_INFER_CHAT_DIALOGUE_H
#define TENSORPORT_INFER_CHAT_DIALOGUE_H

#include <stdbool.h>

#include "infer/chat/conversation.h"
#include "infer/chat/harmony.h"
#include "infer/tokenizer/tokenizer.h"

enum tp_dialogue_format { TP_DIALOGUE_NONE, TP_DIALOGUE_HARMONY, TP_DIALOGUE_TEMPLATE };

/* What a model is told before the conversation. Strings are the caller's; NULL: not given. */
struct tp_dialogue_preface {
    const char *system;                  /* what the model should be and do */
    const char *reasoning_effort, *date; /* only harmony has a place for them */
};

struct tp_dialogue; /* immutable */

/* `format` is "harmony", a template's name or file (chat/template.h), or "none". `eos` [n_eos] are
 * the tokens that the model's configuration ends a text with. `tokenizer` must outlive it. -ENOENT
 * if the tokenizer lacks a token of the format, -EINVAL for a bad template, -ENOMEM; all with a
 * message. */
int tp_dialogue_open(const char *format, const struct tp_tokenizer *tokenizer, const size_t *eos,
                     size_t n_eos, struct tp_dialogue **ret_dialogue, struct tp_error *error);
void tp_dialogue_free(struct tp_dialogue *dialogue);

enum tp_dialogue_format tp_dialogue_format(const struct tp_dialogue *dialogue);
const struct tp_tokenizer *tp_dialogue_tokenizer(const struct tp_dialogue *dialogue);

/* Harmony's control tokens, or NULL if the format is another. */
const struct tp_harmony *tp_dialogue_harmony(const struct tp_dialogue *dialogue);

/* The tokens that end an answer. The configuration's; harmony's <|return|>, <|call|> and
 * <|endoftext|> too, but never <|end|>, which only ends one message of an answer; a template's own
 * too. */
const struct tp_ids *tp_dialogue_stops(const struct tp_dialogue *dialogue);
bool tp_dialogue_is_stop(const struct tp_dialogue *dialogue, uint32_t id);

/* -EINVAL with a message if the format has no place for what the preface says. Both of these refuse
 * the format none, too. */
int tp_dialogue_check(const struct tp_dialogue *dialogue, const struct tp_dialogue_preface *preface,
                      struct tp_error *error);

/* Appends the ids of a prompt, ready for the model's answer: the preface, then the conversation.
 * Harmony's own system message is put first unless the conversation begins with one. */
int tp_dialogue_prompt(const struct tp_dialogue *dialogue,
                       const struct tp_dialogue_preface *preface,
                       const struct tp_conversation *conversation, struct tp_ids *ids,
                       struct tp_error *error);

/* Appends the ids of a conversation as it stands; with `complete`, ready for an answer. */
int tp_dialogue_write(const struct tp_dialogue *dialogue,
                      const struct tp_conversation *conversation,
                      const struct tp_harmony_options *options, struct tp_ids *ids,
                      struct tp_error *error);

#endif
