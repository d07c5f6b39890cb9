/* Two arrays that grow: bytes, and token ids. They start as zeros and belong to whoever declares
 * them. */
#ifndef TENSORPORT_INFER_TOKENIZER_BUFFER_H
#define TENSORPORT_INFER_TOKENIZER_BUFFER_H

#include <stddef.h>
#include <stdint.h>

struct tp_buffer {
    char *bytes; /* no NUL at the end */
    size_t length, capacity;
};

struct tp_ids {
    uint32_t *items;
    size_t n, capacity;
};

/* Each may move what is there. -ENOMEM leaves it as it was. */
int tp_buffer_reserve(struct tp_buffer *buffer, size_t more);
int tp_buffer_append(struct tp_buffer *buffer, const void *bytes, size_t length);
int tp_buffer_append_text(struct tp_buffer *buffer, const char *text);
void tp_buffer_clear(struct tp_buffer *buffer);

int tp_ids_reserve(struct tp_ids *ids, size_t more);
int tp_ids_append(struct tp_ids *ids, uint32_t id);
void tp_ids_clear(struct tp_ids *ids);

#endif
