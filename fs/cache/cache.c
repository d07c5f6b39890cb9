#include "fs/cache/cache.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fs/base/gate.h"
#include "fs/cache/list.h"

/* The queue of new tiles is a quarter of the arena, as 2Q's authors advise, but never more
 * than half of a usual last-level cache. */
enum { QUEUE_BYTES_MAX = 16 << 20 };

enum tile_state { TILE_FREE, TILE_FILLING, TILE_READY, TILE_FAILED };

struct slot {
    struct tp_tile tile; /* first: a tile in use is its slot */
    struct tp_tile_key key;
    enum tile_state state;
    bool is_kept; /* belongs to the LRU list, not to the queue */
    int error;    /* of a failed fill */
    unsigned pins;
    void *buffer;
    struct tp_link link; /* in `free`, `queue` or `kept` */
    struct slot *next_in_bucket;
    pthread_cond_t filled;
};

struct tp_cache {
    size_t tile_size;
    size_t n_slots;
    size_t n_queue_max;
    void *arena;
    struct slot *slots;

    pthread_mutex_t lock; /* protects all below and every slot but the bytes being filled */
    struct tp_link free;
    struct tp_link queue; /* oldest first */
    struct tp_link kept;  /* least recently used first */
    size_t n_queued;
    size_t bucket_mask;
    struct slot **buckets;
    struct tp_tile_key *departed; /* direct-mapped: keys that left the queue lately */
    struct tp_cache_counters counters;
};

static size_t hash_key(struct tp_tile_key key)
{
    uint64_t mixed =
        (key.file * UINT64_C(0x9E3779B97F4A7C15) ^ key.index) * UINT64_C(0xD6E8FEB86659FD93);
    return (size_t)(mixed ^ mixed >> 32);
}

static bool same_key(struct tp_tile_key a, struct tp_tile_key b)
{
    return a.file == b.file && a.index == b.index;
}

static struct slot **find_link(struct tp_cache *cache, struct tp_tile_key key)
{
    struct slot **link = &cache->buckets[hash_key(key) & cache->bucket_mask];
    while (*link != NULL && !same_key((*link)->key, key))
        link = &(*link)->next_in_bucket;
    return link;
}

static void remove_from_index(struct tp_cache *cache, struct slot *slot)
{
    struct slot **link = find_link(cache, slot->key);
    assert(*link == slot);
    *link = slot->next_in_bucket;
}

static struct tp_tile_key *departed_place(struct tp_cache *cache, struct tp_tile_key key)
{
    return &cache->departed[hash_key(key) & cache->bucket_mask];
}

static struct slot *first_unpinned(struct tp_link *list)
{
    TP_LIST_FOR_EACH(link, list)
    {
        struct slot *slot = TP_LIST_ENTRY(link, struct slot, link);
        if (slot->pins == 0)
            return slot;
    }
    return NULL;
}

/* Takes a slot out of its list and the index. */
static struct slot *evict(struct tp_cache *cache, struct slot *slot)
{
    if (slot == NULL)
        return NULL;
    remove_from_index(cache, slot);
    tp_list_remove(&slot->link);
    if (!slot->is_kept) {
        *departed_place(cache, slot->key) = slot->key;
        cache->n_queued--;
    }
    cache->counters.evictions++;
    cache->counters.bytes -= cache->tile_size;
    return slot;
}

static struct slot *take_free(struct tp_cache *cache)
{
    if (tp_list_is_empty(&cache->free))
        return NULL;
    struct slot *slot = TP_LIST_ENTRY(cache->free.next, struct slot, link);
    tp_list_remove(&slot->link);
    return slot;
}

/* A slot for a new tile. The queue recycles its own oldest buffer once it has its share; what
 * it took beyond that, while its tiles were pinned, goes back to the tiles that are kept. */
static struct slot *take_slot(struct tp_cache *cache, bool to_keep)
{
    struct slot *slot = NULL;
    if (cache->n_queued + !to_keep > cache->n_queue_max)
        slot = evict(cache, first_unpinned(&cache->queue));
    if (slot == NULL)
        slot = take_free(cache);
    if (slot == NULL)
        slot = evict(cache, first_unpinned(&cache->kept));
    if (slot == NULL)
        slot = evict(cache, first_unpinned(&cache->queue));
    return slot;
}

