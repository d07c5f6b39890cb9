/* Work on arrays that are somebody else's: products, experts that were chosen elsewhere, places in
 * caches, and MXFP4 itself. */
#include <math.h>
#include <string.h>

#include "tests/cuda/kernel_reference.h"

enum { POISON = 0xee };

/* Memory of the device that holds no zeros. */
static void *poisoned(size_t bytes)
{
    void *memory = on_host(bytes, 1);
    memset(memory, POISON, bytes);
    return on_device(memory, bytes);
}

static size_t tiles_of(size_t n, size_t tile)
{
    return (n + tile - 1) / tile;
}

/* ---- numbers ---- */

/* x[n] on the device; rounded, if it is to be BF16. */
static struct tp_numbers make_numbers(float *x, size_t n, bool bf16)
{
    uint16_t *rounded = on_host(n, sizeof *rounded);
    for (size_t i = 0; bf16 && i < n; i++) {
        rounded[i] = to_bf16(x[i]);
        x[i] = from_bf16(rounded[i]);
    }
    return (struct tp_numbers){bf16 ? on_device(rounded, n * 2) : on_device(x, n * sizeof *x),
                               bf16};
}

static struct tp_numbers empty_numbers(size_t n, bool bf16)
{
    return (struct tp_numbers){poisoned(n * (bf16 ? 2 : 4)), bf16};
}

static float *read_numbers(const struct tp_numbers *numbers, size_t n)
{
    float *x = on_host(n, sizeof *x);
    const void *found = from_device(numbers->data, n * (numbers->bf16 ? 2 : 4));
    for (size_t i = 0; i < n; i++)
        x[i] = numbers->bf16 ? from_bf16(((const uint16_t *)found)[i]) : ((const float *)found)[i];
    return x;
}

/* Half a step of a BF16's, or that of a sum in float32. */
static double tolerance_of(const struct tp_numbers *numbers)
{
    return numbers->bf16 ? 0x1p-8 : 2e-6;
}

static void columns_of_arrays(void)
{
    static const size_t sizes[] = {1, 8, 40, 127, 128, 136};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        enum { N = 3 };
        size_t size = sizes[i], stride = tiles_of(size, 128) * 128;
        bool bf16 = i % 2 == 0;
        uint32_t n_parts = bf16 ? 1 : 3;
        float *x = random_floats(N * size);
        struct tp_array_columns a = {.x = make_numbers(x, N * size, bf16),
                                     .columns = {poisoned(N * n_parts * stride * 2), n_parts,
                                                 (uint32_t)size, (uint32_t)stride,
                                                 size % 8 == 0 && i % 3 == 1}};
        launch(tp_array_columns, &a, sizeof a, N, TP_ROW_THREADS, 0);
        const float *found = read_columns(&a.columns, N);
        for (size_t j = 0; j < N * size; j++)
            expect_near(found[j], x[j], 0, 0, "column", j / size, j % size);
    }
}

/* Infinite, and so large that they would be in BF16. */
static void columns_of_large_numbers(void)
{
    enum { N = 6 };
    float x[N] = {INFINITY, -INFINITY, 3.399e38f, -3.4e38f, NAN, -0.0f};
    struct tp_array_columns a = {.x = {on_device(x, sizeof x), false},
                                 .columns = {poisoned(3 * 128 * 2), 3, N, 128, false}};
    launch(tp_array_columns, &a, sizeof a, 1, TP_ROW_THREADS, 0);
    const float *found = read_columns(&a.columns, 1);
    for (size_t i = 0; i < N; i++)
        expect_near(found[i], x[i], fabs((double)x[i]), 0x1p-22, "column", 0, i);
}

static void converted_arrays(void)
{
    static const size_t sizes[] = {1, 255, 257, 3000};
    for (size_t i = 0; i < 8; i++) {
        size_t n = sizes[i % 4];
        float *x = random_floats(n);
        struct tp_array_convert a = {
            .source = make_numbers(x, n, i >= 4), .target = empty_numbers(n, i < 4), .n = n};
        launch(tp_array_convert, &a, sizeof a, i % 2 + 1, TP_ROW_THREADS, 0);
        const float *found = read_numbers(&a.target, n);
        for (size_t j = 0; j < n; j++)
            expect_near(found[j], i < 4 ? rounded_to_bf16(x[j]) : x[j], 0, 0, "number", i, j);
    }
}

