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

/* Sets the message and returns `code` (a negative errno), so that a parser can say
 * `return tp_error_set(error, -EINVAL, ...)`. Control characters of the arguments come out
 * as \xNN: tensor names are data and must not break the line. `error` may be NULL. */
int tp_error_set(struct tp_error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " in front of the message; returns `code`. */
int tp_error_prefix(struct tp_error *error, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
