/* What may be typed in a chat instead of a message: /help and its like. */
#ifndef TENSORPORT_INFER_CLI_CHAT_COMMANDS_H
#define TENSORPORT_INFER_CLI_CHAT_COMMANDS_H

#include <stdbool.h>

#include "infer/cli/chat.h"

/* True of a text that begins with a slash. */
bool tp_chat_is_command(const char *text, size_t length);

/* Does what the NUL-terminated line says. What was asked for goes to standard output; what has
 * happened, to standard error. An unknown command, and one that fails, is a negative errno with a
 * message. */
int tp_chat_command(struct tp_chat *chat, char *line, bool *ret_quit, struct tp_error *error);

#endif
