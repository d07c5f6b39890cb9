/* The embedding, the head, and queries, keys and values: products with dense matrices. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "tests/cuda/kernel_reference.h"

static const struct variants head_variants = {tp_few_head_bf16_1, tp_few_head_bf16_3,
                                              tp_few_head_any, NULL, NULL};
static const struct variants heads_variants = {tp_few_heads_bf16_1, tp_few_heads_bf16_3,
                                               tp_few_heads_any, NULL, NULL};

/* ---- the head ---- */

struct head_case {
    enum tp_matrix_type type;
    size_t rows, columns, n, n_rows;
    uint32_t n_parts;
    bool tiles;
    unsigned blocks;
};

static void check_head(const struct head_case *c)
{
    struct weights w = make_weights(c->type, 1, c->rows, c->columns, NULL, 0);
    float *x = random_floats(c->n * c->columns);
    double scales[TP_FEW], size;
    struct tp_squares squares = make_squares(x, c->n, c->columns, scales);
    uint32_t rows[TP_FEW], groups;
    for (size_t i = 0; i < c->n_rows; i++)
        rows[i] = (uint32_t)((i * 3 + 1) % c->n);
    struct tp_few_head a = {.head = w.gpu,
                            .columns = make_columns(x, c->n, c->columns, c->n_parts, false),
                            .squares = squares,
                            .rows = on_device(rows, c->n_rows * sizeof *rows),
                            .n_tokens = (uint32_t)c->n,
                            .n_rows = (uint32_t)c->n_rows,
                            .logits = zeros_on_device(c->n_rows * c->rows * sizeof(float))};
    tp_kernel_fn *kernel = variant_for(&head_variants, &w.gpu, c->n_parts, c->n, c->tiles, &groups);
    launch(kernel, &a, sizeof a, c->blocks, TP_FEW_THREADS,
           tp_few_shared_bytes(groups, (uint32_t)c->n, 1));
    const float *found = from_device(a.logits, c->n_rows * c->rows * sizeof *found);
    for (size_t i = 0; i < c->n_rows; i++) {
        for (size_t row = 0; row < c->rows; row++) {
            double expected =
                multiply_row(&w, row, x + rows[i] * c->columns, &size) * scales[rows[i]];
            expect_near(found[i * c->rows + row], expected, size * scales[rows[i]] + 1e-9, 2e-6,
                        "logits", i, row);
        }
    }
}

static unsigned tiles_of(size_t rows)
{
    return (unsigned)((rows + TP_TILE_ROWS - 1) / TP_TILE_ROWS);
}

/* Rows and columns about the edges of tiles and steps, each with another number of tokens. */
static void head_at_edges(void)
{
    static const size_t rows[] = {1, 15, 16, 17, 33}, columns[] = {8, 24, 32, 96, 128, 264, 2880};
    size_t n = 0;
    for (size_t i = 0; i < 5; i++) {
        for (size_t j = 0; j < 7; j++) {
            for (uint32_t n_parts = 1; n_parts <= 3; n_parts += 2) {
                n = n % TP_FEW + 1;
                check_head(&(struct head_case){TP_MATRIX_BF16, rows[i], columns[j], n, n, n_parts,
                                               true, tiles_of(rows[i])});
            }
        }
    }
}

static void head_of_any_type(void)
{
    static const enum tp_matrix_type types[] = {TP_MATRIX_BF16, TP_MATRIX_F16, TP_MATRIX_F32};
    static const size_t columns[] = {1, 7, 33, 132};
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 0; j < 4; j++)
            check_head(&(struct head_case){types[i], 17, columns[j], 1 + 2 * j, 1 + j,
                                           j < 2 ? 1 : 3, false, 2});
    }
}

/* From one token to eight, with logits of all or of some, and blocks that take several tiles. */
static void head_for_some_tokens(void)
{
    for (size_t n = 1; n <= TP_FEW; n++) {
        for (uint32_t n_parts = 1; n_parts <= 3; n_parts += 2) {
            check_head(&(struct head_case){TP_MATRIX_BF16, 70, 64, n, n, n_parts, true, 2});
            check_head(
                &(struct head_case){TP_MATRIX_BF16, 33, 40, n, (n + 1) / 2, n_parts, true, 1});
        }
    }
}

