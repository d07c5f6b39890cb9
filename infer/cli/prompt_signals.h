/* Signals while somebody sits at a prompt: Ctrl-C stops an answer or clears a line, and never ends
 * the program; a terminal that hangs up, or SIGTERM, ends it in order, with the terminal's modes as
 * they were. Handlers note the signal and wake whoever waits for input: a signal that comes just
 * before the waiting begins is not lost. */
#ifndef TENSORPORT_INFER_CLI_PROMPT_SIGNALS_H
#define TENSORPORT_INFER_CLI_PROMPT_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

#include "decode/error.h"

/* From here on SIGINT, SIGTERM and SIGHUP are noted; those that are ignored stay so. */
int tp_prompt_signals_open(struct tp_error *error);
/* They do what they did before. A SIGTERM or SIGHUP that came ends the program in here. */
void tp_prompt_signals_close(void);

/* The same, while a line is edited, for SIGTSTP, SIGCONT and SIGWINCH. */
void tp_prompt_signals_edit(bool on);

/* Waits until `fd` can be read, or a signal has come that was not taken yet: true for the first. */
bool tp_prompt_signals_wait(int fd);

/* True once after the signal has come, however often. */
bool tp_prompt_signals_take(int number);

/* Not 0 while there is a SIGINT, SIGTERM or SIGHUP that was not taken. */
const volatile sig_atomic_t *tp_prompt_signals_flag(void);

/* True if the program is to end. */
bool tp_prompt_signals_end(void);

#endif
