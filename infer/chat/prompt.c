#include "infer/chat/prompt.h"

#include <string.h>

void tp_prompt_init(struct tp_prompt *prompt, const struct tp_tokenizer *tokenizer,
                    struct tp_ids *ids, struct tp_error *error)
{
    *prompt = (struct tp_prompt){.tokenizer = tokenizer, .ids = ids, .error = error};
}

void tp_prompt_add(struct tp_prompt *prompt, const char *text, size_t length)
{
    if (prompt->rc == 0)
        prompt->rc = tp_buffer_append(&prompt->run, text, length);
}

void tp_prompt_add_text(struct tp_prompt *prompt, const char *text)
{
    tp_prompt_add(prompt, text, strlen(text));
}

void tp_prompt_cut(struct tp_prompt *prompt)
{
    unsigned flags = TP_ENCODE_ORDINARY | TP_ENCODE_BARE;
    if (prompt->ids->n > 0)
        flags |= TP_ENCODE_CONTINUED;
    if (prompt->rc == 0 && prompt->run.length > 0)
        prompt->rc = tp_tokenizer_encode(prompt->tokenizer, prompt->run.bytes, prompt->run.length,
                                         flags, prompt->ids, prompt->error);
    prompt->run.length = 0;
}

void tp_prompt_token(struct tp_prompt *prompt, uint32_t id)
{
    tp_prompt_cut(prompt);
    if (prompt->rc == 0)
        prompt->rc = tp_ids_append(prompt->ids, id);
}

int tp_prompt_finish(struct tp_prompt *prompt)
{
    tp_prompt_cut(prompt);
    tp_buffer_clear(&prompt->run);
    return prompt->rc;
}
