/* The tile cache and its prefetcher as cache.h and prefetch.h describe them: what stays, what
 * goes, what fails. thread_cache.c does the same with many threads at once. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "fs/cache/cache.h"
#include "fs/cache/prefetch.h"

enum {
    TILE = 512,
    N_TILES = 16,
    QUEUE_SHARE = N_TILES / 4, /* of the cache of N_TILES: see cache.c */
    PREFETCH_QUEUE = 128,
    LONG_SCAN = 1000,
    N_THREADS = 8,
};

/* A file that tiles are filled from; `fill` is told by the fields how to behave. */
struct source {
    uint64_t file;
    size_t length; /* of each tile; 0: all of TILE */
    int error;     /* what fills return */
    bool blocks;   /* posts `begun`, then waits for `go` */
    sem_t begun, go, done;
    atomic_uint fills;
};

static void source_init(struct source *source, uint64_t file)
{
    *source = (struct source){.file = file};
    sem_init(&source->begun, 0, 0);
    sem_init(&source->go, 0, 0);
    sem_init(&source->done, 0, 0);
}

static uint8_t expected_byte(uint64_t file, uint64_t index)
{
    return (uint8_t)(file * 131 + index * 7 + 1);
}

static int fill(void *context, uint64_t index, void *target, size_t *ret_length)
{
    struct source *source = context;
    if (source->blocks) {
        sem_post(&source->begun);
        sem_wait(&source->go);
    }
    atomic_fetch_add(&source->fills, 1);
    size_t length = source->length != 0 ? source->length : TILE;
    memset(target, expected_byte(source->file, index), length);
    sem_post(&source->done);
    if (source->error < 0)
        return source->error;
    *ret_length = length;
    return 0;
}

static struct tp_cache *make_cache(size_t n_tiles)
{
    struct tp_cache *cache;
    cr_assert_eq(tp_cache_new(n_tiles * TILE, TILE, &cache), 0);
    return cache;
}

static struct tp_cache_counters count(struct tp_cache *cache)
{
    struct tp_cache_counters counters;
    tp_cache_count(cache, &counters);
    return counters;
}

static void check_content(const struct tp_tile *tile, uint64_t file, uint64_t index)
{
    const uint8_t *bytes = tile->data;
    for (size_t i = 0; i < tile->length; i++)
        cr_assert_eq(bytes[i], expected_byte(file, index), "tile %zu, byte %zu", (size_t)index, i);
}

static int acquire(struct tp_cache *cache, enum tp_cache_use use, struct source *source,
                   uint64_t index, const struct tp_tile **ret_tile)
{
    struct tp_tile_key key = {source->file, index};
    return tp_cache_acquire(cache, key, use, fill, source, ret_tile);
}

static const struct tp_tile *pin(struct tp_cache *cache, struct source *source, uint64_t index)
{
    const struct tp_tile *tile;
    int rc = acquire(cache, TP_CACHE_STREAM, source, index, &tile);
    cr_assert_eq(rc, 0, "tile %zu: %d", (size_t)index, rc);
    check_content(tile, source->file, index);
    return tile;
}

/* A stream passes. */
static void touch(struct tp_cache *cache, struct source *source, uint64_t index)
{
    tp_cache_release(cache, pin(cache, source, index));
}

/* Somebody else wants the tile; false when the cache does not care for it. */
static bool want(struct tp_cache *cache, struct source *source, uint64_t index)
{
    const struct tp_tile *tile;
    int rc = acquire(cache, TP_CACHE_RANDOM, source, index, &tile);
    cr_assert(rc == 0 || rc == -ENOENT, "tile %zu: %d", (size_t)index, rc);
    if (rc < 0)
        return false;
    check_content(tile, source->file, index);
    tp_cache_release(cache, tile);
    return true;
}

static void scan(struct tp_cache *cache, struct source *source, uint64_t first, uint64_t n)
{
    for (uint64_t i = first; i < first + n; i++)
        touch(cache, source, i);
}

