/* Experts and dense layers: gate and up, and down. */
#include <math.h>
#include <string.h>

#include "tests/cuda/kernel_reference.h"

#define VARIANTS(stage)                                                                            \
    {                                                                                              \
        tp_few_##stage##_bf16_1, tp_few_##stage##_bf16_3, tp_few_##stage##_any,                    \
            tp_few_##stage##_mxfp4_1, tp_few_##stage##_mxfp4_3                                     \
    }
static const struct variants gate_up_variants = VARIANTS(gate_up), down_variants = VARIANTS(down);

struct mlp_case {
    enum tp_matrix_type type;
    size_t n_experts, k, rows, columns, n; /* gate and up: `rows` is the inner size */
    uint32_t n_parts;
    bool tiles;
    unsigned blocks; /* at most */
    const uint8_t *scales;
    size_t n_scales;
    float factor, norm; /* of x and of the norm's scales; 0: 1 */
};

static float *scaled_floats(size_t n, float factor)
{
    float *x = random_floats(n);
    for (size_t i = 0; i < n && factor != 0; i++)
        x[i] *= factor;
    return x;
}

static unsigned blocks_for(const struct mlp_case *c, size_t n_active, size_t tile)
{
    size_t tasks = n_active * ((c->rows + tile - 1) / tile);
    return (unsigned)(c->blocks > 0 && c->blocks < tasks ? c->blocks : tasks);
}

/* ---- gate and up ---- */

static void check_gate_up(const struct mlp_case *c)
{
    uint32_t groups;
    struct weights w =
        make_weights(c->type, c->n_experts, 2 * c->rows, c->columns, c->scales, c->n_scales);
    float *x = scaled_floats(c->n * c->columns, c->factor);
    float *bias = random_floats(c->n_experts * 2 * c->rows);
    struct choice choice = choose(c->n, c->n_experts, c->k, c->norm);
    struct tp_few_gate_up a = {
        .gate_up = w.gpu,
        .bias =
            c->rows % 2 == 0 ? NULL : on_device(bias, c->n_experts * 2 * c->rows * sizeof *bias),
        .columns = make_columns(x, c->n, c->columns, c->n_parts, is_shuffled(&w.gpu, c->tiles)),
        .routing = choice.routing,
        .n_tokens = (uint32_t)c->n,
        .inner = (uint32_t)c->rows,
        .alpha = 1.702f,
        .limit = 0.75f,
        .inners = empty_columns(c->n * c->k, c->rows, c->n_parts, c->rows % 32 == 0)};
    tp_kernel_fn *kernel =
        variant_for(&gate_up_variants, &w.gpu, c->n_parts, c->n, c->tiles, &groups);
    launch(kernel, &a, sizeof a, blocks_for(c, choice.n_active, TP_TILE_UNITS), TP_FEW_THREADS,
           tp_few_shared_bytes(groups, (uint32_t)c->n, (uint32_t)c->n_experts));
    const float *found = read_columns(&a.inners, c->n * c->k);
    for (size_t i = 0; i < c->n * c->k; i++) {
        size_t token = i / c->k, expert = choice.chosen[i];
        for (size_t unit = 0; unit < c->rows; unit++) {
            size_t row = expert * 2 * c->rows + 2 * unit;
            double value[2], size[2];
            for (size_t j = 0; j < 2; j++) {
                value[j] = multiply_row(&w, row + j, x + token * c->columns, &size[j]);
                value[j] = value[j] * choice.scales[token] + (a.bias != NULL ? bias[row + j] : 0);
            }
            double expected = swiglu(value[0], value[1], a.alpha, a.limit);
            expect_near(found[i * c->rows + unit], expected,
                        fabs(expected) * column_tolerance(&a.inners) +
                            4e-6 * (1 + size[0] + size[1]),
                        1, "inner", i, unit);
        }
    }
}

static void experts_of_every_size(void)
{
    static const size_t inners[] = {1, 7, 8, 9, 17, 32}, columns[] = {32, 64, 96, 128, 288, 2880};
    size_t n = 0;
    for (size_t i = 0; i < 6; i++) {
        for (size_t j = 0; j < 6; j++) {
            n = n % TP_FEW + 1;
            check_gate_up(&(struct mlp_case){TP_MATRIX_MXFP4, 3, 1 + j % 3, inners[i], columns[j],
                                             n, i % 2 == 0 ? 3 : 1, true, 3, NULL, 0, 0, 1});
        }
    }
}

