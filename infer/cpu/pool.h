/* A fixed pool of threads for pieces of work that last microseconds.
 *
 * Decoding one token is a few hundred short parallel steps in a row, so threads that wait for the
 * next one spin for a while before they sleep. Each thread has a contiguous share of the items,
 * which it takes from the front, so that it reads memory in order; who has none left takes from
 * the back of others' shares. A run ends when all items are done, not when all threads have
 * looked: a thread that the kernel does not schedule, because another process has its processor,
 * holds up at most the item it is at.
 */
#ifndef TENSORPORT_INFER_CPU_POOL_H
#define TENSORPORT_INFER_CPU_POOL_H

#include <stdbool.h>
#include <stddef.h>

#include "decode/error.h"

enum { TP_POOL_MAX_THREADS = 4096 };

struct tp_pool;

/* Does item `item`. `thread`, 0 to tp_pool_threads() - 1, chooses scratch memory and nothing else:
 * which thread does an item changes from run to run. */
typedef void tp_pool_fn(void *context, size_t item, size_t thread);

/* `n_threads` threads, the caller's included; 0: one for each physical core that this process may
 * use. `pin` keeps each of them, the caller's too, on a processor of its own until the pool is
 * freed. -EINVAL for more than TP_POOL_MAX_THREADS, -EAGAIN or -ENOMEM when there is no room for
 * them. */
int tp_pool_new(size_t n_threads, bool pin, struct tp_pool **ret_pool, struct tp_error *error);
void tp_pool_free(struct tp_pool *pool);

size_t tp_pool_threads(const struct tp_pool *pool);

/* Calls work(context, item, thread) once for each item from 0 to n_items - 1, in any order, and
 * returns when all are done. What the items wrote is then visible to the caller. One run at a
 * time, and none from inside an item. */
void tp_pool_run(struct tp_pool *pool, size_t n_items, tp_pool_fn *work, void *context);

#endif
