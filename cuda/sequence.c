#include "cuda/sequence.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH_F32 = 4, WIDTH_BF16 = 2 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t width_of(const struct tp_cache_plan *plan)
{
    return plan->bf16 ? WIDTH_BF16 : WIDTH_F32;
}

static size_t capacity_of(const struct tp_cache_plan *plan, size_t layer, size_t context)
{
    return plan->config->windows[layer] > 0 ? least(plan->ring_capacity, context) : context;
}

struct tp_gpu_cache tp_cache_layer(const struct tp_cache_plan *plan, size_t layer)
{
    const struct tp_model_config *c = plan->config;
    struct tp_gpu_cache cache = {
        .n_heads = (uint32_t)c->n_kv_heads,
        .head_size = (uint32_t)c->head_dim,
        .ring_capacity = (uint32_t)plan->ring_capacity,
        .is_ring = c->windows[layer] > 0,
        .bf16 = plan->bf16,
    };
    for (size_t i = 0; i < layer; i++) {
        cache.rings_before += c->windows[i] > 0;
        cache.whole_before += c->windows[i] == 0;
    }
    return cache;
}

/* Keys and values of one position in one layer. */
static size_t position_bytes(const struct tp_cache_plan *plan)
{
    return 2 * plan->config->n_kv_heads * plan->config->head_dim * width_of(plan);
}

int tp_gpu_sequence_bytes(const struct tp_cache_plan *plan, size_t context, uint64_t *ret_bytes)
{
    uint64_t positions = 0;
    if (context > UINT32_MAX / 2)
        return -EOVERFLOW;
    for (size_t i = 0; i < plan->config->n_layers; i++)
        positions += capacity_of(plan, i, context);
    return __builtin_mul_overflow(positions, position_bytes(plan), ret_bytes) ? -EOVERFLOW : 0;
}

int tp_gpu_sequence_new(const struct tp_cache_plan *plan, size_t context,
                        struct tp_sequence **ret_sequence, struct tp_error *error)
{
    uint64_t bytes;
    void *memory = NULL;
    if (context > plan->context_max)
        return tp_error_set(error, -EINVAL,
                            "a context of %zu tokens: the GPU's workspace was made for %zu; give "
                            "--context %zu",
                            context, plan->context_max, context);
    if (tp_gpu_sequence_bytes(plan, context, &bytes) < 0)
        return tp_error_set(error, -EOVERFLOW, "a context of %zu tokens is too long", context);
    struct tp_sequence *sequence = calloc(1, sizeof *sequence);
    if (sequence == NULL ||
        tp_held_init(&sequence->held, plan->config->windows, plan->config->n_layers) < 0) {
        free(sequence);
        return tp_error_set(error, -ENOMEM, "out of memory");
    }
    sequence->plan = plan;
    sequence->context = context;
    for (size_t i = 0; i < plan->config->n_layers; i++)
        sequence->held.capacities[i] = capacity_of(plan, i, context);
    int rc = tp_device_allocate(plan->device, bytes > 0 ? bytes : 1, &memory, error);
    sequence->memory = memory;
    if (rc < 0) {
        tp_error_format_prefix(error, "keys and values of %zu tokens", context);
        tp_gpu_sequence_free(sequence);
        return rc;
    }
    *ret_sequence = sequence;
    return 0;
}

void tp_gpu_sequence_free(struct tp_sequence *sequence)
{
    if (sequence == NULL)
        return;
    if (sequence->memory != NULL)
        tp_device_free(sequence->plan->device, sequence->memory);
    tp_held_fini(&sequence->held);
    free(sequence);
}

size_t tp_gpu_sequence_width(const struct tp_sequence *sequence)
{
    return width_of(sequence->plan);
}

/* ---- outside: a position's numbers together, where the device has each head's positions ---- */

/* The keys or values of a head: where a ring ends positions go on at its beginning. */
struct streak {
    uint8_t *device;
    size_t first, n; /* of the positions asked for */
};

static struct streak streak_of(const struct tp_sequence *sequence, size_t layer, size_t part,
                               size_t head, size_t position, size_t done, size_t n)
{
    const struct tp_cache_plan *plan = sequence->plan;
    size_t bytes = plan->config->head_dim * width_of(plan), n_heads = plan->config->n_kv_heads;
    size_t capacity = sequence->held.capacities[layer], slot = (position + done) % capacity;
    size_t before = 0;
    for (size_t i = 0; i < layer; i++)
        before += sequence->held.capacities[i];
    uint8_t *numbers = sequence->memory + before * position_bytes(plan);
    numbers += ((part * n_heads + head) * capacity + slot) * bytes;
    return (struct streak){numbers, done, least(n - done, capacity - slot)};
}

/* Copies positions between the caller's memory and the device, head by head. */
static int transfer(const struct tp_sequence *sequence, size_t layer, size_t first, size_t n,
                    uint8_t *outside, bool to_device)
{
    const struct tp_cache_plan *plan = sequence->plan;
    size_t bytes = plan->config->head_dim * width_of(plan), n_heads = plan->config->n_kv_heads;
    size_t stride = position_bytes(plan);
    struct tp_error error;
    uint8_t *lined_up = malloc(n * bytes + 1);
    int rc = lined_up == NULL ? -ENOMEM : 0;
    for (size_t i = 0; rc == 0 && i < 2 * n_heads; i++) {
        uint8_t *numbers = outside + i * bytes;
        for (size_t done = 0; rc == 0 && done < n;) {
            struct streak s = streak_of(sequence, layer, i / n_heads, i % n_heads, first, done, n);
            for (size_t j = 0; to_device && j < s.n; j++)
                memcpy(lined_up + j * bytes, numbers + (done + j) * stride, bytes);
            rc = to_device
                     ? tp_device_upload(plan->device, s.device, lined_up, s.n * bytes, &error)
                     : tp_device_download(plan->device, lined_up, s.device, s.n * bytes, &error);
            for (size_t j = 0; rc == 0 && !to_device && j < s.n; j++)
                memcpy(numbers + (done + j) * stride, lined_up + j * bytes, bytes);
            done += s.n;
        }
    }
    free(lined_up);
    return rc;
}

int tp_gpu_sequence_export(const struct tp_sequence *sequence, size_t layer, size_t first, size_t n,
                           void *target)
{
    return transfer(sequence, layer, first, n, target, false);
}

int tp_gpu_sequence_import(struct tp_sequence *sequence, size_t layer, size_t first, size_t n,
                           const void *source)
{
    return transfer(sequence, layer, first, n, (uint8_t *)(uintptr_t)source, true);
}