static void experts_of_other_types(void)
{
    for (size_t n = 1; n <= TP_FEW; n += 2) {
        check_gate_up(
            &(struct mlp_case){TP_MATRIX_BF16, 4, 2, 9, 40, n, 3, true, 4, NULL, 0, 0, 1});
        check_gate_up(
            &(struct mlp_case){TP_MATRIX_BF16, 4, 2, 8, 264, n, 1, true, 4, NULL, 0, 0, 1});
        check_gate_up(
            &(struct mlp_case){TP_MATRIX_MXFP4, 4, 3, 5, 96, n, 3, false, 4, NULL, 0, 0, 1});
        check_gate_up(&(struct mlp_case){TP_MATRIX_F32, 2, 2, 9, 33, n, 1, true, 4, NULL, 0, 0, 1});
        check_gate_up(&(struct mlp_case){TP_MATRIX_F16, 2, 1, 8, 10, n, 3, true, 4, NULL, 0, 0, 1});
    }
}

/* ---- scales of MXFP4 ---- */

static void check_scales(const uint8_t *scales, size_t n, float factor, float norm)
{
    for (uint32_t tiles = 0; tiles < 2; tiles++) {
        check_gate_up(&(struct mlp_case){TP_MATRIX_MXFP4, 2, 2, 9, 128, 2, 3, tiles, 2, scales, n,
                                         factor, norm});
        check_gate_up(&(struct mlp_case){TP_MATRIX_MXFP4, 2, 1, 9, 64, 3, 3, tiles, 2, scales, n,
                                         factor, norm});
    }
}

static void smallest_scales(void)
{
    check_scales((const uint8_t[]){0}, 1, 0x1p126f, 1);
    check_scales((const uint8_t[]){0, 1, 2}, 3, 0x1p125f, 1);
    check_scales((const uint8_t[]){1}, 1, 0x1p125f, 1);
}

static void largest_scales(void)
{
    check_scales((const uint8_t[]){254}, 1, 0x1p-100f, 0x1p-27f);
    check_scales((const uint8_t[]){252, 253, 254}, 3, 0x1p-100f, 0x1p-27f);
    check_scales((const uint8_t[]){126, 127, 128}, 3, 0.25f, 1);
    check_scales((const uint8_t[]){127, 128, 129}, 3, 0.25f, 1);
    check_scales((const uint8_t[]){140}, 1, 0x1p-12f, 1);
}

/* All weights are 1 times NaN, and what they are multiplied with has one sign: infinity in its
 * place would be no NaN in the end. */
static void check_ones_times_nan(bool tiles)
{
    enum { ROWS = 16, COLUMNS = 64, BYTES = ROWS * COLUMNS / 2, SCALES = ROWS * COLUMNS / 32 };
    uint8_t nibbles[BYTES], scales[SCALES];
    float x[COLUMNS];
    uint32_t groups;
    struct choice choice = choose(1, 1, 1, 1);
    memset(nibbles, 0x22, sizeof nibbles);
    memset(scales, 255, sizeof scales);
    for (size_t i = 0; i < COLUMNS; i++)
        x[i] = copysignf(1, choice.scales[0]);
    struct tp_gpu_matrix w = {.values = on_device(nibbles, sizeof nibbles),
                              .scales = on_device(scales, sizeof scales),
                              .type = TP_MATRIX_MXFP4,
                              .rows = ROWS,
                              .columns = COLUMNS};
    struct tp_few_gate_up a = {.gate_up = w,
                               .columns = make_columns(x, 1, COLUMNS, 3, is_shuffled(&w, tiles)),
                               .routing = choice.routing,
                               .n_tokens = 1,
                               .inner = ROWS / 2,
                               .alpha = 1,
                               .limit = 7,
                               .inners = empty_columns(1, ROWS / 2, 3, false)};
    tp_kernel_fn *kernel = variant_for(&gate_up_variants, &w, 3, 1, tiles, &groups);
    launch(kernel, &a, sizeof a, 1, TP_FEW_THREADS, tp_few_shared_bytes(groups, 1, 1));
    const float *found = read_columns(&a.inners, 1);
    for (size_t unit = 0; unit < ROWS / 2; unit++)
        expect(isnan(found[unit]), "inner [%zu] is %g, no NaN", unit, found[unit]);
}

static void scales_that_are_not_numbers(void)
{
    check_scales((const uint8_t[]){255}, 1, 1, 1);
    check_scales((const uint8_t[]){255, 120, 121, 122}, 4, 1, 1);
    check_scales((const uint8_t[]){255, 254}, 2, 0x1p-100f, 0x1p-27f);
    check_ones_times_nan(false);
    check_ones_times_nan(true);
}

/* ---- a dense layer ---- */

