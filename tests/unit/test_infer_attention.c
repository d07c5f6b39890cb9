/* Attention against double, and bit for bit against itself in other chunks. */
#include "infer/cpu/attention.h"

#include "tests/unit/test_infer.h"

/* A sequence of `n` positions with all that belongs to it. */
struct sequence {
    size_t n, n_heads, n_kv_heads, size, window;
    bool bf16;
    float *queries, *keys, *values, *sinks;
};

static struct sequence sequence_new(size_t n, size_t n_heads, size_t n_kv_heads, size_t size,
                                    size_t window, bool bf16)
{
    struct sequence s = {n, n_heads, n_kv_heads, size, window, bf16, NULL, NULL, NULL, NULL};
    s.queries = random_floats(n * n_heads * size, n + 1);
    s.keys = random_floats(n * n_kv_heads * size, n + 2);
    s.values = random_floats(n * n_kv_heads * size, n + 3);
    s.sinks = random_floats(n_heads, n + 4);
    for (size_t i = 0; i < n * n_kv_heads * size && bf16; i++) {
        uint32_t bits[2];
        memcpy(&bits[0], &s.keys[i], 4);
        memcpy(&bits[1], &s.values[i], 4);
        bits[0] &= 0xffff0000; /* so that the cache rounds nothing away */
        bits[1] &= 0xffff0000;
        memcpy(&s.keys[i], &bits[0], 4);
        memcpy(&s.values[i], &bits[1], 4);
    }
    return s;
}

static void sequence_free(struct sequence *s)
{
    free(s->queries);
    free(s->keys);
    free(s->values);
    free(s->sinks);
}

/* A ring for the window and `chunk` positions, or room for all; NaN where nothing is stored. */
static struct tp_kv_cache cache_new(const struct sequence *s, size_t chunk)
{
    size_t needed = s->window > 0 ? s->window + chunk : s->n, keys, values;
    struct tp_kv_cache cache = {
        s->bf16, (needed + 15) / 16 * 16, s->n_kv_heads, s->size, NULL, NULL, false};
    cr_assert_eq(tp_kv_cache_bytes(&cache, &keys, &values), 0);
    cache.keys = aligned_alloc(64, (keys + 63) / 64 * 64);
    cache.values = aligned_alloc(64, (values + 63) / 64 * 64);
    memset(cache.keys, 0xff, keys);
    memset(cache.values, 0xff, values);
    return cache;
}

/* All positions, `chunk` at a time. */
static void attend(struct tp_workspace *workspace, const struct sequence *s, size_t chunk,
                   float *mixed)
{
    struct tp_kv_cache cache = cache_new(s, chunk);
    size_t row = s->n_heads * s->size, kv_row = s->n_kv_heads * s->size;
    for (size_t first = 0; first < s->n; first += chunk) {
        size_t n = s->n - first < chunk ? s->n - first : chunk;
        for (size_t i = first; i < first + n; i++)
            tp_kv_cache_store(&cache, i, s->keys + i * kv_row, s->values + i * kv_row);
        struct tp_attention attention = {.cache = &cache,
                                         .n_heads = s->n_heads,
                                         .first = first,
                                         .n = n,
                                         .window = s->window,
                                         .scale = 1 / sqrtf((float)s->size),
                                         .sinks = s->sinks,
                                         .queries = s->queries + first * row,
                                         .mixed = mixed + first * row};
        cr_assert_eq(tp_attend(workspace, &attention, 1), 0);
    }
    free(cache.keys);
    free(cache.values);
}

/* All positions at once, to keys and values as they come; floats, which BF16 ones are, too. */
static void attend_to_plain(struct tp_workspace *workspace, const struct sequence *s, float *mixed)
{
    struct tp_kv_cache cache = {false, s->n, s->n_kv_heads, s->size, s->keys, s->values, true};
    struct tp_attention attention = {.cache = &cache,
                                     .n_heads = s->n_heads,
                                     .n = s->n,
                                     .window = s->window,
                                     .scale = 1 / sqrtf((float)s->size),
                                     .sinks = s->sinks,
                                     .queries = s->queries,
                                     .mixed = mixed};
    cr_assert_eq(tp_attend(workspace, &attention, 1), 0);
}

static void check_position(const struct sequence *s, size_t position, size_t head,
                           const float *mixed)
{
    size_t kv_row = s->n_kv_heads * s->size, at = head / (s->n_heads / s->n_kv_heads) * s->size;
    size_t first = s->window == 0 || position < s->window ? 0 : position - s->window + 1;
    const float *query = s->queries + (position * s->n_heads + head) * s->size;
    double *expected = calloc(s->size, sizeof *expected), total = 0;
    if (s->sinks != NULL)
        total = exp((double)s->sinks[head]);
    for (size_t key = first; key <= position; key++) {
        double score = 0;
        for (size_t i = 0; i < s->size; i++)
            score += (double)query[i] * s->keys[key * kv_row + at + i];
        double weight = exp(score / sqrt((double)s->size));
        total += weight;
        for (size_t i = 0; i < s->size; i++)
            expected[i] += weight * s->values[key * kv_row + at + i];
    }
    for (size_t i = 0; i < s->size; i++)
        cr_assert_float_eq(mixed[(position * s->n_heads + head) * s->size + i], expected[i] / total,
                           1e-5, "position %zu head %zu number %zu", position, head, i);
    free(expected);
}

