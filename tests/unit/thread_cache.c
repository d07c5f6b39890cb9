/* The cache and the prefetcher under many threads, for ThreadSanitizer: a plain program that
 * prints TAP, because Criterion does not run under it.
 *
 * Each tile's content tells its key, so a tile that is overwritten while somebody holds it, or
 * handed out before it is filled, shows. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/cache/cache.h"
#include "fs/cache/prefetch.h"

enum {
    TILE = 1024, /* bytes */
    WORDS = TILE / sizeof(uint64_t),
    N_TILES = 12,
    N_THREADS = 8,
    N_FILES = 3,
    N_INDICES = 24, /* per file: several times what fits */
    HOLD_MAX = 3,   /* tiles that a thread holds at once: together more than there are */
    TIME_LIMIT = 240,
};

static atomic_uint n_faults;

static void fault(const char *what)
{
    if (atomic_fetch_add(&n_faults, 1) < 10)
        printf("# %s\n", what);
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* ---- filling ---- */

struct source {
    uint64_t file;
    unsigned failures_percent;
    atomic_uint_fast64_t calls, failures;
};

static uint64_t expected_word(uint64_t file, uint64_t index, size_t i)
{
    return (file << 48) + (index << 16) + i;
}

static int fill(void *context, uint64_t index, void *target, size_t *ret_length)
{
    struct source *source = context;
    uint64_t *words = target, state = atomic_fetch_add(&source->calls, 1) + index;
    for (size_t i = 0; i < WORDS; i++) /* also when it fails: such bytes must never be seen */
        words[i] = ~UINT64_C(0);
    if (next_random(&state) % 100 < source->failures_percent) {
        atomic_fetch_add(&source->failures, 1);
        return -EIO;
    }
    if (index % 4 == 0)
        sched_yield();
    for (size_t i = 0; i < WORDS; i++)
        words[i] = expected_word(source->file, index, i);
    *ret_length = TILE;
    return 0;
}

static void check(const struct tp_tile *tile, uint64_t file, uint64_t index)
{
    const uint64_t *words = tile->data;
    if (tile->length != TILE) {
        fault("tile of a wrong length");
        return;
    }
    for (size_t i = 0; i < WORDS; i++) {
        if (words[i] != expected_word(file, index, i)) {
            fault("tile with the bytes of another");
            return;
        }
    }
}

/* ---- threads ---- */

struct shared {
    struct tp_cache *cache;
    struct tp_prefetcher *prefetcher; /* NULL: none */
    struct source sources[N_FILES];
    unsigned rounds;
    pthread_barrier_t barrier;
    atomic_uint_fast64_t asked; /* acquires by the readers */
    atomic_uint_fast64_t errors;
};

struct worker {
    pthread_t thread;
    struct shared *shared;
    uint64_t random;
    struct tp_tile_key keys[HOLD_MAX];
    const struct tp_tile *held[HOLD_MAX];
};

static void run_threads(struct shared *shared, void *(*run)(void *))
{
    struct worker workers[N_THREADS];
    for (size_t i = 0; i < N_THREADS; i++) {
        workers[i] = (struct worker){.shared = shared, .random = 77 * i + 1};
        if (pthread_create(&workers[i].thread, NULL, run, &workers[i]) != 0)
            abort();
    }
    for (size_t i = 0; i < N_THREADS; i++)
        pthread_join(workers[i].thread, NULL);
}

static void open_cache(struct shared *shared, size_t n_tiles, unsigned failures_percent,
                       bool with_prefetcher)
{
    if (tp_cache_new(n_tiles * TILE, TILE, &shared->cache) < 0 ||
        (with_prefetcher && tp_prefetcher_new(shared->cache, 3, &shared->prefetcher) < 0))
        abort();
    for (size_t i = 0; i < N_FILES; i++)
        shared->sources[i] = (struct source){.file = i, .failures_percent = failures_percent};
    pthread_barrier_init(&shared->barrier, NULL, N_THREADS);
}

/* All slots can be had at once: none was lost, none is still pinned. */
static void check_no_slot_lost(struct shared *shared, size_t n_tiles)
{
    struct source source = {.file = 99};
    const struct tp_tile *tiles[N_TILES];
    for (size_t i = 0; i < n_tiles; i++) {
        struct tp_tile_key key = {source.file, i};
        if (tp_cache_acquire(shared->cache, key, TP_CACHE_STREAM, fill, &source, &tiles[i]) < 0) {
            fault("a slot is lost");
            n_tiles = i;
        }
    }
    for (size_t i = 0; i < n_tiles; i++)
        tp_cache_release(shared->cache, tiles[i]);
}

static void close_cache(struct shared *shared, size_t n_tiles)
{
    struct tp_cache_counters counters;
    tp_prefetcher_free(shared->prefetcher);
    tp_cache_count(shared->cache, &counters);
    uint64_t calls = 0, failures = 0;
    for (size_t i = 0; i < N_FILES; i++) {
        calls += shared->sources[i].calls;
        failures += shared->sources[i].failures;
    }
    if (counters.bytes > counters.capacity || counters.capacity != n_tiles * TILE)
        fault("more bytes than the capacity");
    if (counters.fills != calls - failures || counters.failures != failures)
        fault("fills were miscounted");
    if (counters.bytes != (counters.fills - counters.evictions) * TILE)
        fault("bytes were miscounted");
    if (shared->prefetcher == NULL &&
        counters.hits + counters.waits + counters.misses != shared->asked)
        fault("requests were miscounted");
    check_no_slot_lost(shared, n_tiles);
    tp_cache_free(shared->cache);
    pthread_barrier_destroy(&shared->barrier);
}

/* ---- everything at random ---- */

static void let_go(struct worker *worker, size_t i)
{
    if (worker->held[i] == NULL)
        return;
    check(worker->held[i], worker->keys[i].file, worker->keys[i].index);
    tp_cache_release(worker->shared->cache, worker->held[i]);
    worker->held[i] = NULL;
}

static void take(struct worker *worker, size_t i)
{
    static const enum tp_cache_use uses[] = {TP_CACHE_STREAM, TP_CACHE_STREAM, TP_CACHE_RANDOM,
                                             TP_CACHE_LOOK};
    struct shared *shared = worker->shared;
    struct tp_tile_key key = {next_random(&worker->random) % N_FILES,
                              next_random(&worker->random) % N_INDICES};
    enum tp_cache_use use = uses[next_random(&worker->random) % 4];
    const struct tp_tile *tile;
    int rc = tp_cache_acquire(shared->cache, key, use, fill, &shared->sources[key.file], &tile);
    atomic_fetch_add(&shared->asked, 1);
    if (rc == 0) {
        worker->keys[i] = key;
        worker->held[i] = tile;
        check(tile, key.file, key.index);
    } else if (rc == -EIO) {
        atomic_fetch_add(&shared->errors, 1);
    } else if (rc != -ENOBUFS && !(rc == -ENOENT && use != TP_CACHE_STREAM)) {
        fault("an unexpected error");
    }
}

static void look_ahead(struct worker *worker)
{
    struct shared *shared = worker->shared;
    uint64_t file = next_random(&worker->random) % N_FILES;
    uint64_t first = next_random(&worker->random) % N_INDICES;
    for (uint64_t i = first; i < first + 4; i++)
        tp_prefetch(shared->prefetcher, worker, (struct tp_tile_key){file, i % N_INDICES}, fill,
                    &shared->sources[file]);
    if (next_random(&worker->random) % 2 == 0)
        tp_prefetch_cancel(shared->prefetcher, worker);
}

static void *run_random(void *context)
{
    struct worker *worker = context;
    for (unsigned round = 0; round < worker->shared->rounds; round++) {
        size_t i = next_random(&worker->random) % HOLD_MAX;
        let_go(worker, i);
        if (next_random(&worker->random) % 4 != 0)
            take(worker, i);
        else if (worker->shared->prefetcher != NULL)
            look_ahead(worker);
        if (round % 64 == 0) {
            struct tp_cache_counters counters;
            tp_cache_count(worker->shared->cache, &counters);
            if (counters.bytes > counters.capacity)
                fault("more bytes than the capacity");
        }
    }
    for (size_t i = 0; i < HOLD_MAX; i++)
        let_go(worker, i);
    return NULL;
}

static void test_random(size_t n_tiles, unsigned failures_percent, bool with_prefetcher)
{
    struct shared shared = {.rounds = 20000};
    open_cache(&shared, n_tiles, failures_percent, with_prefetcher);
    run_threads(&shared, run_random);
    if (failures_percent > 0 && n_tiles > 0 && shared.errors == 0)
        fault("no failure came through");
    close_cache(&shared, n_tiles);
}

static void random_tiles(void)
{
    test_random(N_TILES, 0, false);
}

static void random_tiles_with_failures(void)
{
    test_random(N_TILES, 10, false);
}

static void random_tiles_with_prefetching_and_failures(void)
{
    test_random(N_TILES, 10, true);
}

static void two_tiles(void)
{
    test_random(2, 5, true);
}

static void no_room_at_all(void)
{
    test_random(0, 5, true);
}

/* ---- all want the same ---- */

static void *run_flight(void *context)
{
    struct worker *worker = context;
    struct shared *shared = worker->shared;
    for (uint64_t round = 0; round < shared->rounds; round++) {
        const struct tp_tile *tile;
        struct tp_tile_key key = {0, round};
        pthread_barrier_wait(&shared->barrier);
        int rc =
            tp_cache_acquire(shared->cache, key, TP_CACHE_STREAM, fill, &shared->sources[0], &tile);
        atomic_fetch_add(&shared->asked, 1);
        if (rc == 0) {
            check(tile, key.file, key.index);
            pthread_barrier_wait(&shared->barrier); /* nobody asks after it could have left */
            tp_cache_release(shared->cache, tile);
        } else {
            fault("an unexpected error");
            pthread_barrier_wait(&shared->barrier);
        }
    }
    return NULL;
}

static void one_fill_for_all_who_ask_at_once(void)
{
    struct shared shared = {.rounds = 2000};
    open_cache(&shared, 2, 0, false);
    run_threads(&shared, run_flight);
    if (shared.sources[0].calls != shared.rounds)
        fault("a tile was filled more than once");
    close_cache(&shared, 2);
}

/* All ask for a tile whose fill fails; each either shares the failure or asks again. */
static void *run_failing_flight(void *context)
{
    struct worker *worker = context;
    struct shared *shared = worker->shared;
    for (uint64_t round = 0; round < shared->rounds; round++) {
        const struct tp_tile *tile;
        struct tp_tile_key key = {0, round % 5};
        pthread_barrier_wait(&shared->barrier);
        if (tp_cache_acquire(shared->cache, key, TP_CACHE_STREAM, fill, &shared->sources[0],
                             &tile) != -EIO)
            fault("a failure was not told");
        atomic_fetch_add(&shared->asked, 1);
    }
    return NULL;
}

static void failure_for_all_who_ask_at_once(void)
{
    struct shared shared = {.rounds = 2000};
    open_cache(&shared, N_TILES, 100, false);
    run_threads(&shared, run_failing_flight);
    close_cache(&shared, N_TILES);
}

/* ---- prefetchers that end while they are busy ---- */

static void prefetcher_ends_with_work_left(void)
{
    for (int round = 0; round < 200; round++) {
        struct shared shared = {0};
        open_cache(&shared, N_TILES, 10, true);
        for (uint64_t i = 0; i < 60; i++)
            tp_prefetch(shared.prefetcher, &shared, (struct tp_tile_key){0, i}, fill,
                        &shared.sources[0]);
        if (round % 2 == 0)
            tp_prefetch_cancel(shared.prefetcher, &shared);
        close_cache(&shared, N_TILES);
    }
}

int main(void)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {
        {"random tiles", random_tiles},
        {"random tiles with failures", random_tiles_with_failures},
        {"random tiles with prefetching and failures", random_tiles_with_prefetching_and_failures},
        {"two tiles for eight threads", two_tiles},
        {"no room at all", no_room_at_all},
        {"one fill for all who ask at once", one_fill_for_all_who_ask_at_once},
        {"failure for all who ask at once", failure_for_all_who_ask_at_once},
        {"prefetcher ends with work left", prefetcher_ends_with_work_left},
    };
    enum { N = sizeof tests / sizeof *tests };
    bool all = true;
    alarm(TIME_LIMIT); /* a deadlock ends the program, which fails the test */
    printf("1..%d\n", N);
    for (int i = 0; i < N; i++) {
        atomic_store(&n_faults, 0);
        tests[i].run();
        bool ok = n_faults == 0;
        printf("%sok %d - %s\n", ok ? "" : "not ", i + 1, tests[i].name);
        fflush(stdout);
        all &= ok;
    }
    return all ? 0 : 1;
}
