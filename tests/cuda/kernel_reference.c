#include "tests/cuda/kernel_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RINGS_BEFORE = 2, WHOLE_BEFORE = 1, SIZE_MAX_OF_HEADS = 256 };

/* ---- experts ---- */

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

double swiglu(double gate, double up, double alpha, double limit)
{
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up < -limit ? -limit : up;
    return gate * sigmoid(alpha * gate) * (up + 1);
}

double silu_product(double gate, double up)
{
    return gate * sigmoid(gate) * up;
}

/* Better: a number before NaN, the larger one, the one with the smaller index. */
static bool is_before(const float *logits, size_t i, size_t j)
{
    if (isnan(logits[i]) != isnan(logits[j]))
        return !isnan(logits[i]);
    return !isnan(logits[i]) && logits[i] != logits[j] ? logits[i] > logits[j] : i < j;
}

/* Its place among all. */
static size_t rank_of(const float *logits, size_t n, size_t i)
{
    size_t rank = 0;
    for (size_t j = 0; j < n; j++)
        rank += j != i && is_before(logits, j, i);
    return rank;
}

void expect_choice(const float *logits, size_t n_experts, size_t k, const uint32_t *chosen,
                   const float *weights, size_t token)
{
    double total = 0;
    for (size_t i = 0; i < k; i++) {
        expect(chosen[i] < n_experts && rank_of(logits, n_experts, chosen[i]) == i,
               "token %zu: choice %zu is expert %u", token, i, chosen[i]);
        if (chosen[i] < n_experts)
            total += exp((double)logits[chosen[i]] - logits[chosen[0]]);
    }
    for (size_t i = 0; i < k && chosen[i] < n_experts; i++)
        expect_near(weights[i], exp((double)logits[chosen[i]] - logits[chosen[0]]) / total, 1, 1e-6,
                    "weight", token, i);
}

/* ---- caches ---- */

static size_t ring_of(const struct cache_shape *shape)
{
    return shape->ring < shape->context ? shape->ring : shape->context;
}

static size_t capacity_of(const struct cache_shape *shape)
{
    return shape->is_ring ? ring_of(shape) : shape->context;
}

struct tp_gpu_cache cache_of(const struct cache_shape *shape,
                             const struct tp_gpu_sequence *sequences, size_t n)
{
    return (struct tp_gpu_cache){.sequences = on_device(sequences, n * sizeof *sequences),
                                 .n_heads = (uint32_t)shape->n_kv,
                                 .head_size = (uint32_t)shape->size,
                                 .ring_capacity = (uint32_t)shape->ring,
                                 .rings_before = RINGS_BEFORE,
                                 .whole_before = WHOLE_BEFORE,
                                 .is_ring = shape->is_ring,
                                 .bf16 = shape->bf16};
}

size_t cache_place(const struct cache_shape *shape, size_t part, size_t head, size_t position,
                   size_t i)
{
    size_t before = 2 * shape->n_kv * shape->size *
                    (RINGS_BEFORE * ring_of(shape) + WHOLE_BEFORE * shape->context);
    size_t capacity = capacity_of(shape);
    return before + ((part * shape->n_kv + head) * capacity + position % capacity) * shape->size +
           i;
}

size_t cache_size(const struct cache_shape *shape)
{
    return cache_place(shape, 2, 0, 0, 0);
}

float cache_number(const struct cache_shape *shape, const void *memory, size_t at)
{
    return shape->bf16 ? from_bf16(((const uint16_t *)memory)[at]) : ((const float *)memory)[at];
}

static size_t width_of(const struct cache_shape *shape)
{
    return shape->bf16 ? sizeof(uint16_t) : sizeof(float);
}

struct history make_history(const struct cache_shape *shape, size_t n)
{
    size_t total = n * shape->n_kv * shape->size;
    struct history history = {random_floats(total), random_floats(total)};
    for (size_t i = 0; i < total && shape->bf16; i++) {
        history.keys[i] = rounded_to_bf16(history.keys[i]);
        history.values[i] = rounded_to_bf16(history.values[i]);
    }
    return history;
}

/* One head of a position. */
static void store_numbers(const struct cache_shape *shape, void *memory, size_t at, const float *x)
{
    for (size_t i = 0; i < shape->size; i++) {
        if (shape->bf16)
            ((uint16_t *)memory)[at + i] = to_bf16(x[i]);
        else
            ((float *)memory)[at + i] = x[i];
    }
}

