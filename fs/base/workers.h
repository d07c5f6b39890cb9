/* A piece of work that several threads do together. */
#ifndef TENSORPORT_FS_BASE_WORKERS_H
#define TENSORPORT_FS_BASE_WORKERS_H

#include <stddef.h>

/* The most that a command line may ask for. */
enum { TP_WORKERS_MAX = 256 };

/* The processors this process may run on. */
size_t tp_workers_default(void);

/* Calls work(context, worker) in `n` threads at once (worker is 0 to n-1) and
 * waits for all of them. Fewer threads than asked for do the same work, as long as each takes
 * what there is to do until nothing is left. Returns the first error by time, or 0; the others
 * are for the work to tell to stop. */
int tp_workers_run(size_t n, int (*work)(void *context, size_t worker), void *context);

#endif
