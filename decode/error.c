#include "decode/error.h"

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

int tp_error_set(struct tp_error *error, int code, const char *format, ...)
{
    if (error == NULL)
        return code;
    char raw[sizeof error->text];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(raw, sizeof raw, format, arguments);
    va_end(arguments);
    copy_printable(error->text, sizeof error->text, raw);
    return code;
}

int tp_error_prefix(struct tp_error *error, int code, const char *format, ...)
{
    if (error == NULL)
        return code;
    char tail[sizeof error->text];
    memcpy(tail, error->text, sizeof tail);
    char raw[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(raw, sizeof raw, format, arguments);
    va_end(arguments);
    return tp_error_set(error, code, "%s: %s", raw, tail);
}