static void check_dense(enum tp_matrix_type type, size_t inner, size_t columns, size_t n,
                        uint32_t n_parts)
{
    uint32_t groups;
    struct weights gate = make_weights(type, 1, inner, columns, NULL, 0);
    struct weights up = make_weights(type, 1, inner, columns, NULL, 0);
    float *x = random_floats(n * columns), *biases = random_floats(2 * inner);
    struct choice choice = choose(n, 1, 1, 1);
    struct tp_few_gate_up a = {.gate = gate.gpu,
                               .up = up.gpu,
                               .columns = make_columns(x, n, columns, n_parts, false),
                               .routing = choice.routing,
                               .n_tokens = (uint32_t)n,
                               .inner = (uint32_t)inner,
                               .inners = empty_columns(n, inner, n_parts, false)};
    if (inner % 2 == 1) {
        a.gate_bias = on_device(biases, inner * sizeof *biases);
        a.up_bias = on_device(biases + inner, inner * sizeof *biases);
    }
    tp_kernel_fn *kernel = variant_for(&gate_up_variants, &gate.gpu, n_parts, n, true, &groups);
    launch(kernel, &a, sizeof a, 2, TP_FEW_THREADS, tp_few_shared_bytes(groups, (uint32_t)n, 1));
    const float *found = read_columns(&a.inners, n);
    for (size_t token = 0; token < n; token++) {
        for (size_t unit = 0; unit < inner; unit++) {
            double size[2], g = multiply_row(&gate, unit, x + token * columns, &size[0]),
                            u = multiply_row(&up, unit, x + token * columns, &size[1]);
            g = g * choice.scales[token] + (a.gate_bias != NULL ? biases[unit] : 0);
            u = u * choice.scales[token] + (a.up_bias != NULL ? biases[inner + unit] : 0);
            double expected = silu_product(g, u);
            expect_near(found[token * inner + unit], expected,
                        fabs(expected) * column_tolerance(&a.inners) +
                            4e-6 * (1 + size[0] + size[1]),
                        1, "inner", token, unit);
        }
    }
}

static void dense_layers(void)
{
    for (size_t n = 1; n <= TP_FEW; n++) {
        check_dense(TP_MATRIX_BF16, 24 + n, 40, n, n % 2 == 0 ? 1 : 3);
        check_dense(TP_MATRIX_BF16, 24, 20 + n, n, n % 2 == 0 ? 1 : 3);
    }
    check_dense(TP_MATRIX_F16, 17, 64, 3, 3);
}

/* ---- down ---- */

static void check_down(const struct mlp_case *c)
{
    uint32_t groups;
    size_t n_tiles = (c->rows + TP_TILE_ROWS - 1) / TP_TILE_ROWS;
    struct weights w =
        make_weights(c->type, c->n_experts, c->rows, c->columns, c->scales, c->n_scales);
    float *inners = scaled_floats(c->n * c->k * c->columns, c->factor);
    float *bias = random_floats(c->n_experts * c->rows), *weight = random_floats(c->rows);
    float *x = random_floats(c->n * c->rows);
    struct choice choice = choose(c->n, c->n_experts, c->k, 1);
    struct tp_few_down a = {
        .down = w.gpu,
        .bias = c->n % 2 == 0 ? NULL : on_device(bias, c->n_experts * c->rows * sizeof *bias),
        .inners = make_columns(inners, c->n * c->k, c->columns, c->n_parts,
                               is_shuffled(&w.gpu, c->tiles)),
        .routing = choice.routing,
        .n_tokens = (uint32_t)c->n,
        .outputs = zeros_on_device(c->n * c->k * c->rows * sizeof(float)),
        .arrived = zeros_on_device(n_tiles * sizeof(uint32_t)),
        .x = on_device(x, c->n * c->rows * sizeof *x),
        .weight = on_device(weight, c->rows * sizeof *weight),
        .columns = empty_columns(c->n, c->rows, c->n_parts, c->rows % 16 == 0),
        .squares = {.sums = zeros_on_device(n_tiles * TP_FEW * sizeof(float)),
                    .n_sums = (uint32_t)n_tiles,
                    .size = (uint32_t)c->rows}};
    tp_kernel_fn *kernel = variant_for(&down_variants, &w.gpu, c->n_parts, c->n, c->tiles, &groups);
    launch(kernel, &a, sizeof a, blocks_for(c, choice.n_active, TP_TILE_ROWS), TP_FEW_THREADS,
           tp_few_shared_bytes(groups, (uint32_t)c->n, (uint32_t)c->n_experts));
    const float *found = from_device(a.x, c->n * c->rows * sizeof *found);
    const float *columns = read_columns(&a.columns, c->n);
    const float *sums = from_device(a.squares.sums, n_tiles * TP_FEW * sizeof *sums);
    const uint32_t *arrived = from_device(a.arrived, n_tiles * sizeof *arrived);
    for (size_t tile = 0; tile < n_tiles; tile++)
        expect(arrived[tile] == 0, "tile %zu: the counter of arrivals stays %u", tile,
               arrived[tile]);
    for (size_t token = 0; token < c->n; token++) {
        double squares[1 + 2880 / TP_TILE_ROWS] = {0};
        for (size_t row = 0; row < c->rows; row++) {
            double expected = x[token * c->rows + row], all = fabs(expected), size;
            for (size_t i = token * c->k; i < (token + 1) * c->k; i++) {
                size_t at = choice.chosen[i] * c->rows + row;
                double y = multiply_row(&w, at, inners + i * c->columns, &size);
                expected += choice.weights[i] * (y + (a.bias != NULL ? bias[at] : 0));
                all += size + 1;
            }
            expect_near(found[token * c->rows + row], expected, all, 2e-6, "x", token, row);
            double column = expected * weight[row];
            expect_near(columns[token * c->rows + row], column,
                        fabs(column) * column_tolerance(&a.columns) + 2e-6 * all, 1, "columns",
                        token, row);
            squares[row / TP_TILE_ROWS] += expected * expected;
        }
        for (size_t tile = 0; tile < n_tiles; tile++)
            expect_near(sums[tile * TP_FEW + token], squares[tile], squares[tile] + 1, 1e-4,
                        "squares", tile, token);
    }
}