/* ---- products ---- */

struct product_case {
    enum tp_matrix_type type;
    size_t n_matrices, n, rows, columns;
    uint32_t n_parts;
    int bias; /* 0: none, 1: float32, 2: BF16 */
    bool tiles, bf16;
};

static void launch_product(const struct product_case *c, struct tp_array_product *a)
{
    static const struct variants few = {tp_few_product_bf16_1, tp_few_product_bf16_3,
                                        tp_few_product_any, tp_few_product_wide_1,
                                        tp_few_product_wide_3};
    uint32_t groups = 1, n = (uint32_t)(c->n < TP_FEW ? c->n : TP_FEW);
    bool is_mxfp4 = c->type == TP_MATRIX_MXFP4;
    a->w.has_large_scales = false; /* which nobody would know */
    if (c->tiles && c->n > TP_FEW) {
        tp_kernel_fn *one = is_mxfp4 ? tp_many_product_wide_1 : tp_many_product_bf16_1;
        tp_kernel_fn *three = is_mxfp4 ? tp_many_product_wide_3 : tp_many_product_bf16_3;
        const unsigned grid[3] = {(unsigned)tiles_of(c->rows, TP_MANY_ROWS),
                                  (unsigned)tiles_of(c->n, TP_MANY_VECTORS),
                                  (unsigned)c->n_matrices};
        launch_grid(c->n_parts == 1 ? one : three, a, sizeof *a, grid, TP_MANY_THREADS,
                    tp_many_shared_bytes(c->type, c->n_parts));
        return;
    }
    tp_kernel_fn *kernel = variant_for(&few, &a->w, c->n_parts, n, c->tiles, &groups);
    const unsigned grid[3] = {c->rows > TP_TILE_ROWS ? 2 : 1, (unsigned)tiles_of(c->n, TP_FEW),
                              (unsigned)c->n_matrices};
    launch_grid(kernel, a, sizeof *a, grid, TP_FEW_THREADS, tp_few_shared_bytes(groups, n, 0));
}

static void check_product(const struct product_case *c)
{
    static const uint8_t scales[] = {1, 100, 127, 128, 129, 130, 150};
    size_t n_vectors = c->n_matrices * c->n, n_biases = c->n_matrices * c->rows;
    struct weights w =
        make_weights(c->type, c->n_matrices, c->rows, c->columns, scales, sizeof scales);
    float *x = random_floats(n_vectors * c->columns), *bias = random_floats(n_biases);
    struct tp_array_product a = {.w = w.gpu,
                                 .columns = make_columns(x, n_vectors, c->columns, c->n_parts,
                                                         c->type == TP_MATRIX_MXFP4 && c->tiles),
                                 .n = (uint32_t)c->n,
                                 .y = empty_numbers(n_vectors * c->rows, c->bf16)};
    if (c->bias > 0)
        a.bias = make_numbers(bias, n_biases, c->bias == 2);
    launch_product(c, &a);
    const float *found = read_numbers(&a.y, n_vectors * c->rows);
    for (size_t i = 0; i < n_vectors * c->rows; i++) {
        size_t vector = i / c->rows, row = vector / c->n * c->rows + i % c->rows;
        double size, y = multiply_row(&w, row, x + vector * c->columns, &size);
        expect_near(found[i], y + (c->bias > 0 ? bias[row] : 0), size + 1, tolerance_of(&a.y), "y",
                    vector, i % c->rows);
    }
}