/* 2^23 + (1/2 + 1/2), not (2^23 + 1/2) + 1/2: a number for each part, in columns of their own. */
static void parts_are_added_from_the_smallest(void)
{
    enum { COLUMNS = 32, STRIDE = 128 };
    for (size_t n = 1; n <= TP_FEW; n += TP_FEW - 1) {
        struct weights w = make_weights(TP_MATRIX_BF16, 1, 1, COLUMNS, NULL, 0);
        uint16_t *ones = on_host(COLUMNS, sizeof *ones),
                 *parts = on_host(n * 3 * STRIDE, sizeof *parts);
        uint32_t rows[TP_FEW], groups;
        for (size_t i = 0; i < COLUMNS; i++)
            ones[i] = to_bf16(1);
        for (size_t i = 0; i < n; i++) {
            rows[i] = (uint32_t)i;
            parts[i * 3 * STRIDE] = to_bf16(0x1p23f);
            parts[(i * 3 + 1) * STRIDE + 1] = parts[(i * 3 + 2) * STRIDE + 2] = to_bf16(0.5f);
        }
        w.gpu.values = on_device(ones, COLUMNS * sizeof *ones);
        struct tp_few_head a = {.head = w.gpu,
                                .columns = {on_device(parts, n * 3 * STRIDE * sizeof *parts), 3,
                                            COLUMNS, STRIDE, false},
                                .squares = {.sums = zeros_on_device(TP_FEW * sizeof(float)),
                                            .n_sums = 1,
                                            .size = 1,
                                            .epsilon = 1},
                                .rows = on_device(rows, n * sizeof *rows),
                                .n_tokens = (uint32_t)n,
                                .n_rows = (uint32_t)n,
                                .logits = zeros_on_device(n * sizeof(float))};
        tp_kernel_fn *kernel = variant_for(&head_variants, &w.gpu, 3, n, true, &groups);
        launch(kernel, &a, sizeof a, 1, TP_FEW_THREADS,
               tp_few_shared_bytes(groups, (uint32_t)n, 1));
        const float *found = from_device(a.logits, n * sizeof *found);
        for (size_t i = 0; i < n; i++)
            expect_near(found[i], 0x1p23 + 1, 0, 0, "logits", i, 0);
    }
}

/* ---- the embedding ---- */

static void check_embed(enum tp_matrix_type type, size_t size, uint32_t n_parts, size_t n)
{
    enum { VOCABULARY = 11 };
    struct weights w = make_weights(type, 1, VOCABULARY, size, NULL, 0);
    float *weight = random_floats(size);
    uint32_t tokens[TP_FEW];
    for (size_t i = 0; i < n; i++)
        tokens[i] = (uint32_t)(VOCABULARY - 1 - i);
    struct tp_few_embed a = {.embedding = w.gpu,
                             .tokens = on_device(tokens, n * sizeof *tokens),
                             .weight = on_device(weight, size * sizeof *weight),
                             .x = zeros_on_device(n * size * sizeof(float)),
                             .columns = empty_columns(n, size, n_parts, false),
                             .squares = {.sums = zeros_on_device(TP_FEW * sizeof(float)),
                                         .n_sums = 1,
                                         .size = (uint32_t)size}};
    launch(tp_few_embed, &a, sizeof a, (unsigned)n, TP_ROW_THREADS,
           TP_ROW_THREADS / 32 * sizeof(float));
    const float *x = from_device(a.x, n * size * sizeof *x), *columns = read_columns(&a.columns, n);
    const float *sums = from_device(a.squares.sums, TP_FEW * sizeof *sums);
    for (size_t token = 0; token < n; token++) {
        double squares = 0;
        for (size_t i = 0; i < size; i++) {
            double expected = w.values[tokens[token] * size + i];
            expect_near(x[token * size + i], expected, 0, 0, "x", token, i);
            expect_near(columns[token * size + i], expected * weight[i], fabs(expected * weight[i]),
                        column_tolerance(&a.columns), "columns", token, i);
            squares += expected * expected;
        }
        expect_near(sums[token], squares, squares, 1e-6, "sum of squares", token, 0);
    }
}

static void embedding(void)
{
    static const size_t sizes[] = {1, 8, 100, 256, 257, 2880};
    for (size_t i = 0; i < 6; i++)
        check_embed(i % 2 == 0 ? TP_MATRIX_BF16 : TP_MATRIX_F32, sizes[i], i < 3 ? 1 : 3, 1 + i);
    check_embed(TP_MATRIX_F16, 96, 3, TP_FEW);
}

/* To nearest, ties to even; what is no number stays one. */
static void rounding_to_bfloat16(void)
{
    static const float numbers[] = {1,          1.00390625f, 1.01171875f, 1.00390637f, -1.00390625f,
                                    0x1p-126f,  0x1.8p-133f, 0x1p-133f,   0x1.8p-134f, -0.0f,
                                    INFINITY,   -INFINITY,   NAN,         3e38f,       FLT_MAX,
                                    0x1.fep127f};
    enum { N = sizeof numbers / sizeof *numbers };
    static const uint32_t token = 0;
    float weight[N];
    for (size_t i = 0; i < N; i++)
        weight[i] = 1;
    struct tp_few_embed a = {
        .embedding = {.values = on_device(numbers, sizeof numbers),
                      .type = TP_MATRIX_F32,
                      .rows = 1,
                      .columns = N},
        .tokens = on_device(&token, sizeof token),
        .weight = on_device(weight, sizeof weight),
        .x = zeros_on_device(sizeof numbers),
        .columns = empty_columns(1, N, 1, false),
        .squares = {.sums = zeros_on_device(TP_FEW * sizeof(float)), .n_sums = 1, .size = N}};
    launch(tp_few_embed, &a, sizeof a, 1, TP_ROW_THREADS, TP_ROW_THREADS / 32 * sizeof(float));
    const float *found = read_columns(&a.columns, 1);
    for (size_t i = 0; i < N; i++)
        expect_near(found[i], rounded_to_bf16(numbers[i]), 0, 0, "number", i, 0);
}

