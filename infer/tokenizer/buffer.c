#include "infer/tokenizer/buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Room for `more` items beyond `n`, at least doubling. NULL: no memory. */
static void *grow(void *items, size_t item_size, size_t n, size_t more, size_t *capacity)
{
    size_t needed, bytes, wanted = *capacity < 32 ? 64 : *capacity * 2;
    if (__builtin_add_overflow(n, more, &needed))
        return NULL;
    if (wanted < needed)
        wanted = needed;
    if (__builtin_mul_overflow(wanted, item_size, &bytes))
        return NULL;
    void *moved = realloc(items, bytes);
    if (moved != NULL)
        *capacity = wanted;
    return moved;
}

int tp_buffer_reserve(struct tp_buffer *buffer, size_t more)
{
    if (buffer->bytes != NULL && buffer->capacity - buffer->length >= more)
        return 0;
    char *moved = grow(buffer->bytes, 1, buffer->length, more, &buffer->capacity);
    if (moved == NULL)
        return -ENOMEM;
    buffer->bytes = moved;
    return 0;
}

int tp_buffer_append(struct tp_buffer *buffer, const void *bytes, size_t length)
{
    int rc = tp_buffer_reserve(buffer, length);
    if (rc < 0)
        return rc;
    if (length > 0)
        memcpy(buffer->bytes + buffer->length, bytes, length);
    buffer->length += length;
    return 0;
}

int tp_buffer_append_text(struct tp_buffer *buffer, const char *text)
{
    return tp_buffer_append(buffer, text, strlen(text));
}

void tp_buffer_clear(struct tp_buffer *buffer)
{
    free(buffer->bytes);
    *buffer = (struct tp_buffer){0};
}

int tp_ids_reserve(struct tp_ids *ids, size_t more)
{
    if (ids->items != NULL && ids->capacity - ids->n >= more)
        return 0;
    uint32_t *moved = grow(ids->items, sizeof *ids->items, ids->n, more, &ids->capacity);
    if (moved == NULL)
        return -ENOMEM;
    ids->items = moved;
    return 0;
}

int tp_ids_append(struct tp_ids *ids, uint32_t id)
{
    if (ids->n == ids->capacity) {
        int rc = tp_ids_reserve(ids, 1);
        if (rc < 0)
            return rc;
    }
    ids->items[ids->n++] = id;
    return 0;
}

void tp_ids_clear(struct tp_ids *ids)
{
    free(ids->items);
    *ids = (struct tp_ids){0};
}
