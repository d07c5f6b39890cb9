/* Threads that make pieces at the same time and finish them in order.
 *
 * Where a packed block lies depends on those before it, and a checksum of a whole file takes its
 * bytes in sequence; all else about a piece can be done by any thread at any time. So each takes
 * the next piece, works on it, and waits for its turn to do the little that has an order.
 */
#ifndef TENSORPORT_FS_EXPORT_PACK_TURNS_H
#define TENSORPORT_FS_EXPORT_PACK_TURNS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "decode/error.h"

struct tp_turns {
    uint64_t n; /* pieces */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t taken, passed; /* pieces; under the lock, like the following */
    int error;              /* the first failure: nothing is taken any more */
    struct tp_error message;
};

void tp_turns_init(struct tp_turns *turns, uint64_t n);
void tp_turns_clear(struct tp_turns *turns);

/* The number of a piece that nobody has taken; false when there is none, or somebody failed. */
bool tp_turns_take(struct tp_turns *turns, uint64_t *ret_piece);

/* Waits until all pieces before it have passed. Nobody else is between tp_turns_wait() and
 * tp_turns_pass(). 0, or the error of somebody who failed: then there is nothing to pass. */
int tp_turns_wait(struct tp_turns *turns, uint64_t piece);
void tp_turns_pass(struct tp_turns *turns);

/* Lets all others stop at their next piece or turn, and keeps the message if it is the first.
 * Returns `rc`. */
int tp_turns_fail(struct tp_turns *turns, int rc, const struct tp_error *error);

#endif