struct tp_gpu_sequence store_history(const struct cache_shape *shape, const struct history *history,
                                     size_t last)
{
    size_t bytes = cache_size(shape) * width_of(shape);
    void *memory = on_host(bytes, 1);
    memset(memory, 0xff, bytes);
    for (size_t position = 0; position <= last; position++) {
        for (size_t head = 0; head < shape->n_kv; head++) {
            size_t from = (position * shape->n_kv + head) * shape->size;
            store_numbers(shape, memory, cache_place(shape, 0, head, position, 0),
                          history->keys + from);
            store_numbers(shape, memory, cache_place(shape, 1, head, position, 0),
                          history->values + from);
        }
    }
    return (struct tp_gpu_sequence){on_device(memory, bytes), (uint32_t)shape->context};
}

/* ---- attention ---- */

void expected_attention(const struct cache_shape *shape, const struct history *history,
                        size_t window, size_t position, size_t kv_head, const float *query,
                        const float *sink, double scale, double *ret_mixed)
{
    size_t first = window > 0 && position >= window ? position - window + 1 : 0;
    size_t size = shape->size, stride = shape->n_kv * size, n = position - first + 1;
    const float *keys = history->keys + first * stride + kv_head * size;
    const float *values = history->values + first * stride + kv_head * size;
    double *weights = calloc(n, sizeof *weights), largest = sink != NULL ? *sink : -INFINITY,
           total = 0;
    expect(weights != NULL, "no memory for %zu weights", n);
    if (weights == NULL)
        return;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < size; j++)
            weights[i] += (double)query[j] * keys[i * stride + j];
        weights[i] *= scale;
        largest = fmax(largest, weights[i]);
    }
    for (size_t j = 0; j < size; j++)
        ret_mixed[j] = 0;
    for (size_t i = 0; i < n; i++) {
        double weight = exp(weights[i] - largest);
        total += weight;
        for (size_t j = 0; j < size; j++)
            ret_mixed[j] += weight * values[i * stride + j];
    }
    total += sink != NULL ? exp(*sink - largest) : 0;
    for (size_t j = 0; j < size; j++)
        ret_mixed[j] /= total;
    free(weights);
}

/* ---- queries, keys and values ---- */

static const void *copied(const void *x, size_t n, size_t bytes)
{
    return x != NULL ? on_device(x, n * bytes) : NULL;
}

static void place_tokens(const struct heads_case *c, struct heads *h)
{
    size_t bytes = cache_size(&c->cache) * width_of(&c->cache);
    uint32_t *positions = on_host(c->n, sizeof *positions), *of = on_host(c->n, sizeof *of);
    struct tp_gpu_sequence *sequences = on_host(c->n_sequences, sizeof *sequences);
    for (size_t i = 0; i < c->n_sequences; i++)
        sequences[i] = (struct tp_gpu_sequence){zeros_on_device(bytes), (uint32_t)c->cache.context};
    for (size_t i = 0; i < c->n; i++) {
        positions[i] = (uint32_t)(c->cache.context - 1 - i);
        of[i] = (uint32_t)((c->n - 1 - i) * c->n_sequences / c->n);
    }
    h->positions = positions, h->sequence_of = of, h->sequences = sequences;
    h->arguments.places.positions = on_device(positions, c->n * sizeof *positions);
    h->arguments.places.sequences = on_device(of, c->n * sizeof *of);
    h->arguments.cache = cache_of(&c->cache, sequences, c->n_sequences);
}

struct heads make_heads(const struct heads_case *c)
{
    size_t q = c->n_heads * c->cache.size, kv = c->cache.n_kv * c->cache.size,
           half = c->cache.size / 2;
    float *x = random_floats(c->n * c->hidden);
    struct heads h = {.q = make_weights(c->type, 1, q, c->hidden, NULL, 0),
                      .k = make_weights(c->type, 1, kv, c->hidden, NULL, 0),
                      .v = make_weights(c->type, 1, kv, c->hidden, NULL, 0),
                      .biases = {random_floats(q), c->n_heads % 2 == 0 ? NULL : random_floats(kv),
                                 random_floats(kv)},
                      .x = x,
                      .cosines = random_floats(c->n * half),
                      .sines = random_floats(c->n * half)};
    h.arguments =
        (struct tp_few_heads){.q = h.q.gpu,
                              .k = h.k.gpu,
                              .v = h.v.gpu,
                              .q_bias = copied(h.biases[0], q, sizeof(float)),
                              .k_bias = copied(h.biases[1], kv, sizeof(float)),
                              .v_bias = copied(h.biases[2], kv, sizeof(float)),
                              .columns = make_columns(x, c->n, c->hidden, c->n_parts, false),
                              .n_tokens = (uint32_t)c->n,
                              .n_heads = (uint32_t)c->n_heads,
                              .n_units = (uint32_t)((q + 2 * kv) / 2),
                              .cosines = on_device(h.cosines, c->n * half * sizeof(float)),
                              .sines = on_device(h.sines, c->n * half * sizeof(float)),
                              .queries = zeros_on_device(c->n * q * sizeof(float))};
    place_tokens(c, &h);
    return h;
}

