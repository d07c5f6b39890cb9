#include "fs/base/workers.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

struct crew {
    int (*work)(void *context, size_t worker);
    void *context;
    atomic_size_t n_started;
    atomic_int error; /* the first */
};

size_t tp_workers_default(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) < 0 || CPU_COUNT(&set) < 1)
        return 1;
    return (size_t)CPU_COUNT(&set);
}

static void *run(void *argument)
{
    struct crew *crew = argument;
    int none = 0, rc = crew->work(crew->context, atomic_fetch_add(&crew->n_started, 1));
    if (rc < 0)
        atomic_compare_exchange_strong(&crew->error, &none, rc);
    return NULL;
}

int tp_workers_run(size_t n, int (*work)(void *context, size_t worker), void *context)
{
    struct crew crew = {.work = work, .context = context};
    pthread_t *threads = calloc(n, sizeof *threads);
    size_t n_threads = 0;
    while (threads != NULL && n_threads + 1 < n &&
           pthread_create(&threads[n_threads], NULL, run, &crew) == 0)
        n_threads++;
    run(&crew);
    for (size_t i = 0; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    free(threads);
    return atomic_load(&crew.error);
}
