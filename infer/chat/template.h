/* Prompts of models that do not speak harmony: templates by name, or in a file.
 *
 * A template says in a line for each role how its messages are written:
 *
 *     # Llama 3
 *     begin     "<|begin_of_text|>"
 *     system    "<|start_header_id|>system<|end_header_id|>\n\n{content}<|eot_id|>"
 *     user      "<|start_header_id|>user<|end_header_id|>\n\n{content}<|eot_id|>"
 *     assistant "<|start_header_id|>assistant<|end_header_id|>\n\n{content}<|eot_id|>"
 *     reply     "<|start_header_id|>assistant<|end_header_id|>\n\n"
 *     stop      "<|eot_id|>" "<|end_of_text|>"
 *     trim
 *
 * In the quotes, \n, \t, \", \\ and \{ are escapes, {content} is the message's text, and what is
 * a special token of the model's tokenizer.json becomes that token; in {content} nothing does.
 * `begin` comes first; `reply` last, where the model goes on; `stop` lists the tokens that end an
 * answer, which the tokenizer must have; `trim` takes white space off both ends of contents. A
 * model without a system role has {system} in `user`: the system messages since the last user's
 * message, each followed by the text of `system` (such as "{content}\n\n"), and a line
 * `fold-system`. A tool's message needs a line `tool`, a developer's is a system's. There are no
 * conditions, loops or tool definitions: what needs those needs code.
 */
#ifndef TENSORPORT_INFER_CHAT_TEMPLATE_H
#define TENSORPORT_INFER_CHAT_TEMPLATE_H

#include "infer/chat/conversation.h"
#include "infer/tokenizer/tokenizer.h"

struct tp_template; /* immutable */

/* The names of the built-in ones, NULL at the end: llama3, mistral-instruct, chatml. */
extern const char *const tp_template_names[];

/* `name` is a built-in one's, or a path of a file. -EINVAL says line, expected and found. */
int tp_template_open(const char *name, struct tp_template **ret_template, struct tp_error *error);
int tp_template_parse(const char *text, size_t length, struct tp_template **ret_template,
                      struct tp_error *error);
void tp_template_free(struct tp_template *template);

/* Appends the ids of a conversation; with `complete`, ready for the model's answer. -EINVAL if the
 * template has no line for a role. */
int tp_template_write(const struct tp_template *template, const struct tp_tokenizer *tokenizer,
                      const struct tp_conversation *conversation, bool complete, struct tp_ids *ids,
                      struct tp_error *error);

/* Appends the ids that end an answer. -ENOENT if one is no token. */
int tp_template_stops(const struct tp_template *template, const struct tp_tokenizer *tokenizer,
                      struct tp_ids *ids, struct tp_error *error);

#endif
