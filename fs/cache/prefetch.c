#include "fs/cache/prefetch.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

/* Enough for the windows of a few dozen streams; what does not fit is merely not read ahead. */
enum { QUEUE_MAX = 128 };

struct job {
    const void *owner; /* NULL: cancelled */
    struct tp_tile_key key;
    tp_tile_fill *fill;
    void *context;
};

struct tp_prefetcher {
    struct tp_cache *cache;
    size_t n_threads;
    pthread_t *threads;

    pthread_mutex_t lock; /* protects all below */
    pthread_cond_t work;
    bool stopping;
    size_t first, n; /* jobs[first .. first + n) modulo QUEUE_MAX */
    struct job jobs[QUEUE_MAX];
    struct tp_prefetch_counters counters;
};

static struct job *job_at(struct tp_prefetcher *prefetcher, size_t i)
{
    return &prefetcher->jobs[(prefetcher->first + i) % QUEUE_MAX];
}

/* Waits for the next job; false when it is time to end. */
static bool take(struct tp_prefetcher *prefetcher, struct job *ret_job)
{
    pthread_mutex_lock(&prefetcher->lock);
    while (prefetcher->n == 0 && !prefetcher->stopping)
        pthread_cond_wait(&prefetcher->work, &prefetcher->lock);
    bool go_on = !prefetcher->stopping;
    if (go_on) {
        *ret_job = *job_at(prefetcher, 0);
        prefetcher->first = (prefetcher->first + 1) % QUEUE_MAX;
        prefetcher->n--;
    }
    pthread_mutex_unlock(&prefetcher->lock);
    return go_on;
}

static void *run(void *context)
{
    struct tp_prefetcher *prefetcher = context;
    struct job job;
    while (take(prefetcher, &job)) {
        const struct tp_tile *tile;
        if (job.owner == NULL)
            continue;
        /* A fill that fails is found again, and reported, by the read it was meant for. */
        if (tp_cache_acquire(prefetcher->cache, job.key, TP_CACHE_STREAM, job.fill, job.context,
                             &tile) == 0)
            tp_cache_release(prefetcher->cache, tile);
    }
    return NULL;
}

static int start_threads(struct tp_prefetcher *prefetcher, size_t n_threads)
{
    sigset_t all, before;
    sigfillset(&all); /* signals are for the main thread */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    while (prefetcher->n_threads < n_threads &&
           pthread_create(&prefetcher->threads[prefetcher->n_threads], NULL, run, prefetcher) == 0)
        prefetcher->n_threads++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return prefetcher->n_threads > 0 ? 0 : -EAGAIN;
}

int tp_prefetcher_new(struct tp_cache *cache, size_t n_threads,
                      struct tp_prefetcher **ret_prefetcher)
{
    struct tp_prefetcher *prefetcher = calloc(1, sizeof *prefetcher);
    if (prefetcher == NULL)
        return -ENOMEM;
    prefetcher->cache = cache;
    pthread_mutex_init(&prefetcher->lock, NULL);
    pthread_cond_init(&prefetcher->work, NULL);
    prefetcher->threads = calloc(n_threads, sizeof *prefetcher->threads);
    int rc = prefetcher->threads == NULL ? -ENOMEM : start_threads(prefetcher, n_threads);
    if (rc < 0) {
        tp_prefetcher_free(prefetcher);
        return rc;
    }
    *ret_prefetcher = prefetcher;
    return 0;
}

void tp_prefetcher_free(struct tp_prefetcher *prefetcher)
{
    if (prefetcher == NULL)
        return;
    pthread_mutex_lock(&prefetcher->lock);
    prefetcher->stopping = true;
    pthread_cond_broadcast(&prefetcher->work);
    pthread_mutex_unlock(&prefetcher->lock);
    for (size_t i = 0; i < prefetcher->n_threads; i++)
        pthread_join(prefetcher->threads[i], NULL);
    pthread_cond_destroy(&prefetcher->work);
    pthread_mutex_destroy(&prefetcher->lock);
    free(prefetcher->threads);
    free(prefetcher);
}

void tp_prefetch(struct tp_prefetcher *prefetcher, const void *owner, struct tp_tile_key key,
                 tp_tile_fill *fill, void *context)
{
    pthread_mutex_lock(&prefetcher->lock);
    if (prefetcher->n == QUEUE_MAX) {
        prefetcher->counters.dropped++;
    } else {
        *job_at(prefetcher, prefetcher->n) = (struct job){owner, key, fill, context};
        prefetcher->n++;
        prefetcher->counters.queued++;
        pthread_cond_signal(&prefetcher->work);
    }
    pthread_mutex_unlock(&prefetcher->lock);
}

void tp_prefetch_cancel(struct tp_prefetcher *prefetcher, const void *owner)
{
    pthread_mutex_lock(&prefetcher->lock);
    for (size_t i = 0; i < prefetcher->n; i++) {
        struct job *job = job_at(prefetcher, i);
        if (job->owner == owner) {
            job->owner = NULL;
            prefetcher->counters.cancelled++;
        }
    }
    pthread_mutex_unlock(&prefetcher->lock);
}

void tp_prefetch_count(struct tp_prefetcher *prefetcher, struct tp_prefetch_counters *ret_counters)
{
    pthread_mutex_lock(&prefetcher->lock);
    *ret_counters = prefetcher->counters;
    pthread_mutex_unlock(&prefetcher->lock);
}
