/* The thread pool, for ThreadSanitizer: a plain program that prints TAP, because Criterion does
 * not run under it. Items write to plain memory, so that a run that ends too early, an item done
 * twice or a write that the caller cannot see yet shows. */
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "infer/cpu/cores.h"
#include "infer/cpu/pool.h"

enum { MAX_ITEMS = 3000, TIME_LIMIT = 120 };

static unsigned n_tests, n_faults;

static void report(bool ok, const char *name, size_t n_threads)
{
    n_faults += !ok;
    printf("%sok %u - %s, %zu threads\n", ok ? "" : "not ", ++n_tests, name, n_threads);
    fflush(stdout);
}

struct marks {
    size_t n_threads;
    unsigned times[MAX_ITEMS]; /* not atomic, on purpose */
    atomic_uint bad_threads;
};

static void mark(void *context, size_t item, size_t thread)
{
    struct marks *marks = context;
    marks->times[item]++;
    if (thread >= marks->n_threads)
        atomic_fetch_add(&marks->bad_threads, 1);
}

/* Runs of all sizes in quick succession, then some after the threads have gone to sleep. */
static void test_runs(struct tp_pool *pool)
{
    static const size_t sizes[] = {0, 1, 2, 3, 7, 8, 100, MAX_ITEMS};
    struct marks *marks = calloc(1, sizeof *marks);
    bool ok = true;
    marks->n_threads = tp_pool_threads(pool);
    for (int round = 0; round < 400; round++) {
        size_t n = sizes[round % 8];
        memset(marks->times, 0, sizeof marks->times);
        if (round % 100 == 99)
            nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
        tp_pool_run(pool, n, mark, marks);
        for (size_t i = 0; i < MAX_ITEMS; i++)
            ok = ok && marks->times[i] == (i < n);
    }
    report(ok && marks->bad_threads == 0, "each item once, and visible", tp_pool_threads(pool));
    free(marks);
}

static void count(void *context, size_t item, size_t thread)
{
    (void)thread;
    atomic_fetch_add((_Atomic uint64_t *)context, item);
}

/* More items than a share counts. */
static void test_many(struct tp_pool *pool)
{
    enum { N = (1 << 21) + 5 };
    _Atomic uint64_t sum = 0;
    tp_pool_run(pool, N, count, &sum);
    report(sum == (uint64_t)N * (N - 1) / 2, "millions of items", tp_pool_threads(pool));
}

static void sleep_sometimes(void *context, size_t item, size_t thread)
{
    (void)thread;
    if (item % 5 == 0)
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    atomic_fetch_add((_Atomic uint64_t *)context, 1);
}

/* Items so slow that the caller sleeps. */
static void test_slow_items(struct tp_pool *pool)
{
    _Atomic uint64_t n = 0;
    for (int i = 0; i < 20; i++)
        tp_pool_run(pool, 17, sleep_sometimes, &n);
    report(n == 20 * 17, "slow items", tp_pool_threads(pool));
}

static void test_pool(size_t n_threads, bool pin)
{
    struct tp_pool *pool;
    struct tp_error error;
    cpu_set_t before, after;
    sched_getaffinity(0, sizeof before, &before);
    if (tp_pool_new(n_threads, pin, &pool, &error) < 0) {
        report(false, error.text, n_threads);
        return;
    }
    size_t expected = n_threads > 0 ? n_threads : tp_cores(NULL);
    report(tp_pool_threads(pool) == expected, "as many as asked for", n_threads);
    test_runs(pool);
    test_many(pool);
    test_slow_items(pool);
    tp_pool_free(pool);
    sched_getaffinity(0, sizeof after, &after);
    report(CPU_EQUAL(&before, &after), "the caller's processors as before", n_threads);
}

static void test_impossible(void)
{
    struct tp_pool *pool = NULL;
    struct tp_error error = {""};
    int rc = tp_pool_new(SIZE_MAX, false, &pool, &error);
    report(rc == -EINVAL && pool == NULL && error.text[0] != '\0', "too many", 0);
}

int main(void)
{
    alarm(TIME_LIMIT); /* a lost wake-up must not hang the test run */
    test_pool(0, false);
    test_pool(1, false);
    test_pool(2, true);
    test_pool(5, false);
    test_impossible();
    tp_pool_free(NULL);
    printf("1..%u\n", n_tests);
    return n_faults > 0;
}
