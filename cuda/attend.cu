/* Attention of a few positions. The keys of a sequence fall into splits, counted from position 0
 * whoever asks, so that a result does not depend on what else is in the step. A block computes the
 * softmax of one split by itself, for all query heads of a KV head; the last block of a token and
 * KV head joins the splits in order, with the sink. */
#include "cuda/few_tile.cuh"

enum { N_WARPS = TP_ATTEND_THREADS / 32 };

/* What a block is about. */
struct part {
    uint32_t token, kv_head, split, group; /* group: query heads of the KV head */
    uint32_t first, end;                   /* positions it sees of the split */
    uint32_t first_split, n_splits;        /* of the token */
    struct tp_cache_place place;
};

TP_DEVICE struct part part_of(const struct tp_attend *a)
{
    struct part p;
    p.token = blockIdx.x;
    p.kv_head = blockIdx.y;
    p.group = a->n_heads / a->cache.n_heads;
    uint32_t position = a->places.positions[p.token];
    uint32_t first = a->window == 0 || position < a->window ? 0 : position - a->window + 1;
    p.first_split = first / TP_GPU_KEY_SPLIT;
    p.n_splits = position / TP_GPU_KEY_SPLIT - p.first_split + 1;
    p.split = p.first_split + blockIdx.z;
    uint32_t begin = p.split * TP_GPU_KEY_SPLIT, end = begin + TP_GPU_KEY_SPLIT;
    p.first = begin > first ? begin : first;
    p.end = end < position + 1 ? end : position + 1;
    p.place = tp_find_cache(&a->cache, a->places.sequences[p.token], p.kv_head);
    return p;
}

/* Where a split leaves its results. */
TP_DEVICE size_t result_of(const struct tp_attend *a, const struct part *p, uint32_t split)
{
    return ((size_t)p->token * a->cache.n_heads + p->kv_head) * a->n_splits + split;
}

/* scores[group][TP_GPU_KEY_SPLIT] of a thread's key. */
TP_DEVICE void score(const struct tp_attend *a, const struct part *p, const float *queries,
                     float *scores)
{
    enum { HEADS = 8, NUMBERS = 4 }; /* at a time */
    uint32_t size = a->cache.head_size, position = p->first + threadIdx.x;
    if (position >= p->end)
        return;
    size_t key = (size_t)(position % p->place.capacity) * p->place.stride;
    for (uint32_t head = 0; head < p->group; head += HEADS) {
        float sums[HEADS] = {};
        for (uint32_t i = 0; i < size; i += NUMBERS) {
            float numbers[NUMBERS];
            for (uint32_t j = 0; j < NUMBERS; j++)
                numbers[j] =
                    i + j < size ? tp_load_number(p->place.keys, key + i + j, a->cache.bf16) : 0.0f;
#pragma unroll
            for (uint32_t h = 0; h < HEADS; h++) {
                const float *query = queries + (size_t)(head + h) * size + i;
                for (uint32_t j = 0; head + h < p->group && j < NUMBERS && i + j < size; j++)
                    sums[h] = fmaf(query[j], numbers[j], sums[h]);
            }
        }
#pragma unroll
        for (uint32_t h = 0; h < HEADS; h++) {
            if (head + h < p->group)
                scores[(head + h) * TP_GPU_KEY_SPLIT + threadIdx.x] = sums[h] * a->scale;
        }
    }
}

/* Scores become weights; a warp a head. */
TP_DEVICE void weigh(const struct tp_attend *a, const struct part *p, float *scores)
{
    uint32_t lane = threadIdx.x % 32, n = p->end - p->first;
    for (uint32_t head = threadIdx.x / 32; head < p->group; head += N_WARPS) {
        float *row = scores + head * TP_GPU_KEY_SPLIT;
        float largest = -INFINITY, total = 0;
        for (uint32_t i = lane; i < n; i += 32)
            largest = fmaxf(largest, row[i]);
        for (int distance = 16; distance > 0; distance /= 2)
            largest = fmaxf(largest, __shfl_xor_sync(TP_ALL_LANES, largest, distance));
        for (uint32_t i = lane; i < n; i += 32) {
            row[i] = expf(row[i] - largest);
            total += row[i];
        }
        total = tp_warp_sum(total);
        if (lane == 0) {
            float *sums =
                a->sums + (result_of(a, p, p->split - p->first_split) * p->group + head) * 2;
            sums[0] = largest;
            sums[1] = total;
        }
    }
}

