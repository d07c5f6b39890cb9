/* sink_attention for a GPU. */
#include <errno.h>

#include "infer/jax/calls.h"
#include "infer/jax/cuda/gpu.h"
#include "infer/jax/handlers.h"

enum {
    QUERY_ROWS = 64,        /* query heads times queries that a block attends with, at most */
    GRID_MAX = 65535,       /* in y and z */
    MIXED_BYTES = 16 << 20, /* of splits, in steps of few queries */
};

/* Memory for n queries, and how they attend. */
struct plan {
    const struct tp_attention_call *call;
    uint32_t tile_max; /* of tp_many_attend; 0: tp_attend */
    size_t n, n_splits, n_tiles;

    float *queries, *sinks; /* made of others */
    uint32_t *positions, *sequences, *arrived;
    struct tp_query_tile *tiles;
    float *mixed, *sums;
    struct tp_columns columns;
};

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t tiles_of(size_t n, size_t tile)
{
    return (n + tile - 1) / tile;
}

static size_t width_of(const struct tp_attention_call *call)
{
    return call->n_heads * call->head_size;
}

/* ---- memory ---- */

static void take(struct tp_arena *arena, void *context)
{
    struct plan *plan = context;
    const struct tp_attention_call *call = plan->call;
    size_t n = plan->n, width = width_of(call);
    bool makes_queries = call->q.dtype != TP_F32;
    bool makes_sinks = call->has_sinks && call->sinks.dtype != TP_F32;
    plan->queries = makes_queries ? tp_arena_take(arena, n * width, sizeof(float)) : NULL;
    plan->sinks = makes_sinks ? tp_arena_take(arena, call->n_heads, sizeof(float)) : NULL;
    plan->positions = tp_arena_take(arena, n, sizeof(uint32_t));
    plan->sequences = tp_arena_take(arena, n, sizeof(uint32_t));
    plan->columns = tp_arena_columns(arena, n, width, tp_gpu_parts(&call->y));
    if (plan->tile_max > 0) {
        plan->tiles = tp_arena_take(arena, plan->n_tiles, sizeof *plan->tiles);
        return;
    }
    plan->arrived = tp_arena_take(arena, n * call->n_kv_heads, sizeof(uint32_t));
    plan->mixed = tp_arena_take(arena, n * plan->n_splits * width, sizeof(float));
    plan->sums = tp_arena_take(arena, n * plan->n_splits * call->n_heads * 2, sizeof(float));
}

static uint32_t group_of(const struct tp_attention_call *call)
{
    return (uint32_t)(call->n_heads / call->n_kv_heads);
}

/* Queries of a tile, as many as a block has memory for; 0 where not one fits. */
static uint32_t tile_max(const struct tp_gpu_call *gpu, const struct tp_attention_call *call)
{
    uint32_t group = group_of(call), size = (uint32_t)call->head_size;
    uint32_t n = group < QUERY_ROWS ? QUERY_ROWS / group : 1;
    while (n > 0 && tp_many_attend_shared_bytes(n, group, size) > gpu->facts->shared_bytes_max)
        n /= 2;
    return n;
}

static struct plan make_plan(const struct tp_gpu_call *gpu, const struct tp_attention_call *call)
{
    struct plan plan = {.call = call};
    size_t seen = call->window > 0 ? least(call->window, call->capacity) : call->capacity;
    plan.n = call->n_batches * call->n_queries;
    plan.n_splits = seen / TP_GPU_KEY_SPLIT + 2;
    if (call->n_queries > TP_FEW)
        plan.tile_max = tile_max(gpu, call);
    if (plan.tile_max > 0) {
        plan.n_tiles = call->n_batches * tiles_of(call->n_queries, plan.tile_max);
    } else {
        size_t at_once = MIXED_BYTES / (plan.n_splits * width_of(call) * sizeof(float));
        plan.n = least(plan.n, at_once > 0 ? at_once : 1);
    }
    return plan;
}

