#include "decode/error.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Copies `from` to `to`, control characters as \xNN, cut at `size`. */
static void copy_printable(char *to, size_t size, const char *from)
{
    size_t at = 0;
    for (; *from != '\0'; from++) {
        unsigned char c = (unsigned char)*from;
        bool control = c < 0x20 || c == 0x7f;
        size_t width = control ? 4 : 1;
        if (at + width >= size)
            break;
        if (control)
            snprintf(to + at, size - at, "\\x%02x", c);
        else
            to[at] = (char)c;
        at += width;
    }
    to[at] = '\0';
}

void tp_error_format(struct tp_error *error, const char *format, ...)
{
    if (error == NULL)
        return;
    int saved_errno = errno; /* callers say tp_error_set(error, -errno, ...) */
    char raw[sizeof error->text];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(raw, sizeof raw, format, arguments);
    va_end(arguments);
    copy_printable(error->text, sizeof error->text, raw);
    errno = saved_errno;
}

void tp_error_format_prefix(struct tp_error *error, const char *format, ...)
{
    if (error == NULL)
        return;
    int saved_errno = errno;
    char tail[sizeof error->text];
    memcpy(tail, error->text, sizeof tail);
    char raw[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(raw, sizeof raw, format, arguments);
    va_end(arguments);
    tp_error_format(error, "%s: %s", raw, tail);
    errno = saved_errno;
}