static void products_of_few_vectors(void)
{
    static const size_t n[] = {1, 2, 3, 8}, rows[] = {1, 16, 17, 40},
                        columns[] = {32, 160, 96, 1184};
    for (size_t i = 0; i < 4; i++) {
        for (uint32_t n_parts = 1; n_parts <= 3; n_parts += 2) {
            check_product(&(struct product_case){TP_MATRIX_MXFP4, 1 + i % 2 * 2, n[i], rows[i],
                                                 columns[i], n_parts, (int)i % 3, true,
                                                 n_parts == 1});
            check_product(&(struct product_case){TP_MATRIX_BF16, 1 + i % 3, n[i], rows[3 - i],
                                                 columns[i], n_parts, (int)(i + 1) % 3, true,
                                                 n_parts == 3});
        }
    }
}

/* Without tensor cores, by eights. */
static void products_of_any_type(void)
{
    static const enum tp_matrix_type types[] = {TP_MATRIX_F32, TP_MATRIX_F16, TP_MATRIX_BF16,
                                                TP_MATRIX_MXFP4};
    static const size_t n[] = {1, 8, 9, 17};
    for (size_t i = 0; i < 16; i++)
        check_product(&(struct product_case){types[i % 4], 1 + i % 2, n[(i / 4 + i) % 4], 3 + 7 * i,
                                             i % 4 == 3 ? 64 : 33 + i, i % 3 == 0 ? 1 : 3,
                                             (int)(i % 3), false, i % 5 == 0});
}

static void products_of_many_vectors(void)
{
    static const size_t n[] = {9, 64, 65, 130}, rows[] = {129, 1, 128, 127},
                        columns[] = {32, 64, 224, 96};
    for (size_t i = 0; i < 4; i++) {
        for (uint32_t n_parts = 1; n_parts <= 3; n_parts += 2) {
            check_product(&(struct product_case){TP_MATRIX_MXFP4, 1 + i % 2, n[i], rows[i],
                                                 columns[i], n_parts, (int)i % 3, true,
                                                 n_parts == 1});
            check_product(&(struct product_case){TP_MATRIX_BF16, 1 + (i + 1) % 2, n[i], rows[i],
                                                 columns[i] + 8, n_parts, (int)(i + 1) % 3, true,
                                                 n_parts == 3});
        }
    }
}

/* ---- experts ---- */

enum { N_EXPERTS = 40, PER_TOKEN = 3, HIDDEN = 20, INNER = 32, TOKENS = 5 };

/* Doubles, and experts that are none. */
static const int32_t given[TOKENS][PER_TOKEN] = {
    {3, 39, 3}, {-1, 40, 7}, {7, 7, 7}, {INT32_MIN, INT32_MAX, -2}, {0, 39, 33}};

