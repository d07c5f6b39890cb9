/* The products of a step of many tokens: tiles of 128 rows and 64 vectors, at their edges. */
#include <math.h>
#include <string.h>

#include "tests/cuda/kernel_reference.h"

/* About the edges of tiles of vectors. */
static const size_t about_tiles[] = {1, 63, 64, 65, 127, 128, 129};
enum { N_ABOUT_TILES = sizeof about_tiles / sizeof *about_tiles };

static size_t tiles_of(size_t n, size_t tile)
{
    return (n + tile - 1) / tile;
}

/* `n_rows` of a matrix of that type, two for a unit. */
static void launch_tiles(tp_kernel_fn *kernel, const void *arguments, size_t bytes, size_t n_rows,
                         size_t n_vector_tiles, enum tp_matrix_type type, uint32_t n_parts)
{
    const unsigned grid[3] = {(unsigned)tiles_of(n_rows, TP_MANY_ROWS), (unsigned)n_vector_tiles,
                              1};
    launch_grid(kernel, arguments, bytes, grid, TP_MANY_THREADS,
                tp_many_shared_bytes(type, n_parts));
}

/* ---- queries, keys and values ---- */

static void check_heads(const struct heads_case *c)
{
    double *scales = on_host(c->n, sizeof *scales);
    struct heads heads = make_heads(c);
    struct tp_few_heads a = heads.arguments;
    a.squares = make_token_squares(heads.x, c->n, c->hidden, scales);
    launch_tiles(c->n_parts == 1 ? tp_many_heads_1 : tp_many_heads_3, &a, sizeof a,
                 2 * (size_t)a.n_units, tiles_of(c->n, TP_MANY_VECTORS), TP_MATRIX_BF16,
                 c->n_parts);
    expect_heads(c, &heads, scales);
}

/* One sequence or several in a step; rings that hold what each brings; and units, half as many as
 * rows, about a tile's 64. */
static void heads_of_many_tokens(void)
{
    static const size_t sizes[] = {2, 2, 2, 20, 64, 80, 128}, n_heads[] = {61, 62, 63, 3, 2, 3, 2},
                        n_kv[] = {1, 1, 1, 3, 1, 1, 2}, hidden[] = {8, 56, 64, 72, 128, 136, 200};
    for (size_t i = 0; i < N_ABOUT_TILES; i++) {
        size_t n = about_tiles[i], other = about_tiles[N_ABOUT_TILES - 1 - i];
        check_heads(&(struct heads_case){TP_MATRIX_BF16,
                                         {n_kv[i], sizes[i], n + 3, n, i % 2 == 0, i % 3 == 0},
                                         n_heads[i],
                                         hidden[i],
                                         n,
                                         1,
                                         i % 2 == 0 ? 3 : 1});
        check_heads(&(struct heads_case){TP_MATRIX_BF16,
                                         {n_kv[i], sizes[i], other + 1, other, i % 2 == 1, false},
                                         n_heads[i],
                                         hidden[N_ABOUT_TILES - 1 - i],
                                         other,
                                         other > 3 ? 3 : 1,
                                         i % 2 == 0 ? 1 : 3});
    }
}

/* ---- o and the residual stream ---- */

static void check_output(size_t rows, size_t columns, size_t n, uint32_t n_parts, bool has_bias)
{
    struct weights w = make_weights(TP_MATRIX_BF16, 1, rows, columns, NULL, 0);
    float *mixed = random_floats(n * columns), *x = random_floats(n * rows),
          *bias = random_floats(rows);
    struct tp_many_output a = {.o = w.gpu,
                               .bias = has_bias ? on_device(bias, rows * sizeof *bias) : NULL,
                               .mixed = make_columns(mixed, n, columns, n_parts, false),
                               .n_tokens = (uint32_t)n,
                               .x = on_device(x, n * rows * sizeof *x)};
    launch_tiles(n_parts == 1 ? tp_many_output_1 : tp_many_output_3, &a, sizeof a, rows,
                 tiles_of(n, TP_MANY_VECTORS), TP_MATRIX_BF16, n_parts);
    const float *found = from_device(a.x, n * rows * sizeof *found);
    for (size_t i = 0; i < n * rows; i++) {
        double size, y = multiply_row(&w, i % rows, mixed + i / rows * columns, &size);
        expect_near(found[i], x[i] + y + (has_bias ? bias[i % rows] : 0), size + 2, 2e-6, "x",
                    i / rows, i % rows);
    }
}

