/* Keeps as many threads at work as there are processors for them, and the rest in line.
 *
 * The kernel's read-ahead sends several requests at a time, and each thread that takes one
 * works in a buffer of its own. With more of them at work than processors, they push each
 * other's buffers out of the processor's caches, finish out of order, and take the processor
 * from the reader that waits for the first of them: on two processors that costs a third of
 * the rate (bench/README.md). So they pass a gate, in the order of their arrival.
 *
 * Nobody holds the gate while he waits for a disk: tp_gate_pause() lets the next one in.
 */
#ifndef TENSORPORT_FS_BASE_GATE_H
#define TENSORPORT_FS_BASE_GATE_H

#include <stddef.h>

struct tp_gate;

/* At most `width` threads are inside at a time. -ENOMEM. */
int tp_gate_new(size_t width, struct tp_gate **ret_gate);
void tp_gate_free(struct tp_gate *gate);

/* A thread is inside one gate at a time. `gate` may be NULL: then nothing happens. */
void tp_gate_enter(struct tp_gate *gate);
void tp_gate_leave(struct tp_gate *gate);

/* Steps out of the gate that the calling thread is inside of, if it is, and in again. */
void tp_gate_pause(void);
void tp_gate_resume(void);

#endif
