/* The lines that were typed, from one run to the next: a file of the user's, a line for each,
 * appended to as they come, so that programs at the same time lose nothing.
 *
 *     $XDG_STATE_HOME/tensorport/chat_history, or ~/.local/state/tensorport/chat_history
 */
#ifndef TENSORPORT_INFER_CLI_HISTORY_FILE_H
#define TENSORPORT_INFER_CLI_HISTORY_FILE_H

#include <stddef.h>

#include "decode/error.h"

enum { TP_HISTORY_LINES = 1000 /* that are read */ };

/* Opens the file, and makes it and its folders, which only their owner may read, if need be. A
 * negative errno with a message; -ENOENT without one where neither variable names a place. */
int tp_history_file_open(int *ret_fd, struct tp_error *error);

/* Calls `take` with each of the last lines, oldest first, NUL-terminated. What is not UTF-8, or too
 * much, is left out. */
void tp_history_file_read(int fd, void (*take)(void *context, const char *line), void *context);

/* Appends a line, which has no line end. A full disk loses it: nobody stops chatting for that. */
void tp_history_file_append(int fd, const char *line, size_t length);

#endif