static void check_sequence(struct tp_workspace *workspace, struct sequence *s)
{
    static const size_t chunks[] = {1, 7, 64, 1000};
    size_t n = s->n * s->n_heads * s->size;
    float *mixed = malloc(n * sizeof *mixed), *other = malloc(n * sizeof *other);
    attend(workspace, s, 128, mixed);
    for (size_t position = 0; position < s->n; position += 1 + position / 10) {
        for (size_t head = 0; head < s->n_heads; head++)
            check_position(s, position, head, mixed);
    }
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        attend(workspace, s, chunks[i], other);
        cr_assert_arr_eq(mixed, other, n * sizeof *mixed, "chunks of %zu differ", chunks[i]);
    }
    attend_to_plain(workspace, s, other);
    cr_assert_arr_eq(mixed, other, n * sizeof *mixed, "a plain cache differs");
    free(mixed);
    free(other);
}

static void check_all(struct tp_workspace *workspace)
{
    static const struct {
        size_t n, n_heads, n_kv_heads, size, window;
        bool bf16, sinks;
    } cases[] = {
        {300, 16, 2, 64, 0, false, true},  {300, 16, 2, 64, 128, false, true},
        {530, 8, 1, 64, 128, true, true},  {600, 5, 1, 20, 0, true, false},
        {270, 3, 3, 80, 17, false, false}, {40, 2, 1, 6, 1, false, true},
        {1, 4, 2, 128, 0, false, true},    {33, 4, 4, 33, 0, true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sequence s = sequence_new(cases[i].n, cases[i].n_heads, cases[i].n_kv_heads,
                                         cases[i].size, cases[i].window, cases[i].bf16);
        if (!cases[i].sinks) {
            free(s.sinks);
            s.sinks = NULL;
        }
        check_sequence(workspace, &s);
        sequence_free(&s);
    }
}

Test(infer_attention, agrees_with_double_and_with_itself_in_any_chunks, .timeout = 120)
{
    for_each_workspace(check_all);
}

/* Splits done apart, by threads enough that it is chosen, and in order by one thread; and two
 * sequences in one call. */
static void check_threads(const struct tp_kernels *kernels)
{
    struct tp_workspace one, eight;
    struct sequence s = sequence_new(700, 6, 2, 64, 0, false);
    struct tp_kv_cache cache = cache_new(&s, 1);
    float mixed[3][2 * 6 * 64];
    for (size_t i = 0; i < s.n; i++)
        tp_kv_cache_store(&cache, i, s.keys + i * 128, s.values + i * 128);
    struct tp_attention pair[2] = {
        {&cache, 6, 698, 1, 0, 0.125f, s.sinks, s.queries, mixed[0]},
        {&cache, 6, 310, 1, 99, 0.125f, NULL, s.queries, mixed[0] + 384}};
    cr_assert_eq(tp_workspace_init(&one, kernels, 1, false, NULL), 0);
    cr_assert_eq(tp_workspace_init(&eight, kernels, 8, false, NULL), 0);
    cr_assert_eq(tp_attend(&one, &pair[0], 1), 0);
    cr_assert_eq(tp_attend(&one, &pair[1], 1), 0);
    pair[0].mixed = mixed[1];
    pair[1].mixed = mixed[1] + 384;
    cr_assert_eq(tp_attend(&eight, pair, 2), 0);
    cr_assert_arr_eq(mixed[0], mixed[1], sizeof mixed[0]);
    cr_assert_eq(tp_attend(&one, NULL, 0), 0);
    tp_workspace_fini(&one);
    tp_workspace_fini(&eight);
    free(cache.keys);
    free(cache.values);
    sequence_free(&s);
}

Test(infer_attention, threads_and_other_sequences_do_not_matter)
{
    for_each_table(check_threads);
}

/* Very large and very small scores, and a sink far above all. */
static void check_extremes(struct tp_workspace *workspace)
{
    struct sequence s = sequence_new(300, 2, 1, 16, 0, false);
    float *mixed = malloc(300 * 32 * sizeof *mixed);
    for (size_t i = 0; i < 300 * 32; i++)
        s.queries[i] *= 1e4f;
    s.sinks[1] = 1e30f;
    attend(workspace, &s, 300, mixed);
    for (size_t i = 0; i < 300 * 32; i++)
        cr_assert(i % 32 < 16 ? isfinite(mixed[i]) : mixed[i] == 0);
    s.keys[5 * 16] = NAN; /* seen from position 5 on */
    attend(workspace, &s, 300, mixed);
    for (size_t i = 0; i < 300 * 32; i++)
        cr_assert_eq(isnan(mixed[i]), i >= 5 * 32, "number %zu of position %zu", i % 32, i / 32);
    free(mixed);
    sequence_free(&s);
}

Test(infer_attention, extremes)
{
    for_each_workspace(check_extremes);
}

Test(infer_attention, sizes_that_cannot_be)
{
    size_t keys, values;
    struct tp_kv_cache cache = {false, SIZE_MAX / 16 * 16, 2, 64, NULL, NULL, false};
    cr_assert_eq(tp_kv_cache_bytes(&cache, &keys, &values), -EOVERFLOW);
    cache = (struct tp_kv_cache){false, 16, 1, SIZE_MAX, NULL, NULL, false};
    cr_assert_eq(tp_kv_cache_bytes(&cache, &keys, &values), -EOVERFLOW);
}
