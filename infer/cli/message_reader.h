/* Messages that somebody types: a line; or more, each but the last ending in a backslash; or what
 * stands between """ at the beginning of a line and """ at the end of one. */
#ifndef TENSORPORT_INFER_CLI_MESSAGE_READER_H
#define TENSORPORT_INFER_CLI_MESSAGE_READER_H

#include <stdbool.h>

#include "infer/cli/line_reader.h"

struct tp_typed {
    struct tp_buffer text;
    bool quoted; /* between """: it is a message, whatever it begins with */
};

/* Reads the next one into `typed`, whose text is emptied before; TP_LINE_CLEARED if Ctrl-C took it
 * back. What the end of the input cuts short counts as it is. */
int tp_message_read(struct tp_line_reader *reader, const char *prompt, const char *more_prompt,
                    struct tp_typed *typed, enum tp_line *ret_line, struct tp_error *error);

#endif