static void routes_of_given_experts(void)
{
    enum { N_ARRIVED = 300, N = TOKENS * PER_TOKEN, STRIDE = 128 };
    static const uint32_t active[] = {0, 3, 7, 33, 39};
    static const uint16_t slots[][TP_FEW] = {{9, 9, 9, 9, 0, 9, 9, 9},
                                             {0, 9, 9, 9, 9, 9, 9, 9},
                                             {9, 2, 0, 9, 9, 9, 9, 9},
                                             {9, 9, 9, 9, 2, 9, 9, 9},
                                             {1, 9, 9, 9, 1, 9, 9, 9}}; /* 9: none */
    const float *weights = random_floats(N);
    float *outputs = random_floats((size_t)N * HIDDEN);
    struct tp_array_route a = {
        .choice = {on_device(given, sizeof given), on_device(weights, N * sizeof *weights), TOKENS},
        .routing = empty_routing(N_EXPERTS, PER_TOKEN),
        .hidden = HIDDEN,
        .outputs = on_device(outputs, (size_t)N * HIDDEN * sizeof *outputs),
        .x = poisoned(TOKENS * HIDDEN * sizeof(float)),
        .arrived = poisoned(N_ARRIVED * sizeof(uint32_t)),
        .n_arrived = N_ARRIVED,
        .inners = {poisoned((size_t)N * STRIDE * 2), 1, INNER, STRIDE, false}};
    launch(tp_array_route, &a, sizeof a, 1 + N + TOKENS, TP_ROW_THREADS, 0);

    const uint32_t *n_active = from_device(a.routing.n_active, sizeof *n_active);
    const uint32_t *found_active = from_device(a.routing.active, sizeof active);
    const uint16_t *found_slots = from_device(a.routing.slots, sizeof slots);
    expect(*n_active == 5, "expected 5 active experts, found %u", *n_active);
    for (size_t i = 0; i < 5; i++) {
        expect(found_active[i] == active[i], "expected expert %u, found %u", active[i],
               found_active[i]);
        for (size_t j = 0; j < TP_FEW; j++) {
            uint16_t slot = slots[i][j] == 9 ? (uint16_t)TP_NO_SLOT : slots[i][j];
            expect(found_slots[i * TP_FEW + j] == slot, "expert %u, token %zu: slot %u", active[i],
                   j, found_slots[i * TP_FEW + j]);
        }
    }
    const float *found = from_device(a.routing.weights, N * sizeof *found);
    const float *zeroed = from_device(a.outputs, (size_t)N * HIDDEN * sizeof *zeroed);
    const float *x = from_device(a.x, TOKENS * HIDDEN * sizeof *x);
    const uint32_t *arrived = from_device(a.arrived, N_ARRIVED * sizeof *arrived);
    const float *scales = from_device(a.routing.scales, TP_FEW * sizeof *scales);
    const uint16_t *inners = from_device(a.inners.parts, (size_t)N * STRIDE * sizeof *inners);
    for (size_t i = 0; i < N; i++) {
        size_t token = i / PER_TOKEN;
        double weight = 0;
        bool counts = given[token][i % PER_TOKEN] >= 0 && given[token][i % PER_TOKEN] < N_EXPERTS;
        for (size_t j = 0; j < i % PER_TOKEN; j++)
            counts = counts && given[token][j] != given[token][i % PER_TOKEN];
        for (size_t j = 0; counts && j < PER_TOKEN; j++)
            weight += given[token][j] == given[token][i % PER_TOKEN]
                          ? (double)weights[token * PER_TOKEN + j]
                          : 0;
        expect_near(found[i], weight, 3, 1e-7, "weight", token, i % PER_TOKEN);
        for (size_t j = 0; j < HIDDEN; j++)
            expect_near(zeroed[i * HIDDEN + j], counts ? outputs[i * HIDDEN + j] : 0, 0, 0,
                        "output", i, j);
        for (size_t j = 0; j < STRIDE; j++)
            expect((inners[i * STRIDE + j] == 0) == (j >= INNER), "padding of %zu at %zu", i, j);
    }
    for (size_t i = 0; i < TOKENS * HIDDEN; i++)
        expect(x[i] == 0, "x is not zero at %zu", i);
    for (size_t i = 0; i < N_ARRIVED; i++)
        expect(arrived[i] == 0, "counter %zu is not zero", i);
    for (size_t i = 0; i < TOKENS; i++)
        expect(scales[i] == 1, "scale %zu is not 1", i);
}