static bool holds(struct tp_cache *cache, const struct source *source, uint64_t index)
{
    const struct tp_tile *tile;
    struct tp_tile_key key = {source->file, index};
    int rc = tp_cache_acquire(cache, key, TP_CACHE_LOOK, NULL, NULL, &tile);
    cr_assert(rc == 0 || rc == -ENOENT);
    if (rc == 0)
        tp_cache_release(cache, tile);
    return rc == 0;
}

/* Reads tiles, lets them leave the queue and wants them again: from now on they are kept. */
static void make_kept(struct tp_cache *cache, struct source *source, uint64_t first, uint64_t n)
{
    for (uint64_t i = first; i < first + n; i++) {
        touch(cache, source, i);
        scan(cache, source, 1000000 + QUEUE_SHARE * i, QUEUE_SHARE);
        cr_assert(!holds(cache, source, i));
        cr_assert(want(cache, source, i));
    }
}

/* Every slot can be pinned: none was lost. */
static void check_no_slot_lost(struct tp_cache *cache, size_t n_slots)
{
    struct source source;
    const struct tp_tile *tiles[N_TILES], *more;
    source_init(&source, 999);
    for (size_t i = 0; i < n_slots; i++)
        tiles[i] = pin(cache, &source, i);
    cr_assert_eq(acquire(cache, TP_CACHE_STREAM, &source, n_slots, &more), -ENOBUFS);
    cr_assert_eq(count(cache).bytes, n_slots * TILE);
    for (size_t i = 0; i < n_slots; i++)
        tp_cache_release(cache, tiles[i]);
}

/* ---- sizes ---- */

static void check_holds_nothing(size_t capacity)
{
    struct tp_cache *cache;
    struct source source;
    const struct tp_tile *tile;
    source_init(&source, 1);
    cr_assert_eq(tp_cache_new(capacity, TILE, &cache), 0);
    for (uint64_t i = 0; i < 3; i++) {
        cr_assert_eq(acquire(cache, TP_CACHE_STREAM, &source, 0, &tile), -ENOBUFS);
        cr_assert(!want(cache, &source, 0));
        cr_assert(!holds(cache, &source, 0));
    }
    struct tp_cache_counters counters = count(cache);
    cr_assert_eq(counters.refusals, 3);
    cr_assert_eq(counters.misses, 9);
    cr_assert_eq(counters.capacity, 0);
    cr_assert_eq(counters.bytes, 0);
    cr_assert_eq(source.fills, 0);
    tp_cache_free(cache);
}

Test(cache, below_two_tiles_holds_nothing)
{
    check_holds_nothing(0);
    check_holds_nothing(1);
    check_holds_nothing(TILE);
    check_holds_nothing(2 * TILE - 1);
}

Test(cache, two_tiles_work)
{
    struct tp_cache *cache = make_cache(2);
    struct source source;
    source_init(&source, 1);
    touch(cache, &source, 0);
    touch(cache, &source, 1);
    cr_assert(holds(cache, &source, 0) && holds(cache, &source, 1));
    touch(cache, &source, 2);
    cr_assert(!holds(cache, &source, 0));
    check_no_slot_lost(cache, 2);
    tp_cache_free(cache);
}

Test(cache, capacity_is_rounded_down_to_tiles)
{
    struct tp_cache *cache;
    cr_assert_eq(tp_cache_new(5 * TILE + TILE - 1, TILE, &cache), 0);
    cr_assert_eq(count(cache).capacity, 5 * TILE);
    cr_assert_eq(tp_cache_tile_size(cache), TILE);
    check_no_slot_lost(cache, 5);
    tp_cache_free(cache);
}

Test(cache, of_an_impossible_size_is_refused)
{
    struct tp_cache *cache = NULL;
    cr_assert_eq(tp_cache_new((size_t)1 << 62, (size_t)1 << 50, &cache), -ENOMEM);
    cr_assert_null(cache);
}

Test(cache, freeing_nothing_is_fine)
{
    tp_cache_free(NULL);
    tp_prefetcher_free(NULL);
}

/* ---- hits and misses ---- */

