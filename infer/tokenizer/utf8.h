/* UTF-8 as Unicode 15, table 3-7, has it: no overlong forms, no surrogates, up to U+10FFFF. */
#ifndef TENSORPORT_INFER_TOKENIZER_UTF8_H
#define TENSORPORT_INFER_TOKENIZER_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infer/tokenizer/buffer.h"

/* Bytes of the character at `text`, or 0 if it is not valid; `length` > 0. */
size_t tp_utf8_character(const char *text, size_t length);

/* Bytes at the start of `text` that are valid: `length` if all are. */
size_t tp_utf8_valid(const char *text, size_t length);

/* The same for a character known to be valid. */
static inline size_t tp_utf8_step(char first)
{
    unsigned char c = (unsigned char)first;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

/* Writes a code point below 0x110000 that is no surrogate; gives its 1 to 4 bytes. */
size_t tp_utf8_write(uint32_t code, char target[4]);

/* The code point of a valid character. */
uint32_t tp_utf8_read(const char *text);

/* A stream of bytes made into valid UTF-8: what begins a character waits for the rest of it, and
 * each longest beginning that cannot be continued becomes one U+FFFD, as Unicode recommends and
 * Python and Rust do. Starts as zeros. */
struct tp_utf8_repair {
    char waiting[4];
    size_t n_waiting;
};

/* Appends what is certain. -ENOMEM. */
int tp_utf8_repair_feed(struct tp_utf8_repair *repair, const char *bytes, size_t length,
                        struct tp_buffer *out);
/* The stream has ended: what waits becomes U+FFFD. */
int tp_utf8_repair_finish(struct tp_utf8_repair *repair, struct tp_buffer *out);

#endif