static void mixtures_of_given_experts(void)
{
    enum { N = TOKENS * PER_TOKEN, STRIDE = 128 };
    const float *weights = random_floats(N), *outputs = random_floats((size_t)N * HIDDEN);
    uint32_t of_token[N];
    for (uint32_t i = 0; i < N; i++)
        of_token[i] = (i * 7) % N;
    struct tp_slots slots = {.chosen = poisoned(N * sizeof(uint32_t)),
                             .of_token = on_device(of_token, sizeof of_token),
                             .n_experts = N_EXPERTS,
                             .n_per_token = PER_TOKEN};
    struct tp_array_choose a = {
        .choice = {on_device(given, sizeof given), NULL, TOKENS},
        .slots = slots,
        .inners = {poisoned((size_t)N * 3 * STRIDE * 2), 3, INNER, STRIDE, true}};
    launch(tp_array_choose, &a, sizeof a, 1, TP_ROW_THREADS, 0);
    const uint32_t *chosen = from_device(slots.chosen, N * sizeof *chosen);
    const uint16_t *inners = from_device(a.inners.parts, (size_t)N * 3 * STRIDE * 2);
    for (size_t i = 0; i < N; i++) {
        int32_t expert = given[i / PER_TOKEN][i % PER_TOKEN];
        uint32_t expected = expert < 0 || expert > N_EXPERTS ? N_EXPERTS : (uint32_t)expert;
        expect(chosen[i] == expected, "choice %zu: expected %u, found %u", i, expected, chosen[i]);
        for (size_t j = 0; j < (size_t)3 * STRIDE; j++)
            expect((inners[i * 3 * STRIDE + j] == 0) == (j % STRIDE >= INNER),
                   "padding of %zu at %zu", i, j);
    }
    for (int bf16 = 0; bf16 < 2; bf16++) {
        struct tp_array_mix b = {.outputs =
                                     on_device(outputs, (size_t)N * HIDDEN * sizeof *outputs),
                                 .weights = on_device(weights, N * sizeof *weights),
                                 .slots = slots,
                                 .y = empty_numbers(TOKENS * HIDDEN, bf16 != 0),
                                 .hidden = HIDDEN};
        launch(tp_array_mix, &b, sizeof b, TOKENS, TP_ROW_THREADS, 0);
        const float *found = read_numbers(&b.y, TOKENS * HIDDEN);
        for (size_t i = 0; i < TOKENS * HIDDEN; i++) {
            double sum = 0;
            for (size_t j = i / HIDDEN * PER_TOKEN; j < (i / HIDDEN + 1) * PER_TOKEN; j++)
                sum += chosen[j] == N_EXPERTS
                           ? 0
                           : (double)weights[j] * outputs[of_token[j] * HIDDEN + i % HIDDEN];
            expect_near(found[i], sum, 3, tolerance_of(&b.y), "y", i / HIDDEN, i % HIDDEN);
        }
    }
}

/* ---- attention ---- */

static void places_of_queries(void)
{
    enum { QUERIES = 7, SEQUENCES = 3, ALL = QUERIES * SEQUENCES, CAPACITY = 9, TILE = 3 };
    int32_t positions[ALL];
    for (int32_t i = 0; i < ALL; i++)
        positions[i] = i - 5 + (i == 20 ? INT32_MAX - 15 : 0);
    for (size_t first = 0; first < ALL; first += 4) {
        size_t n = first == 0 ? ALL : ALL - first < 4 ? ALL - first : 4;
        struct tp_array_places a = {.positions = on_device(positions, sizeof positions),
                                    .first = (uint32_t)first,
                                    .n = (uint32_t)n,
                                    .n_queries = QUERIES,
                                    .capacity = CAPACITY,
                                    .places = poisoned(n * sizeof(uint32_t)),
                                    .sequences = poisoned(n * sizeof(uint32_t)),
                                    .tiles = first == 0 ? poisoned(ALL * 8) : NULL,
                                    .tile_max = TILE,
                                    .arrived = poisoned(2 * n * sizeof(uint32_t)),
                                    .n_arrived = (uint32_t)(2 * n)};
        launch(tp_array_places, &a, sizeof a, 1, TP_ROW_THREADS, 0);
        const uint32_t *places = from_device(a.places, n * sizeof *places);
        const uint32_t *sequences = from_device(a.sequences, n * sizeof *sequences);
        const uint32_t *arrived = from_device(a.arrived, 2 * n * sizeof *arrived);
        for (size_t i = 0; i < n; i++) {
            int32_t at = positions[first + i];
            uint32_t expected = at < 0 || at >= CAPACITY ? 0 : (uint32_t)at;
            expect(places[i] == expected, "query %zu: place %u", first + i, places[i]);
            expect(sequences[i] == (first + i) / QUERIES, "query %zu: sequence %u", first + i,
                   sequences[i]);
            expect(arrived[2 * i] == 0 && arrived[2 * i + 1] == 0, "counters of %zu", i);
        }
        if (first > 0)
            continue;
        const struct tp_query_tile *tiles = from_device(a.tiles, 9 * sizeof *tiles);
        for (size_t i = 0; i < 9; i++)
            expect(tiles[i].first == i / 3 * QUERIES + i % 3 * TILE &&
                       tiles[i].n == (i % 3 == 2 ? 1 : TILE),
                   "tile %zu: %u queries from %u on", i, tiles[i].n, tiles[i].first);
    }
}