Test(cache, second_reader_hits)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source;
    source_init(&source, 1);
    const struct tp_tile *first = pin(cache, &source, 3), *second = pin(cache, &source, 3);
    cr_assert_eq(first, second);
    cr_assert_eq(source.fills, 1);
    struct tp_cache_counters counters = count(cache);
    cr_assert_eq(counters.hits, 1);
    cr_assert_eq(counters.misses, 1);
    cr_assert_eq(counters.fills, 1);
    cr_assert_eq(counters.bytes, TILE);
    tp_cache_release(cache, first);
    tp_cache_release(cache, second);
    tp_cache_free(cache);
}

/* In any case, but to stay only at the second time. */
Test(cache, fill_keeps_what_comes_back)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source;
    const struct tp_tile *tile = NULL;
    source_init(&source, 1);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(acquire(cache, TP_CACHE_FILL, &source, 0, &tile), 0);
        tp_cache_release(cache, tile);
        cr_assert_eq(source.fills, (unsigned)i + 1);
        if (i == 0) {
            scan(cache, &source, 1, QUEUE_SHARE);
            cr_assert_not(holds(cache, &source, 0));
            source.fills = 1;
        }
    }
    scan(cache, &source, 100, LONG_SCAN);
    cr_assert(holds(cache, &source, 0));
    tp_cache_free(cache);
}

Test(cache, absent_tile_is_filled_for_streams_only)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source;
    const struct tp_tile *tile = NULL;
    source_init(&source, 1);
    cr_assert_eq(acquire(cache, TP_CACHE_LOOK, &source, 0, &tile), -ENOENT);
    cr_assert_eq(acquire(cache, TP_CACHE_RANDOM, &source, 0, &tile), -ENOENT);
    cr_assert_null(tile);
    cr_assert_eq(source.fills, 0);
    cr_assert_eq(count(cache).misses, 2);
    cr_assert_eq(acquire(cache, TP_CACHE_STREAM, &source, 0, &tile), 0);
    tp_cache_release(cache, tile);
    cr_assert(holds(cache, &source, 0) && want(cache, &source, 0));
    cr_assert_eq(source.fills, 1);
    check_no_slot_lost(cache, N_TILES);
    tp_cache_free(cache);
}

Test(cache, keys_are_told_apart)
{
    static const struct tp_tile_key keys[] = {
        {0, 0}, {0, 1},          {1, 0}, {UINT64_MAX - 1, UINT64_MAX},
        {1, 1}, {0, UINT64_MAX}, {2, 1}, {UINT64_C(1) << 63, 0},
    };
    enum { N = sizeof keys / sizeof *keys };
    struct tp_cache *cache = make_cache(N_TILES);
    struct source sources[N];
    const struct tp_tile *tiles[N];
    for (size_t i = 0; i < N; i++) {
        source_init(&sources[i], keys[i].file);
        tiles[i] = pin(cache, &sources[i], keys[i].index);
    }
    for (size_t i = 0; i < N; i++) {
        check_content(tiles[i], keys[i].file, keys[i].index);
        touch(cache, &sources[i], keys[i].index);
        cr_assert_eq(sources[i].fills, 1);
        tp_cache_release(cache, tiles[i]);
    }
    tp_cache_free(cache);
}

Test(cache, last_tile_may_be_short)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source;
    source_init(&source, 1);
    source.length = 17;
    const struct tp_tile *tile = pin(cache, &source, 0);
    cr_assert_eq(tile->length, 17);
    tp_cache_release(cache, tile);
    tp_cache_free(cache);
}

/* ---- bounds and pins ---- */

Test(cache, never_exceeds_its_capacity)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source;
    source_init(&source, 1);
    uint64_t random = 1;
    for (int i = 0; i < 20000; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        touch(cache, &source, (random >> 33) % 40);
        cr_assert_leq(count(cache).bytes, N_TILES * TILE);
    }
    struct tp_cache_counters counters = count(cache);
    cr_assert_eq(counters.fills - counters.evictions, counters.bytes / TILE);
    cr_assert_eq(counters.fills, source.fills);
    cr_assert_eq(counters.refusals, 0);
    check_no_slot_lost(cache, N_TILES);
    tp_cache_free(cache);
}

