/* A bounded cache of tiles: pieces of files as readers see them, decoded.
 *
 * Bounded: all tiles lie in one arena of the given size, reserved at the start and touched
 * only as far as it is used. Nothing grows beyond it, whatever happens; when every tile is in
 * use, tp_cache_acquire() says so and the caller reads without the cache.
 *
 * Single flight: the first who asks for a tile fills it, outside the lock; others who want
 * the same tile wait for it, those who want another do not.
 *
 * Replacement is 2Q (Johnson and Shasha, VLDB 1994), because the usual reader passes once over
 * tens of gigabytes: new tiles enter a short queue which reuses its few buffers while they are
 * still in the processor's cache; only a tile that is wanted again after it has left that
 * queue, and not by a stream, enters the LRU list, which owns the rest of the arena. A pass
 * over a model neither flushes what others use nor touches fresh memory; nor does a second
 * pass, which decodes again: that was measured to be as fast as reading decoded tiles from
 * memory, and several times as fast as touching fresh memory for them.
 *
 * All functions are thread-safe.
 */
#ifndef TENSORPORT_FS_CACHE_CACHE_H
#define TENSORPORT_FS_CACHE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tp_cache;

struct tp_tile_key {
    uint64_t file;  /* any number that names the file for good */
    uint64_t index; /* of the tile in the file */
};

/* Writes the bytes of the tile to `target` and gives their number. 0 or a negative errno. */
typedef int tp_tile_fill(void *context, uint64_t index, void *target, size_t *ret_length);

/* A tile in use. It stays as it is until it is released. */
struct tp_tile {
    const void *data;
    size_t length;
};

struct tp_cache_counters {
    uint64_t hits;      /* found ready */
    uint64_t waits;     /* found being filled */
    uint64_t misses;    /* not found */
    uint64_t fills;     /* filled */
    uint64_t failures;  /* fills that failed */
    uint64_t evictions; /* tiles that made room */
    uint64_t refusals;  /* every tile in use */
    uint64_t bytes;     /* in tiles that hold something, now */
    uint64_t capacity;  /* bytes of the arena */
};

/* `capacity` and `tile_size` in bytes; a capacity below two tiles gives a cache that never
 * holds anything. -ENOMEM. */
int tp_cache_new(size_t capacity, size_t tile_size, struct tp_cache **ret_cache);

/* No tile may be in use any more. */
void tp_cache_free(struct tp_cache *cache);

size_t tp_cache_tile_size(const struct tp_cache *cache);

enum tp_cache_use {
    TP_CACHE_STREAM, /* fill it if absent; it stays for the time of a stream */
    TP_CACHE_RANDOM, /* fill it only if it was here lately; then it stays for as long as it is used
                      */
    TP_CACHE_FILL,   /* fill it if absent; it stays if it was here lately */
    TP_CACHE_LOOK,   /* never fill it */
};

/* Gives the tile, pinned. -ENOENT: absent, and `use` says not to fill it. -ENOBUFS: no tile to
 * be had. Any other code is the fill's own. `fill` is not called under the lock. */
int tp_cache_acquire(struct tp_cache *cache, struct tp_tile_key key, enum tp_cache_use use,
                     tp_tile_fill *fill, void *context, const struct tp_tile **ret_tile);

void tp_cache_release(struct tp_cache *cache, const struct tp_tile *tile);

void tp_cache_count(struct tp_cache *cache, struct tp_cache_counters *ret_counters);

#endif