static void mixed_queries(void)
{
    enum { N = 4, SIZE = 300, CAPACITY = 6 };
    static const int32_t positions[N] = {-1, 0, 5, 6};
    float *x = random_floats((size_t)N * SIZE);
    struct tp_array_mixed a = {.positions = on_device(positions, sizeof positions),
                               .capacity = CAPACITY,
                               .columns = make_columns(x, N, SIZE, 3, false),
                               .y = empty_numbers((size_t)N * SIZE, false)};
    launch(tp_array_mixed, &a, sizeof a, N, TP_ROW_THREADS, 0);
    const float *found = read_numbers(&a.y, (size_t)N * SIZE);
    for (size_t i = 0; i < (size_t)N * SIZE; i++)
        expect_near(found[i], i / SIZE == 1 || i / SIZE == 2 ? x[i] : 0, 1, 1e-7, "y", i / SIZE,
                    i % SIZE);
}

/* JAX's arrays, attended to by both kernels: positions in any order. */
static void attention_to_arrays(void)
{
    enum {
        QUERIES = 12,
        SEQUENCES = 2,
        N = QUERIES * SEQUENCES,
        CAPACITY = 200,
        KV = 2,
        SIZE = 12,
        GROUP = 3,
        WIDTH = KV * GROUP * SIZE,
        WINDOW = 70
    };
    const struct cache_shape shape = {KV, SIZE, CAPACITY, 0, false, false};
    struct history histories[SEQUENCES];
    size_t numbers = (size_t)CAPACITY * KV * SIZE;
    float *keys = on_host(SEQUENCES * numbers, sizeof *keys),
          *values = on_host(SEQUENCES * numbers, sizeof *values);
    for (size_t i = 0; i < SEQUENCES; i++) {
        histories[i] = make_history(&shape, CAPACITY);
        memcpy(keys + i * numbers, histories[i].keys, numbers * sizeof *keys);
        memcpy(values + i * numbers, histories[i].values, numbers * sizeof *values);
    }
    uint32_t positions[N], sequences[N];
    struct tp_query_tile tiles[4];
    for (uint32_t i = 0; i < N; i++) {
        positions[i] = (i * 133 + 150) % CAPACITY;
        sequences[i] = i / QUERIES;
    }
    for (uint32_t i = 0; i < 4; i++)
        tiles[i] = (struct tp_query_tile){i * QUERIES / 2, QUERIES / 2};
    const float *queries = random_floats((size_t)N * WIDTH), *sinks = random_floats(KV * GROUP);
    struct tp_gpu_cache cache = {.n_heads = KV,
                                 .head_size = SIZE,
                                 .keys = on_device(keys, SEQUENCES * numbers * sizeof *keys),
                                 .values = on_device(values, SEQUENCES * numbers * sizeof *values),
                                 .capacity = CAPACITY};
    struct tp_places places = {on_device(positions, sizeof positions),
                               on_device(sequences, sizeof sequences)};
    struct tp_many_attend a = {.places = places,
                               .cache = cache,
                               .tiles = on_device(tiles, sizeof tiles),
                               .n_heads = KV * GROUP,
                               .window = WINDOW,
                               .scale = 1,
                               .sinks = on_device(sinks, KV * GROUP * sizeof *sinks),
                               .queries = on_device(queries, (size_t)N * WIDTH * sizeof *queries),
                               .columns = empty_columns(N, WIDTH, 3, false),
                               .tile_max = QUERIES / 2};
    enum { SPLITS = CAPACITY / TP_GPU_KEY_SPLIT + 2 };
    struct tp_attend b = {.places = places,
                          .cache = cache,
                          .n_heads = a.n_heads,
                          .window = WINDOW,
                          .scale = 1,
                          .sinks = a.sinks,
                          .queries = a.queries,
                          .n_splits = SPLITS,
                          .mixed = poisoned(sizeof(float) * N * SPLITS * WIDTH),
                          .sums = poisoned(sizeof(float) * N * SPLITS * KV * GROUP * 2),
                          .arrived = zeros_on_device(sizeof(uint32_t) * N * KV),
                          .columns = empty_columns(N, WIDTH, 3, false)};
    const unsigned many[3] = {4, KV, 1}, few[3] = {N, KV, SPLITS};
    launch_grid(tp_many_attend, &a, sizeof a, many, TP_MANY_ATTEND_THREADS,
                tp_many_attend_shared_bytes(a.tile_max, GROUP, SIZE));
    launch_grid(tp_attend, &b, sizeof b, few, TP_ATTEND_THREADS,
                tp_attend_shared_bytes(GROUP, SIZE));
    const float *found[] = {read_columns(&a.columns, N), read_columns(&b.columns, N)};
    for (size_t i = 0; i < (size_t)N * KV * GROUP; i++) {
        size_t token = i / (KV * GROUP), head = i % (KV * GROUP);
        double mixed[SIZE];
        expected_attention(&shape, &histories[sequences[token]], WINDOW, positions[token],
                           head / GROUP, queries + i * SIZE, &sinks[head], 1, mixed);
        for (size_t j = 0; j < SIZE; j++) {
            expect_near(found[0][i * SIZE + j], mixed[j], 1, 1e-5, "many", token, head);
            expect_near(found[1][i * SIZE + j], mixed[j], 1, 1e-5, "few", token, head);
        }
    }
}