/* A head of a token: projected, and turned if there are angles. ret_size: how large the sums that
 * it came from are. */
static void expected_head(const struct heads_case *c, const struct weights *w, const float *bias,
                          size_t head, const float *x, double scale, const float *cosines,
                          const float *sines, double *ret_values, double *ret_size)
{
    size_t size = c->cache.size, half = size / 2;
    *ret_size = 0;
    for (size_t i = 0; i < size; i++) {
        double all, sum = multiply_row(w, head * size + i, x, &all);
        ret_values[i] = sum * scale + (bias != NULL ? bias[head * size + i] : 0);
        *ret_size = fmax(*ret_size, all * scale + 1);
    }
    for (size_t i = 0; i < half && cosines != NULL; i++) {
        double first = ret_values[i], second = ret_values[i + half];
        ret_values[i] = first * cosines[i] - second * sines[i];
        ret_values[i + half] = second * cosines[i] + first * sines[i];
    }
}

static void expect_queries(const struct heads_case *c, const struct heads *h, size_t token,
                           double scale, const float *queries)
{
    size_t size = c->cache.size, half = size / 2;
    double values[SIZE_MAX_OF_HEADS], all;
    for (size_t head = 0; head < c->n_heads; head++) {
        expected_head(c, &h->q, h->biases[0], head, h->x + token * c->hidden, scale,
                      h->cosines + token * half, h->sines + token * half, values, &all);
        for (size_t i = 0; i < size; i++)
            expect_near(queries[(token * c->n_heads + head) * size + i], values[i], all, 4e-6,
                        "query of token, head", token, head);
    }
}

static void expect_stored(const struct heads_case *c, const struct heads *h, size_t token,
                          double scale, const void *memory)
{
    const struct cache_shape *cache = &c->cache;
    size_t half = cache->size / 2, position = h->positions[token];
    double values[SIZE_MAX_OF_HEADS], all, tolerance = cache->bf16 ? 0x1p-8 : 4e-6;
    for (size_t part = 0; part < 2; part++) {
        const float *cosines = part == 0 ? h->cosines + token * half : NULL;
        for (size_t head = 0; head < cache->n_kv; head++) {
            expected_head(c, part == 0 ? &h->k : &h->v, h->biases[1 + part], head,
                          h->x + token * c->hidden, scale, cosines, h->sines + token * half, values,
                          &all);
            for (size_t i = 0; i < cache->size; i++)
                expect_near(
                    cache_number(cache, memory, cache_place(cache, part, head, position, i)),
                    values[i], all, tolerance,
                    part == 0 ? "key of token, head" : "value of token, head", token, head);
        }
    }
}

void expect_heads(const struct heads_case *c, const struct heads *h, const double *scales)
{
    size_t bytes = cache_size(&c->cache) * width_of(&c->cache);
    const float *queries =
        from_device(h->arguments.queries, c->n * c->n_heads * c->cache.size * sizeof *queries);
    const void **memory = on_host(c->n_sequences, sizeof *memory);
    for (size_t i = 0; i < c->n_sequences; i++)
        memory[i] = from_device(h->sequences[i].memory, bytes);
    for (size_t token = 0; token < c->n; token++) {
        expect_queries(c, h, token, scales[token], queries);
        expect_stored(c, h, token, scales[token], memory[h->sequence_of[token]]);
    }
    for (size_t i = 0; i < c->n_sequences; i++) {
        for (size_t j = 0; j < cache_place(&c->cache, 0, 0, 0, 0); j++)
            expect(cache_number(&c->cache, memory[i], j) == 0,
                   "sequence %zu: another layer is written at %zu", i, j);
    }
}