/* Values, weighted: mixed[group][head size] of the split. */
TP_DEVICE void mix(const struct tp_attend *a, const struct part *p, const float *weights)
{
    uint32_t size = a->cache.head_size, n = p->end - p->first;
    float *mixed = a->mixed + result_of(a, p, p->split - p->first_split) * p->group * size;
    for (uint32_t i = threadIdx.x; i < p->group * size; i += TP_ATTEND_THREADS) {
        const float *row = weights + i / size * TP_GPU_KEY_SPLIT;
        float sum = 0;
        for (uint32_t key = 0; key < n; key++) {
            uint32_t slot = (p->first + key) % p->place.capacity;
            size_t at = (size_t)slot * p->place.stride + i % size;
            sum = fmaf(row[key], tp_load_number(p->place.values, at, a->cache.bf16), sum);
        }
        mixed[i] = sum;
    }
}

/* The splits' softmaxes as one, and what o multiplies with. */
TP_DEVICE void join(const struct tp_attend *a, const struct part *p)
{
    uint32_t size = a->cache.head_size;
    for (uint32_t i = threadIdx.x; i < p->group * size; i += TP_ATTEND_THREADS) {
        uint32_t in_group = i / size, head = p->kv_head * p->group + in_group;
        float largest = a->sinks != NULL ? a->sinks[head] : -INFINITY;
        for (uint32_t split = 0; split < p->n_splits; split++)
            largest =
                fmaxf(largest, tp_load_shared_by_blocks(
                                   &a->sums[(result_of(a, p, split) * p->group + in_group) * 2]));
        float total = a->sinks != NULL ? expf(a->sinks[head] - largest) : 0.0f, sum = 0;
        for (uint32_t split = 0; split < p->n_splits; split++) {
            size_t result = result_of(a, p, split) * p->group + in_group;
            float share = expf(tp_load_shared_by_blocks(&a->sums[result * 2]) - largest);
            total = fmaf(share, tp_load_shared_by_blocks(&a->sums[result * 2 + 1]), total);
            sum = fmaf(share, tp_load_shared_by_blocks(&a->mixed[result * size + i % size]), sum);
        }
        tp_store_column(&a->columns, p->token, head * size + i % size, sum / total);
    }
}

TP_KERNEL(tp_attend, struct tp_attend, TP_ATTEND_THREADS)
{
    tp_let_next_begin();
    tp_wait_for_previous();
    struct part p = part_of(a);
    if (blockIdx.z >= p.n_splits)
        return;
    float *queries = (float *)(void *)TP_SHARED(); /* [group][head size] */
    float *scores = queries + (size_t)p.group * a->cache.head_size;
    uint32_t *flag = (uint32_t *)(void *)(scores + (size_t)p.group * TP_GPU_KEY_SPLIT);
    const float *source =
        a->queries + ((size_t)p.token * a->n_heads + p.kv_head * p.group) * a->cache.head_size;
    for (uint32_t i = threadIdx.x; i < p.group * a->cache.head_size; i += TP_ATTEND_THREADS)
        queries[i] = source[i];
    __syncthreads();
    score(a, &p, queries, scores);
    __syncthreads();
    weigh(a, &p, scores);
    __syncthreads();
    mix(a, &p, scores);
    if (tp_arrive_last(&a->arrived[p.token * a->cache.n_heads + p.kv_head], p.n_splits, flag))
        join(a, &p);
}

extern "C" size_t tp_attend_shared_bytes(uint32_t group, uint32_t head_size)
{
    return ((size_t)group * head_size + (size_t)group * TP_GPU_KEY_SPLIT + 4) * sizeof(float);
}
