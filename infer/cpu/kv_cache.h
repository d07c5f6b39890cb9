/* The keys and values of one layer of one sequence, as attention reads them.
 *
 * Position p lies in slot p % capacity: with room for the window and the longest step it is a ring,
 * with room for the whole context it never wraps. Keys lie 16 side by side, so that a vector holds
 * one number of 16 keys and scores need no sums across lanes; values lie as they come, padded so
 * that vectors are whole.
 *
 *     keys   [kv head][capacity / 16][head size][16]
 *     values [kv head][capacity][padded head size]
 */
#ifndef TENSORPORT_INFER_CPU_KV_CACHE_H
#define TENSORPORT_INFER_CPU_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tp_kv_cache {
    bool bf16;       /* rounded to nearest even; float32 otherwise */
    size_t capacity; /* positions; a multiple of 16 */
    size_t n_heads, head_size;
    void *keys, *values; /* the caller's memory, aligned to 64, all zeros at first */
    /* Others' caches, only to be read: keys and values [capacity][n_heads][head_size], of any
     * capacity and alignment, which never wrap. Attention has a split of them at a time laid out as
     * above. */
    bool plain;
};

/* Bytes of the keys, or of the values. -EOVERFLOW when there are more than can be counted. */
int tp_kv_cache_bytes(const struct tp_kv_cache *cache, size_t *ret_keys, size_t *ret_values);

/* Stores a position; `keys` and `values` [n_heads][head_size]. Different positions may be stored
 * at the same time. */
void tp_kv_cache_store(struct tp_kv_cache *cache, size_t position, const float *keys,
                       const float *values);

/* Bytes of one key's or value's number. */
size_t tp_kv_cache_width(const struct tp_kv_cache *cache);

/* A position as struct tp_backend_kind describes it outside: [2][n_heads][head_size]. */
void tp_kv_cache_export(const struct tp_kv_cache *cache, size_t position, void *target);
void tp_kv_cache_import(struct tp_kv_cache *cache, size_t position, const void *source);

/* Lays what a head has of positions first..first + n - 1 of a plain cache out as above: those of
 * one split (see kernels.h), to `keys` and `values` of a cache with room for a split and one head.
 */
void tp_kv_cache_lay_out(const struct tp_kv_cache *cache, size_t head, size_t first, size_t n,
                         void *keys, void *values);

/* What belongs to one KV head. */
const void *tp_kv_cache_keys(const struct tp_kv_cache *cache, size_t head);
const void *tp_kv_cache_values(const struct tp_kv_cache *cache, size_t head);

#endif
