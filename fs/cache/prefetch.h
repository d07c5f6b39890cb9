/* Fills tiles ahead of their readers, in threads of its own. */
#ifndef TENSORPORT_FS_CACHE_PREFETCH_H
#define TENSORPORT_FS_CACHE_PREFETCH_H

#include <stddef.h>
#include <stdint.h>

#include "fs/cache/cache.h"

struct tp_prefetcher;

struct tp_prefetch_counters {
    uint64_t queued;
    uint64_t dropped;   /* the queue was full */
    uint64_t cancelled; /* the reader went away first */
};

/* Starts `n_threads` threads. -EAGAIN when not even one can be had, -ENOMEM. */
int tp_prefetcher_new(struct tp_cache *cache, size_t n_threads,
                      struct tp_prefetcher **ret_prefetcher);

/* Ends the threads; tiles not yet begun are dropped. */
void tp_prefetcher_free(struct tp_prefetcher *prefetcher);

/* Asks for a tile. Never waits: a full queue drops the request, which costs speed only.
 * `context` must stay valid until the fill is done, also after a cancel. */
void tp_prefetch(struct tp_prefetcher *prefetcher, const void *owner, struct tp_tile_key key,
                 tp_tile_fill *fill, void *context);

/* Drops what `owner` asked for and nobody has begun. */
void tp_prefetch_cancel(struct tp_prefetcher *prefetcher, const void *owner);

void tp_prefetch_count(struct tp_prefetcher *prefetcher, struct tp_prefetch_counters *ret_counters);

#endif