static void down_and_sum(void)
{
    static const size_t rows[] = {1, 15, 16, 17, 33}, columns[] = {32, 64, 96, 128, 288, 2880};
    size_t n = 0;
    for (size_t i = 0; i < 5; i++) {
        for (size_t j = 0; j < 6; j++) {
            n = n % TP_FEW + 1;
            check_down(&(struct mlp_case){TP_MATRIX_MXFP4, 5, 1 + j % 4, rows[i], columns[j], n,
                                          i % 2 == 0 ? 3 : 1, true, (unsigned)(i + j), NULL, 0, 0,
                                          1});
        }
    }
}

static void down_of_other_types(void)
{
    for (size_t n = 1; n <= TP_FEW; n += 2) {
        check_down(&(struct mlp_case){TP_MATRIX_BF16, 4, 2, 24, 40, n, 3, true, 3, NULL, 0, 0, 1});
        check_down(&(struct mlp_case){TP_MATRIX_BF16, 1, 1, 40, 64, n, 1, true, 2, NULL, 0, 0, 1});
        check_down(&(struct mlp_case){TP_MATRIX_F32, 1, 1, 17, 33, n, 3, true, 2, NULL, 0, 0, 1});
        check_down(
            &(struct mlp_case){TP_MATRIX_MXFP4, 8, 4, 33, 96, n, 3, false, 7, NULL, 0, 0, 1});
    }
    check_down(
        &(struct mlp_case){TP_MATRIX_MXFP4, 128, 8, 16, 32, TP_FEW, 3, true, 9, NULL, 0, 0, 1});
}

static void down_with_scales(void)
{
    check_down(&(struct mlp_case){TP_MATRIX_MXFP4, 3, 2, 17, 96, 3, 3, true, 4,
                                  (const uint8_t[]){0, 1}, 2, 0x1p125f, 1});
    check_down(&(struct mlp_case){TP_MATRIX_MXFP4, 3, 2, 17, 96, 2, 3, true, 4,
                                  (const uint8_t[]){254}, 1, 0x1p-100f, 1});
    check_down(&(struct mlp_case){TP_MATRIX_MXFP4, 3, 2, 17, 96, 3, 3, true, 4,
                                  (const uint8_t[]){130, 135}, 2, 0x1p-6f, 1});
}

static void large_experts(void)
{
    for (size_t n = 1; n <= TP_FEW; n += TP_FEW - 1) {
        struct mlp_case c = {TP_MATRIX_MXFP4,
                             LARGE_EXPERTS_TRIED,
                             LARGE_EXPERTS_PER_TOKEN,
                             LARGE_INNER,
                             LARGE_HIDDEN,
                             n,
                             3,
                             true,
                             blocks_at_once(),
                             NULL,
                             0,
                             0,
                             1};
        check_gate_up(&c);
        c.rows = LARGE_HIDDEN, c.columns = LARGE_INNER;
        check_down(&c);
    }
}

const struct kernel_test mlp_tests[] = {
    {"experts_of_every_size", experts_of_every_size, 0},
    {"experts_of_other_types", experts_of_other_types, 0},
    {"smallest_scales", smallest_scales, 0},
    {"largest_scales", largest_scales, 0},
    {"scales_that_are_not_numbers", scales_that_are_not_numbers, 0},
    {"dense_layers", dense_layers, 0},
    {"down_and_sum", down_and_sum, 0},
    {"down_of_other_types", down_of_other_types, 0},
    {"down_with_scales", down_with_scales, 0},
    {"large_experts", large_experts, IS_LARGE},
    {NULL, NULL, 0},
};
