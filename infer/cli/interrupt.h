/* SIGINT, SIGTERM and SIGHUP while something is generated: the first one asks for an end, which the
 * work comes to by itself, prints what there is and cleans up; the second one ends the program. */
#ifndef TENSORPORT_INFER_CLI_INTERRUPT_H
#define TENSORPORT_INFER_CLI_INTERRUPT_H

#include <signal.h>

/* From here on the signals only make the result not 0, once: it is the signal's number. Those that
 * are ignored stay so: nohup keeps its effect. A write beyond a limit on file sizes becomes an
 * error like a full disk. */
const volatile sig_atomic_t *tp_interrupt_catch(void);

/* The signals do what they did before. One that came ends the program in here, as it would have
 * done at once: whoever started it, a shell's loop for example, learns of it. Nothing happens if
 * they were not caught. */
void tp_interrupt_release(void);

#endif
