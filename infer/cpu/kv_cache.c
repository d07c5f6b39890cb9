#include "infer/cpu/kv_cache.h"

#include <errno.h>
#include <string.h>

#include "infer/cpu/kernels.h"

size_t tp_kv_cache_width(const struct tp_kv_cache *cache)
{
    return cache->bf16 ? sizeof(uint16_t) : sizeof(float);
}

static int bytes_of(const struct tp_kv_cache *cache, size_t head_size, size_t *ret_bytes)
{
    size_t elements;
    if (__builtin_mul_overflow(cache->n_heads, cache->capacity, &elements) ||
        __builtin_mul_overflow(elements, head_size, &elements) ||
        __builtin_mul_overflow(elements, tp_kv_cache_width(cache), &elements))
        return -EOVERFLOW;
    *ret_bytes = elements;
    return 0;
}

int tp_kv_cache_bytes(const struct tp_kv_cache *cache, size_t *ret_keys, size_t *ret_values)
{
    size_t keys, values;
    if (cache->head_size > SIZE_MAX / 2 || bytes_of(cache, cache->head_size, &keys) < 0 ||
        bytes_of(cache, tp_padded_head(cache->head_size), &values) < 0)
        return -EOVERFLOW;
    *ret_keys = keys;
    *ret_values = values;
    return 0;
}

/* To the nearest BF16, ties to even; NaN becomes quiet. */
static uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void store(const struct tp_kv_cache *cache, void *target, size_t i, float x)
{
    if (cache->bf16)
        ((uint16_t *)target)[i] = to_bf16(x);
    else
        ((float *)target)[i] = x;
}

/* Where a position's numbers of one head begin: its keys, TP_KEY_BLOCK apart, or its values. */
static size_t key_index(const struct tp_kv_cache *cache, size_t head, size_t position)
{
    size_t slot = position % cache->capacity;
    return (head * cache->capacity + slot / TP_KEY_BLOCK * TP_KEY_BLOCK) * cache->head_size +
           slot % TP_KEY_BLOCK;
}

static size_t value_index(const struct tp_kv_cache *cache, size_t head, size_t position)
{
    return (head * cache->capacity + position % cache->capacity) * tp_padded_head(cache->head_size);
}

void tp_kv_cache_store(struct tp_kv_cache *cache, size_t position, const float *keys,
                       const float *values)
{
    size_t size = cache->head_size;
    for (size_t head = 0; head < cache->n_heads; head++) {
        size_t key = key_index(cache, head, position), value = value_index(cache, head, position);
        for (size_t i = 0; i < size; i++) {
            store(cache, cache->keys, key + i * TP_KEY_BLOCK, keys[head * size + i]);
            store(cache, cache->values, value + i, values[head * size + i]);
        }
    }
}

void tp_kv_cache_export(const struct tp_kv_cache *cache, size_t position, void *target)
{
    size_t width = tp_kv_cache_width(cache), size = cache->head_size;
    const uint8_t *keys = cache->keys, *values = cache->values;
    uint8_t *at = target, *value_at = at + cache->n_heads * size * width;
    for (size_t head = 0; head < cache->n_heads; head++) {
        size_t key = key_index(cache, head, position);
        for (size_t i = 0; i < size; i++, at += width)
            memcpy(at, keys + (key + i * TP_KEY_BLOCK) * width, width);
        memcpy(value_at + head * size * width, values + value_index(cache, head, position) * width,
               size * width);
    }
}

void tp_kv_cache_import(struct tp_kv_cache *cache, size_t position, const void *source)
{
    size_t width = tp_kv_cache_width(cache), size = cache->head_size;
    uint8_t *keys = cache->keys, *values = cache->values;
    const uint8_t *at = source, *value_at = at + cache->n_heads * size * width;
    for (size_t head = 0; head < cache->n_heads; head++) {
        size_t key = key_index(cache, head, position);
        for (size_t i = 0; i < size; i++, at += width)
            memcpy(keys + (key + i * TP_KEY_BLOCK) * width, at, width);
        memcpy(values + value_index(cache, head, position) * width, value_at + head * size * width,
               size * width);
    }
}

/* One head's numbers of a position to where keys lie side by side; `width` is a constant,
 * which makes moves of copies. */
static inline void spread(uint8_t *target, const uint8_t *source, size_t n, size_t width)
{
    for (size_t i = 0; i < n; i++)
        memcpy(target + i * TP_KEY_BLOCK * width, source + i * width, width);
}

void tp_kv_cache_lay_out(const struct tp_kv_cache *cache, size_t head, size_t first, size_t n,
                         void *keys, void *values)
{
    size_t width = tp_kv_cache_width(cache), size = cache->head_size, padded = tp_padded_head(size);
    for (size_t position = first; position < first + n; position++) {
        size_t slot = position % TP_KEY_SPLIT;
        size_t source = (position * cache->n_heads + head) * size * width;
        size_t key = slot / TP_KEY_BLOCK * TP_KEY_BLOCK * size + slot % TP_KEY_BLOCK;
        uint8_t *value = (uint8_t *)values + slot * padded * width;
        if (cache->bf16)
            spread((uint8_t *)keys + key * width, (const uint8_t *)cache->keys + source, size,
                   sizeof(uint16_t));
        else
            spread((uint8_t *)keys + key * width, (const uint8_t *)cache->keys + source, size,
                   sizeof(float));
        memcpy(value, (const uint8_t *)cache->values + source, size * width);
        memset(value + size * width, 0, (padded - size) * width);
    }
}

const void *tp_kv_cache_keys(const struct tp_kv_cache *cache, size_t head)
{
    return (const uint8_t *)cache->keys +
           head * cache->capacity * cache->head_size * tp_kv_cache_width(cache);
}

const void *tp_kv_cache_values(const struct tp_kv_cache *cache, size_t head)
{
    return (const uint8_t *)cache->values +
           head * cache->capacity * tp_padded_head(cache->head_size) * tp_kv_cache_width(cache);
}
