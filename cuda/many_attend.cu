/* Attention of a tile of tokens of one sequence, with all query heads of a KV head: their queries
 * are the rows of one product with the keys, and their weights of another with the values. Keys and
 * then values come through the same shared memory, TP_MANY_KEYS positions at a time, counted from
 * position 0: what a row adds up does not depend on which others are in the tile, for those that a
 * row does not see add nothing. Everything is float32; the softmax is that of FlashAttention
 * (arXiv:2205.14135). */
#include "cuda/layer.cuh"

enum { BLOCK = 4, KEY_PADDING = 4, N_THREADS = TP_MANY_ATTEND_THREADS };

/* Shared memory; `size` is the head size rounded up to BLOCK, rows to it, too. */
struct desk {
    float *queries;         /* [rows][size], scaled */
    float *keys;            /* [TP_MANY_KEYS][size + KEY_PADDING], or values */
    float *weights;         /* [rows][TP_MANY_KEYS] */
    float *mixed;           /* [rows][size] */
    float *largest, *total; /* [rows] */
    float *decay;           /* [rows]: of what was there before */
    uint32_t rows, size, group;
};

TP_DEVICE uint32_t round_up_to_block(uint32_t n)
{
    return (n + BLOCK - 1) / BLOCK * BLOCK;
}

TP_DEVICE struct desk desk_of(const struct tp_many_attend *a)
{
    struct desk d;
    d.group = a->n_heads / a->cache.n_heads;
    d.rows = round_up_to_block(a->tile_max * d.group);
    d.size = round_up_to_block(a->cache.head_size);
    d.queries = (float *)(void *)TP_SHARED();
    d.keys = d.queries + (size_t)d.rows * d.size;
    d.weights = d.keys + (size_t)TP_MANY_KEYS * (d.size + KEY_PADDING);
    d.mixed = d.weights + (size_t)d.rows * TP_MANY_KEYS;
    d.largest = d.mixed + (size_t)d.rows * d.size;
    d.total = d.largest + d.rows;
    d.decay = d.total + d.rows;
    return d;
}

/* Row `row` is query head row % group of the tile's token row / group. */
struct query {
    uint32_t token, head, position, first; /* first: position that it sees */
    bool exists;
};

TP_DEVICE struct query query_of(const struct tp_many_attend *a, const struct tp_query_tile *tile,
                                const struct desk *d, uint32_t row)
{
    struct query q = {0, 0, 0, 0, row / d->group < tile->n};
    if (!q.exists)
        return q;
    q.token = tile->first + row / d->group;
    q.head = blockIdx.y * d->group + row % d->group;
    q.position = a->places.positions[q.token];
    q.first = a->window == 0 || q.position < a->window ? 0 : q.position - a->window + 1;
    return q;
}

TP_DEVICE void begin(const struct tp_many_attend *a, const struct tp_query_tile *tile,
                     const struct desk *d)
{
    uint32_t head_size = a->cache.head_size;
    for (uint32_t i = threadIdx.x; i < d->rows * d->size; i += N_THREADS) {
        struct query q = query_of(a, tile, d, i / d->size);
        uint32_t at = i % d->size;
        bool exists = q.exists && at < head_size;
        d->queries[i] =
            exists ? a->queries[((size_t)q.token * a->n_heads + q.head) * head_size + at] * a->scale
                   : 0.0f;
        d->mixed[i] = 0;
    }
    for (uint32_t row = threadIdx.x; row < d->rows; row += N_THREADS) {
        struct query q = query_of(a, tile, d, row);
        bool sink = q.exists && a->sinks != NULL;
        d->largest[row] = sink ? a->sinks[q.head] : -INFINITY;
        d->total[row] = sink ? 1.0f : 0.0f;
    }
}

/* Keys or values of the positions from `first` on; zeros behind `last`. */
TP_DEVICE void load(const struct tp_many_attend *a, const struct tp_cache_place *place,
                    const uint8_t *numbers, const struct desk *d, uint32_t first, uint32_t last)
{
    uint32_t head_size = a->cache.head_size;
    for (uint32_t i = threadIdx.x; i < TP_MANY_KEYS * d->size; i += N_THREADS) {
        uint32_t position = first + i / d->size, at = i % d->size;
        size_t number = (size_t)(position % place->capacity) * place->stride + at;
        bool exists = position <= last && at < head_size;
        d->keys[(size_t)(i / d->size) * (d->size + KEY_PADDING) + at] =
            exists ? tp_load_number(numbers, number, a->cache.bf16) : 0.0f;
    }
}

/* Scores of four rows and four keys at a time; -infinity where a row does not see the key. */
TP_DEVICE void score(const struct tp_many_attend *a, const struct tp_query_tile *tile,
                     const struct desk *d, uint32_t first)
{
    uint32_t stride = d->size + KEY_PADDING, across = TP_MANY_KEYS / BLOCK;
    for (uint32_t i = threadIdx.x; i < d->rows / BLOCK * across; i += N_THREADS) {
        uint32_t row = i / across * BLOCK, key = i % across;
        float sums[BLOCK][BLOCK] = {};
        for (uint32_t at = 0; at < d->size; at++) {
            float q[BLOCK], k[BLOCK];
#pragma unroll
            for (uint32_t j = 0; j < BLOCK; j++) {
                q[j] = d->queries[(size_t)(row + j) * d->size + at];
                k[j] = d->keys[(size_t)(key + j * across) * stride + at];
            }
#pragma unroll
            for (uint32_t j = 0; j < BLOCK; j++) {
#pragma unroll
                for (uint32_t l = 0; l < BLOCK; l++)
                    sums[j][l] = fmaf(q[j], k[l], sums[j][l]);
            }
        }
        for (uint32_t j = 0; j < BLOCK; j++) {
            struct query q = query_of(a, tile, d, row + j);
            for (uint32_t l = 0; l < BLOCK; l++) {
                uint32_t position = first + key + l * across;
                bool sees = q.exists && position >= q.first && position <= q.position;
                d->weights[(size_t)(row + j) * TP_MANY_KEYS + key + l * across] =
                    sees ? sums[j][l] : -INFINITY;
            }
        }
    }
}