/* ---- MXFP4 ---- */

static const double e2m1[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

/* As the OCP MX specification has it, in double, of numbers that are finite. */
static uint8_t quantised(const float *x, uint8_t *ret_codes)
{
    double largest = 0;
    for (size_t i = 0; i < 32; i++)
        largest = fmax(largest, fabs((double)x[i]));
    int exponent = largest > 0 ? ilogb(largest) - 2 : -127;
    exponent = exponent < -127 ? -127 : exponent;
    for (size_t i = 0; i < 32; i++) {
        double magnitude = fabs((double)x[i]) * exp2(-exponent);
        uint8_t code = 0;
        for (uint8_t j = 0; j < 7; j++) { /* of two as near, the even one */
            double middle = (e2m1[j] + e2m1[j + 1]) / 2;
            code += magnitude > middle || (magnitude == middle && j % 2 == 1);
        }
        ret_codes[i] = (uint8_t)(code | (signbit(x[i]) ? 8 : 0));
    }
    return (uint8_t)(exponent + 127);
}

static void quantised_arrays(void)
{
    enum { N = 301 };
    float *x = random_floats((size_t)32 * N);
    for (size_t i = 0; i < (size_t)32 * N; i++) {
        /* Every other block has numbers at the middle between two codes, and beside it. */
        float middle = (float)(e2m1[i % 7] + e2m1[i % 7 + 1]) / 2;
        if (i / 32 % 2 == 1)
            x[i] = copysignf(nextafterf(middle, (float)(i % 3) * 3), x[i]);
        x[i] = ldexpf(x[i], (int)(i / 32 % 250) - 130);
    }
    memset(x, 0, 32 * sizeof *x);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        struct tp_numbers numbers = make_numbers(x, (size_t)32 * N, bf16 != 0);
        struct tp_array_blocks a = {.values = numbers.data,
                                    .type = bf16 != 0 ? TP_ARRAY_BF16 : TP_ARRAY_F32,
                                    .blocks = poisoned((size_t)16 * N),
                                    .scales = poisoned(N),
                                    .n = N};
        launch(tp_array_quantize, &a, sizeof a, 3, TP_ROW_THREADS, 0);
        const uint8_t *blocks = from_device(a.blocks, (size_t)16 * N);
        const uint8_t *scales = from_device(a.scales, N);
        for (size_t i = 0; i < N; i++) {
            uint8_t codes[32], scale = quantised(x + 32 * i, codes);
            expect(scales[i] == scale, "block %zu: expected scale %u, found %u", i, scale,
                   scales[i]);
            for (size_t j = 0; j < 32; j++)
                expect((blocks[16 * i + j / 2] >> j % 2 * 4 & 15) == codes[j],
                       "number %zu of block %zu: expected code %u", j, i, codes[j]);
        }
    }
}

