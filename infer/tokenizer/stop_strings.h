/* Strings that end a text while it is written, wherever its tokens divide them.
 *
 * What may be the beginning of one is held back until it is one or cannot be any more; everything
 * else is passed on at once. Bytes are compared, so that UTF-8 needs no care.
 */
#ifndef TENSORPORT_INFER_TOKENIZER_STOP_STRINGS_H
#define TENSORPORT_INFER_TOKENIZER_STOP_STRINGS_H

#include <stdbool.h>
#include <stddef.h>

#include "infer/tokenizer/buffer.h"

struct tp_stop_string; /* private: one of them */

/* Starts as zeros: no strings. */
struct tp_stop_strings {
    struct tp_stop_string *strings; /* [n] */
    size_t n;
    struct tp_buffer held; /* the longest end of the text that begins one of them */
    bool found;            /* one has come: the text is complete */
};

/* Adds a copy of `text`, before any text is fed. -EINVAL if it is empty; -ENOMEM. */
int tp_stop_strings_add(struct tp_stop_strings *stops, const char *text, size_t length);
void tp_stop_strings_clear(struct tp_stop_strings *stops);

/* The text goes on: appends to `out` what is certain. As soon as a string is complete, `found`
 * becomes true, the text up to it has been given out, and nothing more ever is; of strings that end
 * at the same byte the longest counts. -ENOMEM. */
int tp_stop_strings_feed(struct tp_stop_strings *stops, const char *text, size_t length,
                         struct tp_buffer *out);

/* The text has ended: appends what was held back. -ENOMEM. */
int tp_stop_strings_finish(struct tp_stop_strings *stops, struct tp_buffer *out);

#endif