static void output_of_many_tokens(void)
{
    static const size_t rows[] = {1, 2, 127, 128, 129, 255, 33},
                        columns[] = {8, 56, 64, 72, 128, 136, 2880};
    for (size_t i = 0; i < N_ABOUT_TILES; i++) {
        size_t other = columns[N_ABOUT_TILES - 1 - i];
        check_output(rows[i], columns[i], about_tiles[i], i % 2 == 0 ? 3 : 1, i % 3 != 0);
        check_output(rows[i], other < 2880 ? other : 264, about_tiles[(i + 3) % N_ABOUT_TILES],
                     i % 2 == 0 ? 1 : 3, i % 3 == 0);
    }
}

/* 2^23 + (1/2 + 1/2), not (2^23 + 1/2) + 1/2: a number for each part, in columns of their own. */
static void many_parts_are_added_from_the_smallest(void)
{
    enum { COLUMNS = 64, STRIDE = 128, N = 65, ROWS = 3 };
    uint16_t ones[ROWS * COLUMNS];
    uint16_t *parts = on_host((size_t)N * 3 * STRIDE, sizeof *parts);
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        ones[i] = to_bf16(1);
    for (size_t i = 0; i < N; i++) {
        parts[i * 3 * STRIDE] = to_bf16(0x1p23f);
        parts[(i * 3 + 1) * STRIDE + 1] = parts[(i * 3 + 2) * STRIDE + 2] = to_bf16(0.5f);
    }
    struct tp_many_output a = {.o = {.values = on_device(ones, sizeof ones),
                                     .type = TP_MATRIX_BF16,
                                     .rows = ROWS,
                                     .columns = COLUMNS},
                               .mixed = {on_device(parts, (size_t)N * 3 * STRIDE * sizeof *parts),
                                         3, COLUMNS, STRIDE, false},
                               .n_tokens = N,
                               .x = zeros_on_device(N * ROWS * sizeof(float))};
    launch_tiles(tp_many_output_3, &a, sizeof a, ROWS, 2, TP_MATRIX_BF16, 3);
    const float *found = from_device(a.x, N * ROWS * sizeof *found);
    for (size_t i = 0; i < N * ROWS; i++)
        expect_near(found[i], 0x1p23 + 1, 0, 0, "x", i / ROWS, i % ROWS);
}

/* ---- experts ---- */

struct expert_case {
    enum tp_matrix_type type;
    size_t n, n_experts, k, rows, columns; /* gate and up: `rows` is the inner size */
    const uint32_t *counts;                /* see sort_tokens() */
    uint32_t n_parts;
    bool has_bias;
    const uint8_t *scales;
    size_t n_scales;
};

static bool is_mxfp4(const struct expert_case *c)
{
    return c->type == TP_MATRIX_MXFP4;
}

/* As many as the backend starts: what no expert has is left alone. */
static size_t slot_tiles(const struct expert_case *c)
{
    size_t n = c->n * c->k;
    return n / TP_MANY_VECTORS + (n < c->n_experts ? n : c->n_experts);
}