static void put_into_index(struct tp_cache *cache, struct slot *slot, struct tp_tile_key key,
                           bool to_keep)
{
    struct slot **bucket = &cache->buckets[hash_key(key) & cache->bucket_mask];
    slot->key = key;
    slot->is_kept = to_keep;
    slot->state = TILE_FILLING;
    slot->pins = 1;
    slot->next_in_bucket = *bucket;
    *bucket = slot;
    tp_list_append(to_keep ? &cache->kept : &cache->queue, &slot->link);
    cache->n_queued += !to_keep;
    cache->counters.bytes += cache->tile_size;
}

/* A failed slot goes when the last of those who waited for it has seen the error. */
static void unpin(struct tp_cache *cache, struct slot *slot)
{
    assert(slot->pins > 0);
    if (--slot->pins > 0 || slot->state != TILE_FAILED)
        return;
    slot->state = TILE_FREE;
    tp_list_prepend(&cache->free, &slot->link);
}

static void finish_fill(struct tp_cache *cache, struct slot *slot, int rc)
{
    slot->error = rc;
    if (rc == 0) {
        slot->state = TILE_READY;
        cache->counters.fills++;
    } else {
        remove_from_index(cache, slot); /* the next who asks tries again */
        tp_list_remove(&slot->link);
        cache->n_queued -= !slot->is_kept;
        cache->counters.bytes -= cache->tile_size;
        cache->counters.failures++;
        slot->state = TILE_FAILED;
    }
    pthread_cond_broadcast(&slot->filled);
}

/* Waits outside the gate, or the one who fills the slot might never get in again. */
static void wait_for_fill(struct tp_cache *cache, struct slot *slot)
{
    tp_gate_pause();
    while (slot->state == TILE_FILLING)
        pthread_cond_wait(&slot->filled, &cache->lock);
    pthread_mutex_unlock(&cache->lock);
    tp_gate_resume();
    pthread_mutex_lock(&cache->lock);
}

/* Pins a slot that is there or on its way. */
static int join(struct tp_cache *cache, struct slot *slot, const struct tp_tile **ret_tile)
{
    slot->pins++;
    if (slot->state == TILE_READY) {
        cache->counters.hits++;
    } else {
        cache->counters.waits++;
        wait_for_fill(cache, slot);
    }
    if (slot->state == TILE_FAILED) {
        int rc = slot->error;
        unpin(cache, slot);
        return rc;
    }
    if (slot->is_kept) { /* now the most recently used */
        tp_list_remove(&slot->link);
        tp_list_append(&cache->kept, &slot->link);
    }
    *ret_tile = &slot->tile;
    return 0;
}

static int fill_new(struct tp_cache *cache, struct tp_tile_key key, bool to_keep,
                    tp_tile_fill *fill, void *context, const struct tp_tile **ret_tile)
{
    struct slot *slot = take_slot(cache, to_keep);
    if (slot == NULL) {
        cache->counters.refusals++;
        return -ENOBUFS;
    }
    put_into_index(cache, slot, key, to_keep);
    pthread_mutex_unlock(&cache->lock);
    size_t length = 0;
    int rc = fill(context, key.index, slot->buffer, &length);
    pthread_mutex_lock(&cache->lock);
    slot->tile = (struct tp_tile){slot->buffer, length};
    finish_fill(cache, slot, rc);
    if (rc < 0) {
        unpin(cache, slot);
        return rc;
    }
    *ret_tile = &slot->tile;
    return 0;
}

int tp_cache_acquire(struct tp_cache *cache, struct tp_tile_key key, enum tp_cache_use use,
                     tp_tile_fill *fill, void *context, const struct tp_tile **ret_tile)
{
    pthread_mutex_lock(&cache->lock);
    struct slot *slot = *find_link(cache, key);
    int rc = -ENOENT;
    if (slot != NULL) {
        rc = join(cache, slot, ret_tile);
    } else {
        bool to_keep = (use == TP_CACHE_RANDOM || use == TP_CACHE_FILL) &&
                       same_key(*departed_place(cache, key), key);
        cache->counters.misses++;
        if (to_keep || use == TP_CACHE_STREAM || use == TP_CACHE_FILL)
            rc = fill_new(cache, key, to_keep, fill, context, ret_tile);
    }
    pthread_mutex_unlock(&cache->lock);
    return rc;
}