Test(cache, pinned_tiles_outlive_a_scan)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source;
    const struct tp_tile *tiles[N_TILES - 1];
    source_init(&source, 1);
    for (uint64_t i = 0; i < N_TILES - 1; i++)
        tiles[i] = pin(cache, &source, i);
    scan(cache, &source, 100, LONG_SCAN); /* through the only slot that is left */
    for (uint64_t i = 0; i < N_TILES - 1; i++) {
        check_content(tiles[i], 1, i);
        tp_cache_release(cache, tiles[i]);
    }
    cr_assert_eq(count(cache).refusals, 0);
    tp_cache_free(cache);
}

Test(cache, says_enobufs_when_every_tile_is_pinned)
{
    struct tp_cache *cache = make_cache(4);
    struct source source;
    const struct tp_tile *tiles[4], *more = NULL;
    source_init(&source, 1);
    for (uint64_t i = 0; i < 4; i++)
        tiles[i] = pin(cache, &source, i);
    cr_assert_eq(acquire(cache, TP_CACHE_STREAM, &source, 9, &more), -ENOBUFS);
    cr_assert_null(more);
    cr_assert_eq(source.fills, 4);
    touch(cache, &source, 2); /* those that are there can still be had */
    cr_assert_eq(count(cache).refusals, 1);
    tp_cache_release(cache, tiles[0]);
    touch(cache, &source, 9);
    cr_assert(!holds(cache, &source, 0));
    for (size_t i = 1; i < 4; i++)
        tp_cache_release(cache, tiles[i]);
    tp_cache_free(cache);
}

/* ---- failures ---- */

Test(cache, failed_fill_is_passed_on_and_forgotten)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source;
    const struct tp_tile *tile = NULL;
    source_init(&source, 1);
    source.error = -EIO;
    for (int i = 0; i < LONG_SCAN; i++) {
        cr_assert_eq(acquire(cache, TP_CACHE_STREAM, &source, (uint64_t)i % 3, &tile), -EIO);
        cr_assert_null(tile);
    }
    cr_assert_eq(source.fills, LONG_SCAN, "each asks again");
    struct tp_cache_counters counters = count(cache);
    cr_assert_eq(counters.failures, LONG_SCAN);
    cr_assert_eq(counters.fills, 0);
    cr_assert_eq(counters.bytes, 0);
    source.error = 0;
    touch(cache, &source, 1);
    check_no_slot_lost(cache, N_TILES);
    tp_cache_free(cache);
}

Test(cache, failure_of_a_tile_that_was_to_be_kept_loses_nothing)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source;
    const struct tp_tile *tile;
    source_init(&source, 1);
    touch(cache, &source, 0);
    scan(cache, &source, 100, QUEUE_SHARE);
    source.error = -ENOMEM;
    cr_assert_eq(acquire(cache, TP_CACHE_RANDOM, &source, 0, &tile), -ENOMEM);
    source.error = 0;
    cr_assert(want(cache, &source, 0));
    scan(cache, &source, 200, LONG_SCAN);
    cr_assert(holds(cache, &source, 0));
    check_no_slot_lost(cache, N_TILES);
    tp_cache_free(cache);
}

/* ---- replacement ---- */

Test(cache, one_pass_reuses_few_buffers)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source;
    const void *seen[N_TILES] = {0};
    size_t n = 0;
    source_init(&source, 1);
    for (uint64_t i = 0; i < LONG_SCAN; i++) {
        const struct tp_tile *tile = pin(cache, &source, i);
        size_t at = 0;
        while (at < n && seen[at] != tile->data)
            at++;
        if (at == n)
            seen[n++] = tile->data;
        tp_cache_release(cache, tile);
    }
    cr_assert_eq(n, QUEUE_SHARE);
    tp_cache_free(cache);
}