static void check_gate_up(const struct expert_case *c)
{
    size_t n_slots = c->n * c->k;
    struct weights w =
        make_weights(c->type, c->n_experts, 2 * c->rows, c->columns, c->scales, c->n_scales);
    struct sorted sorted = sort_tokens(c->n, c->n_experts, c->k, c->counts);
    float *x = random_floats(c->n * c->columns);
    float *bias = random_floats(c->n_experts * 2 * c->rows);
    double *scales = on_host(c->n, sizeof *scales);
    struct tp_many_gate_up a = {
        .gate_up = w.gpu,
        .bias = c->has_bias ? on_device(bias, c->n_experts * 2 * c->rows * sizeof *bias) : NULL,
        .columns = make_columns(x, c->n, c->columns, c->n_parts, is_mxfp4(c)),
        .squares = make_token_squares(x, c->n, c->columns, scales),
        .slots = sorted.slots,
        .inner = (uint32_t)c->rows,
        .alpha = 1.702f,
        .limit = 0.75f,
        .inners = empty_columns(n_slots, c->rows, c->n_parts, c->rows % 32 == 0)};
    tp_kernel_fn *one = is_mxfp4(c) ? tp_many_gate_up_mxfp4_1 : tp_many_gate_up_bf16_1;
    tp_kernel_fn *three = is_mxfp4(c) ? tp_many_gate_up_mxfp4_3 : tp_many_gate_up_bf16_3;
    launch_tiles(c->n_parts == 1 ? one : three, &a, sizeof a, 2 * c->rows, slot_tiles(c), c->type,
                 c->n_parts);
    const float *found = read_columns(&a.inners, n_slots);
    for (size_t i = 0; i < n_slots; i++) {
        size_t token = i / c->k, slot = sorted.of_token[i];
        for (size_t unit = 0; unit < c->rows; unit++) {
            size_t row = sorted.chosen[i] * 2 * c->rows + 2 * unit;
            double value[2], size[2];
            for (size_t j = 0; j < 2; j++) {
                value[j] = multiply_row(&w, row + j, x + token * c->columns, &size[j]);
                value[j] = value[j] * scales[token] + (c->has_bias ? bias[row + j] : 0);
            }
            double expected = swiglu(value[0], value[1], a.alpha, a.limit);
            expect_near(found[slot * c->rows + unit], expected,
                        fabs(expected) * column_tolerance(&a.inners) +
                            4e-6 * (1 + (size[0] + size[1]) * scales[token]),
                        1, "inner", slot, unit);
        }
    }
}

static void check_down(const struct expert_case *c)
{
    size_t n_slots = c->n * c->k;
    struct weights w =
        make_weights(c->type, c->n_experts, c->rows, c->columns, c->scales, c->n_scales);
    struct sorted sorted = sort_tokens(c->n, c->n_experts, c->k, c->counts);
    float *inners = random_floats(n_slots * c->columns);
    float *bias = random_floats(c->n_experts * c->rows);
    struct tp_many_down a = {
        .down = w.gpu,
        .bias = c->has_bias ? on_device(bias, c->n_experts * c->rows * sizeof *bias) : NULL,
        .inners = make_columns(inners, n_slots, c->columns, c->n_parts, is_mxfp4(c)),
        .slots = sorted.slots,
        .outputs = zeros_on_device(n_slots * c->rows * sizeof(float))};
    tp_kernel_fn *one = is_mxfp4(c) ? tp_many_down_mxfp4_1 : tp_many_down_bf16_1;
    tp_kernel_fn *three = is_mxfp4(c) ? tp_many_down_mxfp4_3 : tp_many_down_bf16_3;
    launch_tiles(c->n_parts == 1 ? one : three, &a, sizeof a, c->rows, slot_tiles(c), c->type,
                 c->n_parts);
    const float *found = from_device(a.outputs, n_slots * c->rows * sizeof *found);
    for (size_t i = 0; i < n_slots; i++) {
        size_t slot = sorted.of_token[i];
        for (size_t row = 0; row < c->rows; row++) {
            size_t at = sorted.chosen[i] * c->rows + row;
            double size, y = multiply_row(&w, at, inners + slot * c->columns, &size);
            expect_near(found[slot * c->rows + row], y + (c->has_bias ? bias[at] : 0), size + 1,
                        2e-6, "output", slot, row);
        }
    }
}

/* Experts with so many slots: nothing before, between and behind tiles' edges. */
static const uint32_t about_a_tile[] = {63, 0, 64, 65}, about_two[] = {127, 1, 128, 0, 129},
                      all_with_one[] = {0, 0, 130, 0}, all_with_the_last[] = {0, 0, 0, 128};

static const struct {
    const uint32_t *counts;
    size_t n, n_experts;
} deals[] = {{about_a_tile, 192, 4},
             {about_two, 385, 5},
             {all_with_one, 130, 4},
             {all_with_the_last, 128, 4}};
enum { N_DEALS = sizeof deals / sizeof *deals };

