#include "infer/cpu/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/base/clock.h"
#include "infer/cpu/cores.h"

/* A share is one word, so that taking an item is one compare-and-swap which fails when the run
 * that the thread means is over: run number (24 bits), first item (20), end (20). */
enum { ITEM_BITS = 20, MAX_ITEMS = (1 << ITEM_BITS) - 1, RUN_MASK = (1 << 24) - 1 };

enum { SPIN_MICROSECONDS = 100, PAUSES_PER_LOOK_AT_CLOCK = 64, CACHE_LINE = 64 };

struct share {
    _Alignas(CACHE_LINE) _Atomic uint64_t items;
};

struct worker {
    struct tp_pool *pool;
    pthread_t thread;
    size_t index;
};

struct tp_pool {
    _Alignas(CACHE_LINE) _Atomic uint32_t run; /* a futex; a new number starts a run */
    _Atomic uint32_t n_sleeping;               /* workers that wait for it in the kernel */

    /* The run: written by the caller between runs, read by who has taken an item of it. */
    tp_pool_fn *work;
    void *context;

    size_t n_threads;
    struct worker *workers; /* [n_threads]; the first is the caller and has no thread */
    struct share *shares;   /* [n_threads] */
    cpu_set_t callers_set;  /* before pinning */
    bool pinned;
    atomic_bool stopping;

    atomic_bool caller_sleeps;
    _Alignas(CACHE_LINE) _Atomic uint32_t n_left; /* a futex: items not done yet */
};

static long futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
    return syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static uint64_t pack(uint32_t run, size_t first, size_t end)
{
    return (uint64_t)(run & RUN_MASK) << (2 * ITEM_BITS) | (uint64_t)first << ITEM_BITS | end;
}

/* Takes an item of run `run` from a share: the first one from one's own, the last one otherwise. */
static bool take(struct share *share, uint32_t run, bool own, size_t *ret_item)
{
    uint64_t items = atomic_load_explicit(&share->items, memory_order_acquire);
    for (;;) {
        size_t first = items >> ITEM_BITS & MAX_ITEMS, end = items & MAX_ITEMS;
        if (items >> (2 * ITEM_BITS) != (run & RUN_MASK) || first >= end)
            return false;
        uint64_t rest = own ? pack(run, first + 1, end) : pack(run, first, end - 1);
        if (atomic_compare_exchange_weak(&share->items, &items, rest)) {
            *ret_item = own ? first : end - 1;
            return true;
        }
    }
}

/* The fields of the run are read after an item was taken: they then stay until it is done. */
static void take_part(struct tp_pool *pool, size_t thread, uint32_t run)
{
    uint32_t n_done = 0;
    for (size_t i = 0; i < pool->n_threads; i++) {
        struct share *share = &pool->shares[(thread + i) % pool->n_threads];
        for (size_t item; take(share, run, i == 0, &item); n_done++)
            pool->work(pool->context, item, thread);
    }
    if (n_done > 0 && atomic_fetch_sub(&pool->n_left, n_done) == n_done &&
        atomic_load(&pool->caller_sleeps))
        futex(&pool->n_left, FUTEX_WAKE, 1);
}

static inline void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Spins while *word is (or, for `until`, is not) `value`; false when it took too long. */
static bool spin(_Atomic uint32_t *word, uint32_t value, bool until)
{
    int64_t end = 0;
    for (unsigned i = 0; (atomic_load_explicit(word, memory_order_acquire) == value) != until;
         i++) {
        if (i % PAUSES_PER_LOOK_AT_CLOCK == PAUSES_PER_LOOK_AT_CLOCK - 1) {
            int64_t now = tp_clock_nanoseconds() / 1000;
            end = end == 0 ? now + SPIN_MICROSECONDS : end;
            if (now > end)
                return false;
        }
        pause_briefly();
    }
    return true;
}

static void *worker_main(void *argument)
{
    const struct worker *worker = argument;
    struct tp_pool *pool = worker->pool;
    for (uint32_t seen = 0;;) {
        if (!spin(&pool->run, seen, false)) {
            atomic_fetch_add(&pool->n_sleeping, 1);
            while (atomic_load(&pool->run) == seen)
                futex(&pool->run, FUTEX_WAIT, seen);
            atomic_fetch_sub(&pool->n_sleeping, 1);
        }
        seen = atomic_load(&pool->run);
        if (atomic_load(&pool->stopping))
            return NULL;
        take_part(pool, worker->index, seen);
    }
}

/* Starts run number `run` + 1 once its shares are there. */
static uint32_t announce(struct tp_pool *pool)
{
    uint32_t run = atomic_fetch_add(&pool->run, 1) + 1;
    if (atomic_load(&pool->n_sleeping) > 0)
        futex(&pool->run, FUTEX_WAKE, INT_MAX);
    return run;
}