Test(cache, new_tiles_leave_in_the_order_they_came)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source;
    source_init(&source, 1);
    scan(cache, &source, 0, QUEUE_SHARE);
    touch(cache, &source, 0); /* a use in the queue does not count: reads of one tile cluster */
    touch(cache, &source, QUEUE_SHARE);
    cr_assert(!holds(cache, &source, 0));
    cr_assert(holds(cache, &source, 1));
    tp_cache_free(cache);
}

Test(cache, tile_wanted_again_is_kept)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source;
    source_init(&source, 1);
    cr_assert(!want(cache, &source, 0), "never seen");
    touch(cache, &source, 0);
    scan(cache, &source, 100, QUEUE_SHARE);
    cr_assert(!holds(cache, &source, 0));
    cr_assert(want(cache, &source, 0), "left a short while ago");
    scan(cache, &source, 200, LONG_SCAN);
    cr_assert(holds(cache, &source, 0));
    tp_cache_free(cache);
}

Test(cache, second_pass_of_a_stream_keeps_nothing)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source;
    source_init(&source, 1);
    for (int pass = 0; pass < 3; pass++)
        scan(cache, &source, 0, 2 * N_TILES);
    cr_assert_leq(count(cache).bytes, QUEUE_SHARE * TILE);
    tp_cache_free(cache);
}

Test(cache, scan_does_not_flush_kept_tiles)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source, scanner;
    source_init(&source, 1);
    source_init(&scanner, 2);
    make_kept(cache, &source, 0, N_TILES - QUEUE_SHARE);
    scan(cache, &scanner, 0, LONG_SCAN);
    unsigned before = source.fills;
    for (uint64_t i = 0; i < N_TILES - QUEUE_SHARE; i++)
        cr_assert(want(cache, &source, i));
    cr_assert_eq(source.fills, before, "all hits");
    tp_cache_free(cache);
}

Test(cache, least_recently_used_of_the_kept_goes_first)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source;
    enum { N = N_TILES - QUEUE_SHARE };
    source_init(&source, 1);
    make_kept(cache, &source, 0, N);
    cr_assert(want(cache, &source, 0));
    make_kept(cache, &source, N, 2);
    cr_assert(holds(cache, &source, 0));
    cr_assert(!holds(cache, &source, 1));
    cr_assert(!holds(cache, &source, 2));
    cr_assert(holds(cache, &source, 3));
    tp_cache_free(cache);
}

/* The queue may outgrow its share while its tiles are pinned; it must give the room back. */
Test(cache, queue_swollen_by_pins_makes_room_for_kept_tiles)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source source, other;
    const struct tp_tile *tiles[N_TILES];
    source_init(&source, 1);
    source_init(&other, 2);
    for (uint64_t i = 0; i < N_TILES; i++)
        tiles[i] = pin(cache, &other, i);
    for (uint64_t i = 0; i < N_TILES; i++)
        tp_cache_release(cache, tiles[i]);
    enum { N = N_TILES - QUEUE_SHARE };
    for (uint64_t i = 0; i < N; i++) { /* make_kept(), with a queue of any length */
        touch(cache, &source, i);
        for (uint64_t j = 0; holds(cache, &source, i); j++)
            touch(cache, &other, 100 * (i + 1) + j);
        cr_assert(want(cache, &source, i));
    }
    scan(cache, &other, 1000000, LONG_SCAN);
    for (uint64_t i = 0; i < N; i++)
        cr_assert(holds(cache, &source, i), "tile %zu", (size_t)i);
    tp_cache_free(cache);
}

/* ---- single flight ---- */

struct reader {
    pthread_t thread;
    struct tp_cache *cache;
    struct source *source;
    uint64_t index;
    int rc;
    const void *data;
};

static void *read_one(void *context)
{
    struct reader *reader = context;
    const struct tp_tile *tile;
    reader->rc = acquire(reader->cache, TP_CACHE_STREAM, reader->source, reader->index, &tile);
    if (reader->rc == 0) {
        reader->data = tile->data;
        tp_cache_release(reader->cache, tile);
    }
    return NULL;
}