/* ---- queries, keys and values ---- */

/* `split`: a launch for each matrix, as where their types differ. */
static void check_heads(const struct heads_case *c, bool tiles, bool split, unsigned blocks)
{
    uint32_t groups, half = (uint32_t)c->cache.size / 2, kv = (uint32_t)c->cache.n_kv * half;
    const uint32_t n_units[] = {(uint32_t)c->n_heads * half, kv, kv};
    double scales[TP_FEW];
    struct heads heads = make_heads(c);
    struct tp_few_heads a = heads.arguments;
    a.squares = make_squares(heads.x, c->n, c->hidden, scales);
    tp_kernel_fn *kernel = variant_for(&heads_variants, &a.q, c->n_parts, c->n, tiles, &groups);
    for (size_t i = 0; i < (split ? 3 : 1); i++) {
        if (split) {
            a.first_unit += i > 0 ? n_units[i - 1] : 0;
            a.n_units = n_units[i];
        }
        unsigned n_tiles = (a.n_units + TP_TILE_UNITS - 1) / TP_TILE_UNITS;
        launch(kernel, &a, sizeof a, blocks < n_tiles ? blocks : n_tiles, TP_FEW_THREADS,
               tp_few_shared_bytes(groups, (uint32_t)c->n, 1));
    }
    expect_heads(c, &heads, scales);
}

enum { CONTEXT = 12, RING = 5 };

static void queries_keys_and_values(void)
{
    static const size_t sizes[] = {2, 20, 64, 80, 128};
    for (size_t i = 0; i < 5; i++) {
        size_t n = 1 + i, more = TP_FEW - i;
        check_heads(&(struct heads_case){TP_MATRIX_BF16,
                                         {1, sizes[i], CONTEXT, RING, i % 2 == 1, i % 2 == 0},
                                         2 + i % 2,
                                         40,
                                         n,
                                         n,
                                         3},
                    true, false, 3);
        check_heads(&(struct heads_case){TP_MATRIX_BF16,
                                         {2, sizes[i], CONTEXT, RING, i % 3 == 0, i % 2 == 1},
                                         4,
                                         32,
                                         more,
                                         more,
                                         1},
                    true, true, 100);
    }
    check_heads(
        &(struct heads_case){
            TP_MATRIX_BF16, {3, 16, CONTEXT, RING, true, false}, 3, 264, TP_FEW, TP_FEW, 3},
        true, false, 2);
    check_heads(
        &(struct heads_case){TP_MATRIX_F32, {1, 20, CONTEXT, RING, true, false}, 3, 33, 5, 5, 3},
        false, false, 4);
    check_heads(
        &(struct heads_case){TP_MATRIX_F16, {2, 10, CONTEXT, RING, false, true}, 2, 9, 2, 2, 1},
        false, true, 4);
}

/* ---- of a large model ---- */

static void large_head(void)
{
    check_head(&(struct head_case){TP_MATRIX_BF16, LARGE_VOCABULARY, LARGE_HIDDEN, 1, 1, 3, true,
                                   blocks_at_once()});
    check_head(&(struct head_case){TP_MATRIX_BF16, LARGE_VOCABULARY, LARGE_HIDDEN, TP_FEW, 2, 1,
                                   true, blocks_at_once()});
}

static void large_heads(void)
{
    const struct cache_shape cache = {
        LARGE_KV_HEADS, LARGE_HEAD_SIZE, 1024, LARGE_WINDOW + TP_FEW, true, true};
    check_heads(&(struct heads_case){TP_MATRIX_BF16, cache, LARGE_HEADS, LARGE_HIDDEN, 1, 1, 3},
                true, false, blocks_at_once());
    check_heads(
        &(struct heads_case){TP_MATRIX_BF16, cache, LARGE_HEADS, LARGE_HIDDEN, TP_FEW, TP_FEW, 3},
        true, false, blocks_at_once());
}

const struct kernel_test product_tests[] = {
    {"head_at_edges", head_at_edges, 0},
    {"head_of_any_type", head_of_any_type, 0},
    {"head_for_some_tokens", head_for_some_tokens, 0},
    {"parts_are_added_from_the_smallest", parts_are_added_from_the_smallest, NEEDS_TILES},
    {"embedding", embedding, 0},
    {"rounding_to_bfloat16", rounding_to_bfloat16, 0},
    {"queries_keys_and_values", queries_keys_and_values, 0},
    {"large_head", large_head, IS_LARGE},
    {"large_heads", large_heads, IS_LARGE},
    {NULL, NULL, 0},
};