/* ---- launches ---- */

static struct tp_gpu_cache cache_of(const struct tp_attention_call *call)
{
    return (struct tp_gpu_cache){.n_heads = (uint32_t)call->n_kv_heads,
                                 .head_size = (uint32_t)call->head_size,
                                 .bf16 = call->keys.dtype == TP_BF16,
                                 .keys = call->keys.data,
                                 .values = call->values.data,
                                 .capacity = (uint32_t)call->capacity};
}

/* 0 where all of the cache is seen. */
static uint32_t window_of(const struct tp_attention_call *call)
{
    return call->window < call->capacity ? (uint32_t)call->window : 0;
}

static const float *floats_of(struct tp_gpu_call *gpu, const struct tp_buffer *buffer, size_t first,
                              size_t n, float *made)
{
    if (made == NULL)
        return (const float *)buffer->data + first;
    tp_gpu_convert(gpu, tp_gpu_numbers(buffer, first), (struct tp_numbers){made, false}, n);
    return made;
}

static void find_places(struct tp_gpu_call *gpu, const struct plan *plan, size_t first, size_t n)
{
    const struct tp_attention_call *call = plan->call;
    const unsigned grid[3] = {tp_gpu_blocks(gpu, n), 1, 1};
    struct tp_array_places a = {.positions = call->positions.data,
                                .first = (uint32_t)first,
                                .n = (uint32_t)n,
                                .n_queries = (uint32_t)call->n_queries,
                                .capacity = (uint32_t)call->capacity,
                                .places = plan->positions,
                                .sequences = plan->sequences,
                                .tiles = plan->tiles,
                                .tile_max = plan->tile_max,
                                .arrived = plan->arrived,
                                .n_arrived =
                                    plan->tile_max > 0 ? 0 : (uint32_t)(n * call->n_kv_heads)};
    tp_gpu_launch(gpu, tp_array_places, &a, sizeof a, grid, TP_ROW_THREADS, 0);
}

static void attend_few(struct tp_gpu_call *gpu, const struct plan *plan, const float *queries,
                       const float *sinks, size_t n)
{
    const struct tp_attention_call *call = plan->call;
    const unsigned grid[3] = {(unsigned)n, (unsigned)call->n_kv_heads, (unsigned)plan->n_splits};
    struct tp_attend a = {.places = {plan->positions, plan->sequences},
                          .cache = cache_of(call),
                          .n_heads = (uint32_t)call->n_heads,
                          .window = window_of(call),
                          .scale = call->scale,
                          .sinks = sinks,
                          .queries = queries,
                          .n_splits = (uint32_t)plan->n_splits,
                          .mixed = plan->mixed,
                          .sums = plan->sums,
                          .arrived = plan->arrived,
                          .columns = plan->columns};
    tp_gpu_launch(gpu, tp_attend, &a, sizeof a, grid, TP_ATTEND_THREADS,
                  tp_attend_shared_bytes(group_of(call), (uint32_t)call->head_size));
}

static void attend_many(struct tp_gpu_call *gpu, const struct plan *plan, const float *queries,
                        const float *sinks)
{
    const struct tp_attention_call *call = plan->call;
    const unsigned grid[3] = {(unsigned)plan->n_tiles, (unsigned)call->n_kv_heads, 1};
    struct tp_many_attend a = {.places = {plan->positions, plan->sequences},
                               .cache = cache_of(call),
                               .tiles = plan->tiles,
                               .n_heads = (uint32_t)call->n_heads,
                               .window = window_of(call),
                               .scale = call->scale,
                               .sinks = sinks,
                               .queries = queries,
                               .columns = plan->columns,
                               .tile_max = plan->tile_max};
    tp_gpu_launch(
        gpu, tp_many_attend, &a, sizeof a, grid, TP_MANY_ATTEND_THREADS,
        tp_many_attend_shared_bytes(plan->tile_max, group_of(call), (uint32_t)call->head_size));
}

