#include "infer/cli/standard_input.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "infer/tokenizer/tokenizer.h"

static int read_all(int fd, struct tp_buffer *buffer, struct tp_error *error)
{
    enum { STEP = 1 << 16 };
    while (buffer->length <= TP_ENCODE_LENGTH_MAX) {
        if (tp_buffer_reserve(buffer, STEP) < 0)
            return tp_error_set(error, -ENOMEM, "out of memory");
        ssize_t n = read(fd, buffer->bytes + buffer->length, buffer->capacity - buffer->length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return tp_error_set(error, -errno, "cannot read: %s", strerror(errno));
        if (n == 0)
            return 0;
        buffer->length += (size_t)n;
    }
    return tp_error_set(error, -EFBIG, "expected at most %d bytes of text, found more",
                        TP_ENCODE_LENGTH_MAX);
}

int tp_read_standard_input(struct tp_buffer *buffer, struct tp_error *error)
{
    int rc = read_all(STDIN_FILENO, buffer, error);
    return rc < 0 ? tp_error_prefix(error, rc, "standard input") : 0;
}

int tp_read_text_file(const char *path, struct tp_buffer *buffer, struct tp_error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? tp_error_set(error, -errno, "cannot open: %s", strerror(errno))
                    : read_all(fd, buffer, error);
    if (fd >= 0)
        close(fd);
    return rc < 0 ? tp_error_prefix(error, rc, "%s", path) : 0;
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
