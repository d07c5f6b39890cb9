#include "infer/cli/standard_input.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

int tp_read_standard_input(struct tp_buffer *buffer, struct tp_error *error)
{
    enum { STEP = 1 << 16 };
    for (;;) {
        if (tp_buffer_reserve(buffer, STEP) < 0)
            return tp_error_set(error, -ENOMEM, "standard input: out of memory");
        ssize_t n =
            read(STDIN_FILENO, buffer->bytes + buffer->length, buffer->capacity - buffer->length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return tp_error_set(error, -errno, "standard input: cannot read: %s", strerror(errno));
        if (n == 0)
            return 0;
        buffer->length += (size_t)n;
    }
}

int tp_parse_ids(const char *text, size_t length, struct tp_ids *ids, struct tp_error *error)
{
    for (size_t i = 0; i < length;) {
        uint64_t id = 0;
        size_t start = i;
        if (memchr(" ,\t\r\n[]", text[i], 7) != NULL) {
            i++;
            continue;
        }
        for (; i < length && isdigit((unsigned char)text[i]) && id <= UINT32_MAX; i++)
            id = 10 * id + (uint64_t)(text[i] - '0');
        if (i == start || id >= UINT32_MAX)
            return tp_error_set(error, -EINVAL, "expected token ids, found '%.*s' at offset %zu",
                                (int)(length - start < 12 ? length - start : 12), text + start,
                                start);
        int rc = tp_ids_append(ids, (uint32_t)id);
        if (rc < 0)
            return rc;
    }
    return 0;
}