/* An F16's value, which is finite; those of doubles are rounded to even. */
static double from_f16(uint16_t bits)
{
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double value = exponent > 0 ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return (bits & 0x8000) != 0 ? -value : value;
}

static double rounded_to_f16(double x)
{
    int exponent = x != 0 ? ilogb(x) : -14;
    double step = ldexp(1, (exponent < -14 ? -14 : exponent) - 10);
    return nearbyint(x / step) * step;
}

static void dequantised_arrays(void)
{
    enum { N = 256 };
    uint8_t scales[N], blocks[16 * N];
    for (size_t i = 0; i < N; i++) {
        scales[i] = (uint8_t)i;
        for (size_t j = 0; j < 16; j++)
            blocks[16 * i + j] = (uint8_t)(j * 16 + (15 - j));
    }
    static const uint32_t nans[] = {0x7fc00000, 0x7e00, 0x7fc0};
    for (int type = TP_ARRAY_F32; type <= TP_ARRAY_BF16; type++) {
        size_t width = type == TP_ARRAY_F32 ? 4 : 2;
        struct tp_array_blocks a = {.values = poisoned(32 * N * width),
                                    .type = (enum tp_array_type)type,
                                    .blocks = on_device(blocks, sizeof blocks),
                                    .scales = on_device(scales, sizeof scales),
                                    .n = N};
        launch(tp_array_dequantize, &a, sizeof a, 5, TP_ROW_THREADS, 0);
        const uint8_t *found = from_device(a.values, 32 * N * width);
        for (size_t i = 0; i < (size_t)32 * N; i++) {
            uint32_t code = blocks[i / 2] >> i % 2 * 4 & 15, bits = 0;
            double value = ldexp(e2m1[code & 7], (int)(i / 32) - 127), expected;
            memcpy(&bits, found + i * width, width);
            if (i / 32 == 255) {
                expect(bits == nans[type], "type %d: NaN is %x", type, bits);
                continue;
            }
            expected = type == TP_ARRAY_F16 ? rounded_to_f16(value) : value;
            if (expected >= (type == TP_ARRAY_F16 ? 65520 : 0x1p128))
                expected = INFINITY;
            double number = from_bf16((uint16_t)bits);
            if (type == TP_ARRAY_F32)
                number = ((const float *)(const void *)found)[i];
            else if (type == TP_ARRAY_F16)
                number = (bits & 0x7c00) == 0x7c00
                             ? copysign(INFINITY, (bits & 0x8000) != 0 ? -1 : 1)
                             : from_f16((uint16_t)bits);
            expect(number == ((code & 8) != 0 ? -expected : expected) &&
                       (signbit(number) != 0) == ((code & 8) != 0),
                   "type %d, scale %zu, code %u: found %g", type, i / 32, code, number);
        }
    }
}

const struct kernel_test array_tests[] = {
    {"columns_of_arrays", columns_of_arrays, 0},
    {"columns_of_large_numbers", columns_of_large_numbers, 0},
    {"converted_arrays", converted_arrays, 0},
    {"products_of_few_vectors", products_of_few_vectors, NEEDS_TILES},
    {"products_of_any_type", products_of_any_type, 0},
    {"products_of_many_vectors", products_of_many_vectors, NEEDS_TILES},
    {"routes_of_given_experts", routes_of_given_experts, 0},
    {"mixtures_of_given_experts", mixtures_of_given_experts, 0},
    {"places_of_queries", places_of_queries, 0},
    {"mixed_queries", mixed_queries, 0},
    {"attention_to_arrays", attention_to_arrays, 0},
    {"quantised_arrays", quantised_arrays, 0},
    {"dequantised_arrays", dequantised_arrays, 0},
    {NULL, NULL, 0},
};