static void start(struct reader *reader, struct tp_cache *cache, struct source *source,
                  uint64_t index)
{
    *reader = (struct reader){.cache = cache, .source = source, .index = index};
    cr_assert_eq(pthread_create(&reader->thread, NULL, read_one, reader), 0);
}

static void join(struct reader *reader)
{
    pthread_join(reader->thread, NULL);
}

/* The first fills, blocked; the rest come while it does. */
static void start_flight(struct tp_cache *cache, struct source *source,
                         struct reader readers[N_THREADS])
{
    source->blocks = true;
    start(&readers[0], cache, source, 5);
    sem_wait(&source->begun);
    for (int i = 1; i < N_THREADS; i++)
        start(&readers[i], cache, source, 5);
    while (count(cache).waits < N_THREADS - 1)
        sched_yield();
}

Test(cache, one_fill_serves_all_who_wait)
{
    struct tp_cache *cache = make_cache(2);
    struct source source;
    struct reader readers[N_THREADS];
    source_init(&source, 1);
    start_flight(cache, &source, readers);
    sem_post(&source.go);
    for (int i = 0; i < N_THREADS; i++) {
        join(&readers[i]);
        cr_assert_eq(readers[i].rc, 0);
        cr_assert_eq(readers[i].data, readers[0].data);
    }
    cr_assert_eq(source.fills, 1);
    check_no_slot_lost(cache, 2);
    tp_cache_free(cache);
}

Test(cache, all_who_wait_for_a_failed_fill_are_told)
{
    struct tp_cache *cache = make_cache(2);
    struct source source;
    struct reader readers[N_THREADS];
    source_init(&source, 1);
    source.error = -EIO;
    start_flight(cache, &source, readers);
    sem_post(&source.go);
    for (int i = 0; i < N_THREADS; i++) {
        join(&readers[i]);
        cr_assert_eq(readers[i].rc, -EIO);
    }
    cr_assert_eq(source.fills, 1);
    cr_assert_eq(count(cache).failures, 1);
    check_no_slot_lost(cache, 2);
    tp_cache_free(cache);
}

Test(cache, readers_of_other_tiles_do_not_wait)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source slow, quick;
    struct reader reader;
    source_init(&slow, 1);
    source_init(&quick, 2);
    slow.blocks = true;
    touch(cache, &quick, 0);
    start(&reader, cache, &slow, 0);
    sem_wait(&slow.begun);
    touch(cache, &quick, 0);           /* there */
    scan(cache, &quick, 1, LONG_SCAN); /* filled meanwhile */
    cr_assert_eq(count(cache).waits, 0);
    sem_post(&slow.go);
    join(&reader);
    cr_assert_eq(reader.rc, 0);
    tp_cache_free(cache);
}

/* ---- prefetching ---- */

static struct tp_prefetcher *make_prefetcher(struct tp_cache *cache, size_t n_threads)
{
    struct tp_prefetcher *prefetcher;
    cr_assert_eq(tp_prefetcher_new(cache, n_threads, &prefetcher), 0);
    return prefetcher;
}

static void ask(struct tp_prefetcher *prefetcher, struct source *source, uint64_t index)
{
    tp_prefetch(prefetcher, source, (struct tp_tile_key){source->file, index}, fill, source);
}

Test(prefetch, makes_a_later_read_a_hit)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct tp_prefetcher *prefetcher = make_prefetcher(cache, 2);
    struct source source;
    source_init(&source, 1);
    ask(prefetcher, &source, 7);
    sem_wait(&source.done);
    touch(cache, &source, 7);
    cr_assert_eq(source.fills, 1);
    tp_prefetcher_free(prefetcher);
    tp_cache_free(cache);
}

Test(prefetch, failure_is_left_to_the_reader)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct tp_prefetcher *prefetcher = make_prefetcher(cache, 1);
    struct source source;
    const struct tp_tile *tile;
    source_init(&source, 1);
    source.error = -EIO;
    ask(prefetcher, &source, 7);
    sem_wait(&source.done);
    tp_prefetcher_free(prefetcher);
    cr_assert_eq(acquire(cache, TP_CACHE_STREAM, &source, 7, &tile), -EIO);
    cr_assert_eq(source.fills, 2);
    tp_cache_free(cache);
}

