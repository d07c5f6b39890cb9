#include "infer/cpu/sequence.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGNMENT = 64, CAPACITY_MULTIPLE = 16 };

static size_t round_up(size_t value, size_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

/* The cache of a layer, without its memory. */
static struct tp_kv_cache describe(const struct tp_model_config *config, size_t layer,
                                   size_t context, size_t step_max, bool bf16)
{
    size_t window = config->windows[layer], capacity = context;
    if (window > 0 && window < context && step_max < context - window)
        capacity = window + step_max;
    return (struct tp_kv_cache){.bf16 = bf16,
                                .capacity = round_up(capacity, CAPACITY_MULTIPLE),
                                .n_heads = config->n_kv_heads,
                                .head_size = config->head_dim};
}

int tp_sequence_bytes(const struct tp_model_config *config, size_t context, size_t step_max,
                      bool bf16, uint64_t *ret_bytes)
{
    uint64_t total = 0;
    if (context > SIZE_MAX / 2)
        return -EOVERFLOW;
    for (size_t i = 0; i < config->n_layers; i++) {
        struct tp_kv_cache cache = describe(config, i, context, step_max, bf16);
        size_t keys, values;
        if (tp_kv_cache_bytes(&cache, &keys, &values) < 0 ||
            __builtin_add_overflow(total, round_up(keys, ALIGNMENT), &total) ||
            __builtin_add_overflow(total, round_up(values, ALIGNMENT), &total))
            return -EOVERFLOW;
    }
    *ret_bytes = total;
    return 0;
}

static void place(struct tp_sequence *sequence, const struct tp_model_config *config,
                  size_t step_max, bool bf16)
{
    uint8_t *at = sequence->memory;
    for (size_t i = 0; i < config->n_layers; i++) {
        struct tp_kv_cache cache = describe(config, i, sequence->context, step_max, bf16);
        size_t keys = 0, values = 0;
        tp_kv_cache_bytes(&cache, &keys, &values);
        cache.keys = at;
        cache.values = at + round_up(keys, ALIGNMENT);
        at += round_up(keys, ALIGNMENT) + round_up(values, ALIGNMENT);
        sequence->caches[i] = cache;
        sequence->held.capacities[i] = cache.capacity;
    }
}

int tp_sequence_new(const struct tp_model_config *config, size_t context, size_t step_max,
                    bool bf16, struct tp_sequence **ret_sequence, struct tp_error *error)
{
    uint64_t bytes;
    int rc = tp_sequence_bytes(config, context, step_max, bf16, &bytes);
    if (rc < 0 || bytes > SIZE_MAX)
        return tp_error_set(error, -EOVERFLOW, "a context of %zu tokens is too long", context);
    struct tp_held held;
    rc = tp_held_init(&held, config->windows, config->n_layers);
    struct tp_sequence *sequence = calloc(1, sizeof *sequence);
    struct tp_kv_cache *caches = calloc(config->n_layers, sizeof *caches);
    void *memory = mmap(NULL, bytes > 0 ? (size_t)bytes : 1, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (rc < 0 || sequence == NULL || caches == NULL || memory == MAP_FAILED) {
        free(sequence);
        free(caches);
        tp_held_fini(&held);
        if (memory != MAP_FAILED)
            munmap(memory, (size_t)bytes);
        return tp_error_set(error, -ENOMEM,
                            "no memory for the keys and values of %zu tokens: %llu bytes", context,
                            (unsigned long long)bytes);
    }
    *sequence = (struct tp_sequence){.context = context,
                                     .held = held,
                                     .caches = caches,
                                     .memory = memory,
                                     .memory_bytes = (size_t)bytes};
    place(sequence, config, step_max, bf16);
    *ret_sequence = sequence;
    return 0;
}

void tp_sequence_free(struct tp_sequence *sequence)
{
    if (sequence == NULL)
        return;
    munmap(sequence->memory, sequence->memory_bytes > 0 ? sequence->memory_bytes : 1);
    free(sequence->caches);
    tp_held_fini(&sequence->held);
    free(sequence);
}

/* ---- outside */

size_t tp_sequence_width(const struct tp_sequence *sequence)
{
    return tp_kv_cache_width(&sequence->caches[0]);
}

static size_t position_bytes(const struct tp_kv_cache *cache)
{
    return 2 * cache->n_heads * cache->head_size * tp_kv_cache_width(cache);
}

int tp_sequence_export(const struct tp_sequence *sequence, size_t layer, size_t first, size_t n,
                       void *target)
{
    const struct tp_kv_cache *cache = &sequence->caches[layer];
    for (size_t i = 0; i < n; i++)
        tp_kv_cache_export(cache, first + i, (uint8_t *)target + i * position_bytes(cache));
    return 0;
}

int tp_sequence_import(struct tp_sequence *sequence, size_t layer, size_t first, size_t n,
                       const void *source)
{
    struct tp_kv_cache *cache = &sequence->caches[layer];
    for (size_t i = 0; i < n; i++)
        tp_kv_cache_import(cache, first + i, (const uint8_t *)source + i * position_bytes(cache));
    return 0;
}