/* A warp a row: scores become weights, and what is known so far is brought to the new largest. */
TP_DEVICE void weigh(const struct desk *d)
{
    uint32_t lane = threadIdx.x % 32;
    for (uint32_t row = threadIdx.x / 32; row < d->rows; row += N_THREADS / 32) {
        float *weights = d->weights + (size_t)row * TP_MANY_KEYS;
        float before = d->largest[row], largest = before, total = 0;
        for (uint32_t i = lane; i < TP_MANY_KEYS; i += 32)
            largest = fmaxf(largest, weights[i]);
        for (int distance = 16; distance > 0; distance /= 2)
            largest = fmaxf(largest, __shfl_xor_sync(TP_ALL_LANES, largest, distance));
        for (uint32_t i = lane; i < TP_MANY_KEYS; i += 32) {
            /* All may be -infinity, in a row that sees nothing here. */
            weights[i] = weights[i] == -INFINITY ? 0.0f : expf(weights[i] - largest);
            total += weights[i];
        }
        total = tp_warp_sum(total);
        __syncwarp();
        if (lane == 0) {
            float decay = before == -INFINITY ? 0.0f : expf(before - largest);
            d->decay[row] = decay;
            d->total[row] = fmaf(d->total[row], decay, total);
            d->largest[row] = largest;
        }
    }
}

/* mixed = mixed * decay + weights times values */
TP_DEVICE void mix(const struct desk *d)
{
    uint32_t stride = d->size + KEY_PADDING, across = d->size / BLOCK;
    for (uint32_t i = threadIdx.x; i < d->rows / BLOCK * across; i += N_THREADS) {
        uint32_t row = i / across * BLOCK, at = i % across;
        float sums[BLOCK][BLOCK];
        for (uint32_t j = 0; j < BLOCK; j++) {
            for (uint32_t l = 0; l < BLOCK; l++)
                sums[j][l] =
                    d->mixed[(size_t)(row + j) * d->size + at + l * across] * d->decay[row + j];
        }
        for (uint32_t key = 0; key < TP_MANY_KEYS; key++) {
            float w[BLOCK], v[BLOCK];
#pragma unroll
            for (uint32_t j = 0; j < BLOCK; j++) {
                w[j] = d->weights[(size_t)(row + j) * TP_MANY_KEYS + key];
                v[j] = d->keys[(size_t)key * stride + at + j * across];
            }
#pragma unroll
            for (uint32_t j = 0; j < BLOCK; j++) {
#pragma unroll
                for (uint32_t l = 0; l < BLOCK; l++)
                    sums[j][l] = fmaf(w[j], v[l], sums[j][l]);
            }
        }
        for (uint32_t j = 0; j < BLOCK; j++) {
            for (uint32_t l = 0; l < BLOCK; l++)
                d->mixed[(size_t)(row + j) * d->size + at + l * across] = sums[j][l];
        }
    }
}

TP_KERNEL(tp_many_attend, struct tp_many_attend, TP_MANY_ATTEND_THREADS)
{
    tp_let_next_begin();
    tp_wait_for_previous();
    struct tp_query_tile tile = a->tiles[blockIdx.x];
    struct desk d = desk_of(a);
    struct tp_cache_place place =
        tp_find_cache(&a->cache, a->places.sequences[tile.first], blockIdx.y);
    uint32_t first = 0xffffffffu, last = 0;
    for (uint32_t row = 0; row < tile.n * d.group; row += d.group) {
        struct query q = query_of(a, &tile, &d, row);
        first = q.first < first ? q.first : first;
        last = q.position > last ? q.position : last;
    }
    first = first / TP_MANY_KEYS * TP_MANY_KEYS;
    begin(a, &tile, &d);
    for (; first <= last; first += TP_MANY_KEYS) {
        __syncthreads();
        load(a, &place, place.keys, &d, first, last);
        __syncthreads();
        score(a, &tile, &d, first);
        __syncthreads();
        weigh(&d);
        load(a, &place, place.values, &d, first, last);
        __syncthreads();
        mix(&d);
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < d.rows * a->cache.head_size; i += N_THREADS) {
        uint32_t row = i / a->cache.head_size, at = i % a->cache.head_size;
        struct query q = query_of(a, &tile, &d, row);
        if (q.exists)
            tp_store_column(&a->columns, q.token, q.head * a->cache.head_size + at,
                            d.mixed[(size_t)row * d.size + at] / d.total[row]);
    }
}

extern "C" size_t tp_many_attend_shared_bytes(uint32_t tile_max, uint32_t group, uint32_t head_size)
{
    size_t rows = (size_t)(tile_max * group + BLOCK - 1) / BLOCK * BLOCK;
    size_t size = (size_t)(head_size + BLOCK - 1) / BLOCK * BLOCK;
    return (rows * (2 * size + TP_MANY_KEYS + 3) + TP_MANY_KEYS * (size + KEY_PADDING)) *
           sizeof(float);
}