static void wait_until_done(struct tp_pool *pool)
{
    if (spin(&pool->n_left, 0, true))
        return;
    atomic_store(&pool->caller_sleeps, true);
    for (uint32_t left; (left = atomic_load(&pool->n_left)) != 0;)
        futex(&pool->n_left, FUTEX_WAIT, left);
    atomic_store(&pool->caller_sleeps, false);
}

static void run_shared(struct tp_pool *pool, size_t n_items, tp_pool_fn *work, void *context)
{
    uint32_t run = atomic_load(&pool->run) + 1;
    pool->work = work;
    pool->context = context;
    atomic_store(&pool->n_left, (uint32_t)n_items);
    for (size_t i = 0; i < pool->n_threads; i++)
        atomic_store(&pool->shares[i].items,
                     pack(run, n_items * i / pool->n_threads, n_items * (i + 1) / pool->n_threads));
    announce(pool);
    take_part(pool, 0, run);
    wait_until_done(pool);
}

/* Items beyond what a share can count. */
struct offset_run {
    tp_pool_fn *work;
    void *context;
    size_t first;
};

static void work_at_offset(void *context, size_t item, size_t thread)
{
    const struct offset_run *run = context;
    run->work(run->context, run->first + item, thread);
}

void tp_pool_run(struct tp_pool *pool, size_t n_items, tp_pool_fn *work, void *context)
{
    if (pool->n_threads == 1 || n_items <= 1) {
        for (size_t i = 0; i < n_items; i++)
            work(context, i, 0);
        return;
    }
    if (n_items <= MAX_ITEMS) {
        run_shared(pool, n_items, work, context);
        return;
    }
    for (struct offset_run run = {work, context, 0}; run.first < n_items; run.first += MAX_ITEMS) {
        size_t rest = n_items - run.first;
        run_shared(pool, rest < MAX_ITEMS ? rest : MAX_ITEMS, work_at_offset, &run);
    }
}

size_t tp_pool_threads(const struct tp_pool *pool)
{
    return pool->n_threads;
}

static void pin_thread(pthread_t thread, const cpu_set_t *cores, size_t index)
{
    size_t seen = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, cores) && seen++ == index) {
            cpu_set_t one;
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            pthread_setaffinity_np(thread, sizeof one, &one);
        }
    }
}

/* More threads than cores stay where the kernel puts them. */
static void pin(struct tp_pool *pool)
{
    cpu_set_t cores;
    size_t n_cores = tp_cores(&cores);
    if (pthread_getaffinity_np(pthread_self(), sizeof pool->callers_set, &pool->callers_set) != 0 ||
        pool->n_threads > n_cores)
        return;
    pin_thread(pthread_self(), &cores, 0);
    for (size_t i = 1; i < pool->n_threads; i++)
        pin_thread(pool->workers[i].thread, &cores, i);
    pool->pinned = true;
}

static int start_workers(struct tp_pool *pool, size_t n, struct tp_error *error)
{
    for (size_t i = 1; i < n; i++) {
        struct worker *worker = &pool->workers[i];
        *worker = (struct worker){.pool = pool, .index = i};
        int rc = pthread_create(&worker->thread, NULL, worker_main, worker);
        if (rc != 0) {
            return tp_error_set(error, -rc, "cannot start thread %zu of %zu: %s; ask for fewer",
                                i + 1, n, strerror(rc));
        }
        pool->n_threads = i + 1;
    }
    return 0;
}

int tp_pool_new(size_t n_threads, bool pin_threads, struct tp_pool **ret_pool,
                struct tp_error *error)
{
    size_t n = n_threads > 0 ? n_threads : tp_cores(NULL);
    if (n > TP_POOL_MAX_THREADS)
        return tp_error_set(error, -EINVAL, "%zu threads are too many; the most is %d", n,
                            TP_POOL_MAX_THREADS);
    struct tp_pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    struct worker *workers = calloc(n, sizeof *workers);
    struct share *shares = aligned_alloc(CACHE_LINE, n * sizeof *shares);
    if (pool == NULL || workers == NULL || shares == NULL) {
        free(pool);
        free(workers);
        free(shares);
        return tp_error_set(error, -ENOMEM, "no memory for a pool of %zu threads", n);
    }
    memset(pool, 0, sizeof *pool);
    memset(shares, 0, n * sizeof *shares);
    pool->workers = workers;
    pool->shares = shares;
    pool->n_threads = 1;
    int rc = start_workers(pool, n, error);
    if (rc < 0) {
        tp_pool_free(pool);
        return rc;
    }
    if (pin_threads)
        pin(pool);
    *ret_pool = pool;
    return 0;
}

void tp_pool_free(struct tp_pool *pool)
{
    if (pool == NULL)
        return;
    atomic_store(&pool->stopping, true);
    announce(pool);
    for (size_t i = 1; i < pool->n_threads; i++)
        pthread_join(pool->workers[i].thread, NULL);
    if (pool->pinned)
        pthread_setaffinity_np(pthread_self(), sizeof pool->callers_set, &pool->callers_set);
    free(pool->workers);
    free(pool->shares);
    free(pool);
}