static void check_deals(void (*check)(const struct expert_case *), enum tp_matrix_type type,
                        const size_t columns[N_DEALS])
{
    static const size_t rows[] = {33, 3, 64, 65};
    for (size_t i = 0; i < N_DEALS; i++) {
        struct expert_case c = {.type = type,
                                .n = deals[i].n,
                                .n_experts = deals[i].n_experts,
                                .k = 1,
                                .rows = rows[i],
                                .columns = columns[i],
                                .counts = deals[i].counts,
                                .n_parts = i % 2 == 0 ? 3 : 1,
                                .has_bias = i % 2 == 0};
        check(&c);
        c.n_parts = 4 - c.n_parts;
        c.has_bias = !c.has_bias;
        check(&c);
    }
}

static void check_choices(void (*check)(const struct expert_case *), enum tp_matrix_type type)
{
    static const size_t n[] = {1, 2, 9, 65, 40}, n_experts[] = {4, 32, 5, 3, 37},
                        k[] = {4, 4, 2, 2, 7}, rows[] = {1, 64, 127, 128, 129};
    static const size_t columns[] = {32, 64, 96, 128, 160};
    for (size_t i = 0; i < 5; i++)
        check(&(struct expert_case){.type = type,
                                    .n = n[i],
                                    .n_experts = n_experts[i],
                                    .k = k[i],
                                    .rows = rows[i],
                                    .columns = columns[i],
                                    .n_parts = i % 2 == 0 ? 1 : 3,
                                    .has_bias = i != 1});
}

static const size_t columns_of_mxfp4[] = {32, 64, 96, 288}, columns_of_bf16[] = {8, 56, 72, 136};

static void gate_up_of_many_tokens(void)
{
    check_deals(check_gate_up, TP_MATRIX_MXFP4, columns_of_mxfp4);
    check_choices(check_gate_up, TP_MATRIX_MXFP4);
}

static void gate_up_in_bfloat16(void)
{
    check_deals(check_gate_up, TP_MATRIX_BF16, columns_of_bf16);
    check_choices(check_gate_up, TP_MATRIX_BF16);
}

static void down_of_many_tokens(void)
{
    check_deals(check_down, TP_MATRIX_MXFP4, columns_of_mxfp4);
    check_choices(check_down, TP_MATRIX_MXFP4);
}

static void down_in_bfloat16(void)
{
    check_deals(check_down, TP_MATRIX_BF16, columns_of_bf16);
    check_choices(check_down, TP_MATRIX_BF16);
}

/* The largest that tensor cores take, and NaN beside numbers. */
static void scales_of_many_tokens(void)
{
    static const uint8_t large[] = {TP_SCALE_MAX, TP_SCALE_MAX - 1}, some_nan[] = {255, 120, 121};
    struct expert_case c = {.type = TP_MATRIX_MXFP4,
                            .n = 66,
                            .n_experts = 3,
                            .k = 2,
                            .rows = 65,
                            .columns = 96,
                            .n_parts = 3,
                            .scales = large,
                            .n_scales = 2};
    check_gate_up(&c);
    check_down(&c);
    c.scales = some_nan, c.n_scales = 3;
    check_gate_up(&c);
    check_down(&c);
}

/* ---- a dense layer ---- */

static void check_dense(size_t inner, size_t columns, size_t n, uint32_t n_parts)
{
    struct weights gate = make_weights(TP_MATRIX_BF16, 1, inner, columns, NULL, 0);
    struct weights up = make_weights(TP_MATRIX_BF16, 1, inner, columns, NULL, 0);
    struct sorted sorted = sort_tokens(n, 1, 1, NULL);
    float *x = random_floats(n * columns), *biases = random_floats(2 * inner);
    double *scales = on_host(n, sizeof *scales), size[2];
    struct tp_many_gate_up a = {.gate = gate.gpu,
                                .up = up.gpu,
                                .columns = make_columns(x, n, columns, n_parts, false),
                                .squares = make_token_squares(x, n, columns, scales),
                                .slots = sorted.slots,
                                .inner = (uint32_t)inner,
                                .inners = empty_columns(n, inner, n_parts, false)};
    if (inner % 2 == 1) {
        a.gate_bias = on_device(biases, inner * sizeof *biases);
        a.up_bias = on_device(biases + inner, inner * sizeof *biases);
    }
    launch_tiles(n_parts == 1 ? tp_many_gate_up_bf16_1 : tp_many_gate_up_bf16_3, &a, sizeof a,
                 2 * inner, n / TP_MANY_VECTORS + 1, TP_MATRIX_BF16, n_parts);
    const float *found = read_columns(&a.inners, n);
    for (size_t token = 0; token < n; token++) {
        for (size_t unit = 0; unit < inner; unit++) {
            double g = multiply_row(&gate, unit, x + token * columns, &size[0]) * scales[token],
                   u = multiply_row(&up, unit, x + token * columns, &size[1]) * scales[token];
            double expected = silu_product(g + (a.gate_bias != NULL ? biases[unit] : 0),
                                           u + (a.up_bias != NULL ? biases[inner + unit] : 0));
            double sum = 1 + (size[0] + size[1]) * scales[token];
            expect_near(found[token * inner + unit], expected,
                        fabs(expected) * column_tolerance(&a.inners) + 1e-6 * sum * sum, 1, "inner",
                        token, unit);
        }
    }
}