/* One thread, kept busy, so that everything else stays in the queue. */
static struct tp_prefetcher *make_busy(struct tp_cache *cache, struct source *busy)
{
    struct tp_prefetcher *prefetcher = make_prefetcher(cache, 1);
    source_init(busy, 50);
    busy->blocks = true;
    ask(prefetcher, busy, 0);
    sem_wait(&busy->begun);
    return prefetcher;
}

Test(prefetch, full_queue_drops_without_waiting)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source busy, source;
    struct tp_prefetch_counters counters;
    struct tp_prefetcher *prefetcher = make_busy(cache, &busy);
    source_init(&source, 1);
    for (uint64_t i = 0; i < PREFETCH_QUEUE + 10; i++)
        ask(prefetcher, &source, i);
    tp_prefetch_count(prefetcher, &counters);
    cr_assert_eq(counters.queued, PREFETCH_QUEUE + 1);
    cr_assert_eq(counters.dropped, 10);
    sem_post(&busy.go);
    for (uint64_t i = 0; i < PREFETCH_QUEUE; i++)
        sem_wait(&source.done);
    tp_prefetcher_free(prefetcher);
    cr_assert_eq(source.fills, PREFETCH_QUEUE);
    tp_cache_free(cache);
}

Test(prefetch, cancel_drops_what_one_owner_asked_for)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source busy, gone, stays;
    struct tp_prefetch_counters counters;
    struct tp_prefetcher *prefetcher = make_busy(cache, &busy);
    source_init(&gone, 1);
    source_init(&stays, 2);
    for (uint64_t i = 0; i < 20; i++) {
        ask(prefetcher, &gone, i);
        ask(prefetcher, &stays, i);
    }
    tp_prefetch_cancel(prefetcher, &gone);
    tp_prefetch_cancel(prefetcher, &gone); /* nothing is left */
    tp_prefetch_count(prefetcher, &counters);
    cr_assert_eq(counters.cancelled, 20);
    sem_post(&busy.go);
    for (int i = 0; i < 20; i++)
        sem_wait(&stays.done); /* the last of them stands behind all the cancelled ones */
    cr_assert_eq(gone.fills, 0);
    tp_prefetcher_free(prefetcher);
    tp_cache_free(cache);
}

Test(prefetch, queue_goes_round)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct tp_prefetcher *prefetcher = make_prefetcher(cache, 1);
    struct source source;
    source_init(&source, 1);
    for (uint64_t i = 0; i < 5 * PREFETCH_QUEUE; i++) {
        ask(prefetcher, &source, i);
        sem_wait(&source.done);
    }
    tp_prefetcher_free(prefetcher);
    cr_assert_eq(source.fills, 5 * PREFETCH_QUEUE);
    tp_cache_free(cache);
}

Test(prefetch, ends_with_a_full_queue)
{
    struct tp_cache *cache = make_cache(N_TILES);
    struct source busy, source;
    struct tp_prefetcher *prefetcher = make_busy(cache, &busy);
    source_init(&source, 1);
    for (uint64_t i = 0; i < PREFETCH_QUEUE; i++)
        ask(prefetcher, &source, i);
    sem_post(&busy.go);
    tp_prefetcher_free(prefetcher);
    check_no_slot_lost(cache, N_TILES);
    tp_cache_free(cache);
}

Test(prefetch, into_a_cache_without_room_does_nothing)
{
    struct tp_cache *cache = make_cache(0);
    struct tp_prefetcher *prefetcher = make_prefetcher(cache, 1);
    struct source source;
    source_init(&source, 1);
    for (uint64_t i = 0; i < 10; i++)
        ask(prefetcher, &source, i);
    tp_prefetcher_free(prefetcher);
    cr_assert_eq(source.fills, 0);
    tp_cache_free(cache);
}
