/* A prompt under construction: ids, and text that waits to become ids.
 *
 * Control tokens are put in as ids, by us; whatever anybody wrote is text and is encoded as such:
 * "<|end|>" in a message stays nine characters. Text is encoded in the runs that a format asks
 * for, since where it is cut decides its tokens.
 */
#ifndef TENSORPORT_INFER_CHAT_PROMPT_H
#define TENSORPORT_INFER_CHAT_PROMPT_H

#include "infer/tokenizer/tokenizer.h"

struct tp_prompt {
    const struct tp_tokenizer *tokenizer;
    struct tp_ids *ids;
    struct tp_buffer run; /* text that is not encoded yet */
    struct tp_error *error;
    int rc; /* the first error; everything after it does nothing */
};

/* Appends to `ids`. */
void tp_prompt_init(struct tp_prompt *prompt, const struct tp_tokenizer *tokenizer,
                    struct tp_ids *ids, struct tp_error *error);

/* Adds to the run. */
void tp_prompt_add(struct tp_prompt *prompt, const char *text, size_t length);
void tp_prompt_add_text(struct tp_prompt *prompt, const char *text);

/* Ends the run: what follows is encoded apart from it. */
void tp_prompt_cut(struct tp_prompt *prompt);

/* Ends the run and adds a token. */
void tp_prompt_token(struct tp_prompt *prompt, uint32_t id);

/* Ends the run and frees what there is; the first error, or 0. */
int tp_prompt_finish(struct tp_prompt *prompt);

#endif