static void dense_layers_of_many_tokens(void)
{
    static const size_t inners[] = {1, 63, 64, 65, 20, 127, 40},
                        columns[] = {8, 40, 64, 72, 128, 136, 200};
    for (size_t i = 0; i < N_ABOUT_TILES; i++)
        check_dense(inners[i], columns[i], about_tiles[i], i % 2 == 0 ? 1 : 3);
}

/* ---- of a large model ---- */

static void large_heads_of_many_tokens(void)
{
    enum { N = 129 };
    const struct cache_shape cache = {
        LARGE_KV_HEADS, LARGE_HEAD_SIZE, 1024, LARGE_WINDOW + N, true, true};
    for (uint32_t n_parts = 1; n_parts <= 3; n_parts += 2)
        check_heads(
            &(struct heads_case){TP_MATRIX_BF16, cache, LARGE_HEADS, LARGE_HIDDEN, N, 2, n_parts});
}

static void large_output_of_many_tokens(void)
{
    check_output(LARGE_HIDDEN, LARGE_QUERY, 129, 1, true);
    check_output(LARGE_HIDDEN, LARGE_QUERY, 129, 3, true);
}

static void large_experts_of_many_tokens(void)
{
    for (uint32_t n_parts = 1; n_parts <= 3; n_parts += 2) {
        struct expert_case c = {.type = TP_MATRIX_MXFP4,
                                .n = 40,
                                .n_experts = LARGE_EXPERTS_TRIED,
                                .k = LARGE_EXPERTS_PER_TOKEN,
                                .rows = LARGE_INNER,
                                .columns = LARGE_HIDDEN,
                                .n_parts = n_parts,
                                .has_bias = true};
        check_gate_up(&c);
        c.n = 70, c.rows = LARGE_HIDDEN, c.columns = LARGE_INNER;
        check_down(&c);
    }
}

const struct kernel_test many_product_tests[] = {
    {"heads_of_many_tokens", heads_of_many_tokens, NEEDS_TILES},
    {"output_of_many_tokens", output_of_many_tokens, NEEDS_TILES},
    {"many_parts_are_added_from_the_smallest", many_parts_are_added_from_the_smallest, NEEDS_TILES},
    {"gate_up_of_many_tokens", gate_up_of_many_tokens, NEEDS_TILES},
    {"gate_up_in_bfloat16", gate_up_in_bfloat16, NEEDS_TILES},
    {"down_of_many_tokens", down_of_many_tokens, NEEDS_TILES},
    {"down_in_bfloat16", down_in_bfloat16, NEEDS_TILES},
    {"scales_of_many_tokens", scales_of_many_tokens, NEEDS_TILES},
    {"dense_layers_of_many_tokens", dense_layers_of_many_tokens, NEEDS_TILES},
    {"large_heads_of_many_tokens", large_heads_of_many_tokens, NEEDS_TILES | IS_LARGE},
    {"large_output_of_many_tokens", large_output_of_many_tokens, NEEDS_TILES | IS_LARGE},
    {"large_experts_of_many_tokens", large_experts_of_many_tokens, NEEDS_TILES | IS_LARGE},
    {NULL, NULL, 0},
};
