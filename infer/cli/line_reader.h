/* Lines that somebody types, or that a program sends.
 *
 * On a terminal that can do it they are edited, by libedit, with a history that outlives the
 * program; on one that cannot (TERM=dumb) they are read as the terminal gives them; of a pipe or a
 * file they are read without a word. Needs tp_prompt_signals_open() before, but for a pipe.
 */
#ifndef TENSORPORT_INFER_CLI_LINE_READER_H
#define TENSORPORT_INFER_CLI_LINE_READER_H

#include "decode/error.h"
#include "infer/tokenizer/buffer.h"

enum tp_line_style { TP_LINES_PLAIN, TP_LINES_PROMPTED, TP_LINES_EDITED };

enum tp_line {
    TP_LINE_READ,
    TP_LINE_CLEARED, /* by Ctrl-C */
    TP_LINE_END,     /* no more come: the end of the input, Ctrl-D, or a signal to end */
};

struct tp_line_reader;

/* Reads standard input. A history that cannot be kept is a warning on standard error. -ENOMEM, or
 * what is wrong with the terminal, with a message. */
int tp_line_reader_new(enum tp_line_style style, struct tp_line_reader **ret_reader,
                       struct tp_error *error);
/* Puts the terminal back as it was. */
void tp_line_reader_free(struct tp_line_reader *reader);

/* Appends the next line, without its end, to `line`; `prompt` stands before it. -EIO and the like
 * with a message. */
int tp_line_reader_next(struct tp_line_reader *reader, const char *prompt, struct tp_buffer *line,
                        enum tp_line *ret_line, struct tp_error *error);

#endif
