#include "fs/base/gate.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct waiter {
    struct waiter *next;
    bool called;
    pthread_cond_t call;
};

struct tp_gate {
    pthread_mutex_t lock; /* protects all below and the waiters */
    size_t places;        /* free ones; none while somebody waits */
    struct waiter *first, **last;
};

/* What tp_gate_pause() and tp_gate_resume() work on: they are called far below those who know
 * of a gate. */
static _Thread_local struct tp_gate *inside;

int tp_gate_new(size_t width, struct tp_gate **ret_gate)
{
    struct tp_gate *gate = calloc(1, sizeof *gate);
    if (gate == NULL)
        return -ENOMEM;
    pthread_mutex_init(&gate->lock, NULL);
    gate->places = width;
    gate->last = &gate->first;
    *ret_gate = gate;
    return 0;
}

void tp_gate_free(struct tp_gate *gate)
{
    if (gate == NULL)
        return;
    pthread_mutex_destroy(&gate->lock);
    free(gate);
}

/* Called under the lock. */
static void wait_in_line(struct tp_gate *gate)
{
    struct waiter waiter = {.next = NULL};
    pthread_cond_init(&waiter.call, NULL);
    *gate->last = &waiter;
    gate->last = &waiter.next;
    while (!waiter.called)
        pthread_cond_wait(&waiter.call, &gate->lock);
    pthread_cond_destroy(&waiter.call);
}

static void enter(struct tp_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    if (gate->places > 0)
        gate->places--;
    else
        wait_in_line(gate);
    pthread_mutex_unlock(&gate->lock);
}

/* Hands the place to the first in line. */
static void leave(struct tp_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    struct waiter *next = gate->first;
    if (next == NULL) {
        gate->places++;
    } else {
        gate->first = next->next;
        if (gate->first == NULL)
            gate->last = &gate->first;
        next->called = true;
        pthread_cond_signal(&next->call);
    }
    pthread_mutex_unlock(&gate->lock);
}

void tp_gate_enter(struct tp_gate *gate)
{
    if (gate == NULL)
        return;
    enter(gate);
    inside = gate;
}

void tp_gate_leave(struct tp_gate *gate)
{
    if (gate == NULL)
        return;
    inside = NULL;
    leave(gate);
}

void tp_gate_pause(void)
{
    if (inside != NULL)
        leave(inside);
}

void tp_gate_resume(void)
{
    if (inside != NULL)
        enter(inside);
}
