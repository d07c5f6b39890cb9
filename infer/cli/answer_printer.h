/* A model's answer on standard output, while it comes: what it thinks dimmed or left out, the rest
 * plain, each message on lines of its own.
 *
 * A model may write anything, escape sequences too: a terminal gets no control character but line
 * ends and tabs. What is not a terminal gets the text as it is.
 */
#ifndef TENSORPORT_INFER_CLI_ANSWER_PRINTER_H
#define TENSORPORT_INFER_CLI_ANSWER_PRINTER_H

#include <stdbool.h>

#include "infer/chat/answer.h"

struct tp_answer_printer {
    bool terminal;       /* control characters are taken out */
    bool dim;            /* it knows how to dim */
    bool show_reasoning; /* the channel analysis */
    /* Of the answer: */
    bool is_dim, in_line, failed;
    struct tp_buffer printable;
};

/* Takes what can be from the environment and standard output: whether it is a terminal, and may be
 * sent escape sequences (TERM, NO_COLOR). */
void tp_answer_printer_init(struct tp_answer_printer *printer, bool show_reasoning);
void tp_answer_printer_clear(struct tp_answer_printer *printer);

/* A tp_answer_handler; the context is the printer. -EIO when nothing can be written. */
int tp_answer_printer_take(void *context, const struct tp_answer_event *event);

/* The answer is over, wherever it is: ends the line, and the dimming. */
void tp_answer_printer_end(struct tp_answer_printer *printer);

/* Appends the text with U+FFFD in the place of control characters, but for line ends and tabs, and
 * without carriage returns. -ENOMEM. */
int tp_printable_append(struct tp_buffer *printable, const char *text, size_t length);

#endif
