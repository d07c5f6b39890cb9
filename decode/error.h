/* The message that travels beside an error code.
 *
 * Layers that open and parse return a negative errno and describe what went wrong in a
 * struct tp_error: file, tensor, expected, found. The layers that read return the code
 * alone: after opening there is nothing left to explain about a format.
 */
#ifndef TENSORPORT_DECODE_ERROR_H
#define TENSORPORT_DECODE_ERROR_H

#include <stdarg.h>

struct tp_error {
    char text[1024]; /* one line, no newline; empty when nothing was said */
};

/* Sets the message and gives `code` (a negative errno), so that a parser can say
 * `return tp_error_set(error, -EINVAL, "expected ...", ...)`. Control characters of the
 * arguments come out as \xNN: tensor names are data and must not break the line. `error` may
 * be NULL. Macros, so that whoever reads the code, a compiler included, sees what is returned. */
#define tp_error_set(error, code, ...) (tp_error_format((error), __VA_ARGS__), tp_error_code(code))

/* Puts "prefix: " in front of the message; gives `code`. */
#define tp_error_prefix(error, code, ...)                                                          \
    (tp_error_format_prefix((error), __VA_ARGS__), tp_error_code(code))

void tp_error_format(struct tp_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void tp_error_format_prefix(struct tp_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A function, so that the macros may also stand where the code is not wanted. */
static inline int tp_error_code(int code)
{
    return code;
}

#endif