void tp_cache_release(struct tp_cache *cache, const struct tp_tile *tile)
{
    pthread_mutex_lock(&cache->lock);
    unpin(cache, (struct slot *)tile);
    pthread_mutex_unlock(&cache->lock);
}

size_t tp_cache_tile_size(const struct tp_cache *cache)
{
    return cache->tile_size;
}

void tp_cache_count(struct tp_cache *cache, struct tp_cache_counters *ret_counters)
{
    pthread_mutex_lock(&cache->lock);
    *ret_counters = cache->counters;
    pthread_mutex_unlock(&cache->lock);
    ret_counters->capacity = cache->n_slots * cache->tile_size;
}

static size_t buckets_for(size_t n_slots)
{
    size_t n = 64;
    while (n < 2 * n_slots)
        n *= 2;
    return n;
}

static int reserve(struct tp_cache *cache)
{
    size_t n_buckets = buckets_for(cache->n_slots), bytes = cache->n_slots * cache->tile_size;
    cache->bucket_mask = n_buckets - 1;
    cache->buckets = calloc(n_buckets, sizeof *cache->buckets);
    cache->departed = malloc(n_buckets * sizeof *cache->departed);
    cache->slots = calloc(cache->n_slots + 1, sizeof *cache->slots);
    if (cache->buckets == NULL || cache->departed == NULL || cache->slots == NULL)
        return -ENOMEM;
    memset(cache->departed, 0xff, n_buckets * sizeof *cache->departed); /* no file is ~0 */
    if (bytes == 0)
        return 0;
    cache->arena = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cache->arena == MAP_FAILED) {
        cache->arena = NULL;
        return -ENOMEM;
    }
    madvise(cache->arena, bytes, MADV_HUGEPAGE);
    return 0;
}

int tp_cache_new(size_t capacity, size_t tile_size, struct tp_cache **ret_cache)
{
    struct tp_cache *cache = calloc(1, sizeof *cache);
    if (cache == NULL)
        return -ENOMEM;
    cache->tile_size = tile_size;
    cache->n_slots = capacity / tile_size < 2 ? 0 : capacity / tile_size;
    cache->n_queue_max = cache->n_slots / 4;
    if (cache->n_queue_max > QUEUE_BYTES_MAX / tile_size)
        cache->n_queue_max = QUEUE_BYTES_MAX / tile_size;
    if (cache->n_queue_max < 2)
        cache->n_queue_max = 2;
    pthread_mutex_init(&cache->lock, NULL);
    tp_list_init(&cache->free);
    tp_list_init(&cache->queue);
    tp_list_init(&cache->kept);
    if (reserve(cache) < 0) {
        tp_cache_free(cache);
        return -ENOMEM;
    }
    for (size_t i = 0; i < cache->n_slots; i++) {
        struct slot *slot = &cache->slots[i];
        slot->buffer = (char *)cache->arena + i * tile_size;
        pthread_cond_init(&slot->filled, NULL);
        tp_list_append(&cache->free, &slot->link);
    }
    *ret_cache = cache;
    return 0;
}

void tp_cache_free(struct tp_cache *cache)
{
    if (cache == NULL)
        return;
    for (size_t i = 0; cache->slots != NULL && i < cache->n_slots; i++) {
        assert(cache->slots[i].pins == 0);
        if (cache->slots[i].buffer != NULL)
            pthread_cond_destroy(&cache->slots[i].filled);
    }
    if (cache->arena != NULL)
        munmap(cache->arena, cache->n_slots * cache->tile_size);
    pthread_mutex_destroy(&cache->lock);
    free(cache->slots);
    free(cache->departed);
    free(cache->buckets);
    free(cache);
}