/* Queries first .. first + n - 1 of all batches'. */
static void attend(struct tp_gpu_call *gpu, const struct plan *plan, const float *sinks,
                   size_t first, size_t n)
{
    const struct tp_attention_call *call = plan->call;
    const unsigned grid[3] = {(unsigned)n, 1, 1};
    size_t width = width_of(call);
    struct tp_array_mixed a = {.positions = (const int32_t *)call->positions.data + first,
                               .capacity = (uint32_t)call->capacity,
                               .columns = plan->columns,
                               .y = tp_gpu_numbers(&call->y, first * width)};
    find_places(gpu, plan, first, n);
    const float *queries = floats_of(gpu, &call->q, first * width, n * width, plan->queries);
    if (plan->tile_max > 0)
        attend_many(gpu, plan, queries, sinks);
    else
        attend_few(gpu, plan, queries, sinks, n);
    tp_gpu_launch(gpu, tp_array_mixed, &a, sizeof a, grid, TP_ROW_THREADS, 0);
}

/* ---- the call ---- */

/* What grids and blocks can hold. */
static int check_sizes(const struct tp_gpu_call *gpu, const struct plan *plan,
                       struct tp_error *error)
{
    const struct tp_attention_call *call = plan->call;
    size_t shared = tp_attend_shared_bytes(group_of(call), (uint32_t)call->head_size);
    if (plan->tile_max == 0 && shared > gpu->facts->shared_bytes_max)
        return tp_error_set(error, -EINVAL,
                            "argument \"q\": %u heads of size %zu for each of the caches' take "
                            "%zu bytes of a GPU's shared memory, which has %zu",
                            group_of(call), call->head_size, shared, gpu->facts->shared_bytes_max);
    if (plan->n_splits > GRID_MAX || call->n_kv_heads > GRID_MAX)
        return tp_error_set(error, -EINVAL,
                            "argument \"keys\": expected at most %d heads of %d positions on a GPU",
                            GRID_MAX, GRID_MAX * TP_GPU_KEY_SPLIT / 2);
    return 0;
}

static int check_dims(const struct tp_attention_call *call, struct tp_error *error)
{
    const struct tp_buffer *buffers[] = {&call->q, &call->keys};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < 2; i++)
        rc = tp_gpu_check_dims(buffers[i], error);
    if (rc == 0 && call->positions.elements > INT32_MAX / 2)
        rc = tp_error_set(error, -EINVAL,
                          "argument \"positions\": expected fewer than 2^30 on a GPU, found %zu",
                          call->positions.elements);
    return rc;
}

static void attend_all(struct tp_gpu_call *gpu, const struct tp_attention_call *call)
{
    struct plan plan = make_plan(gpu, call);
    const float *sinks = NULL;
    gpu->rc = check_sizes(gpu, &plan, gpu->error);
    if (gpu->rc == 0)
        tp_gpu_reserve(gpu, take, &plan);
    if (gpu->rc == 0 && call->has_sinks)
        sinks = floats_of(gpu, &call->sinks, 0, call->n_heads, plan.sinks);
    for (size_t first = 0; gpu->rc == 0 && first < call->positions.elements; first += plan.n)
        attend(gpu, &plan, sinks, first, least(plan.n, call->positions.elements - first));
}

static int sink_attention(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_attention_call call;
    struct tp_gpu_call gpu;
    int rc = tp_open_sink_attention(frame, &call, error);
    if (rc == 0)
        rc = check_dims(&call, error);
    if (rc != 0 || call.y.elements == 0)
        return rc;
    rc = tp_gpu_begin(frame, &gpu, error);
    if (rc != 0)
        return rc;
    if (call.capacity == 0)
        gpu.rc = tp_device_zero(gpu.device, call.y.data, call.y.bytes, error);
    else
        attend_all(&gpu, &call);
    return tp_gpu_end(&gpu);
}

struct XLA_FFI_Error *tensorport_sink_attention(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle(frame, "sink_attention", sink_attention);
}
