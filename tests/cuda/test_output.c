/* The output projection, the residual stream, and the router. */
#include <math.h>
#include <string.h>

#include "tests/cuda/kernel_reference.h"

static const struct variants output_variants = {tp_few_output_bf16_1, tp_few_output_bf16_3,
                                                tp_few_output_any, NULL, NULL};

struct output_case {
    enum tp_matrix_type type;
    size_t rows, columns, n, n_experts, k; /* no experts: a dense model */
    uint32_t n_parts;
    bool tiles;
    unsigned blocks;
    void (*change)(struct weights *router, float *bias); /* the router, or NULL */
};

/* The experts that anybody chose, ascending, and where. */
static void check_active(const struct tp_routing *routing, const uint32_t *chosen, size_t n)
{
    size_t k = routing->n_per_token, n_active = 0;
    const uint32_t *found_n = from_device(routing->n_active, sizeof *found_n);
    const uint32_t *active = from_device(routing->active, TP_FEW * k * sizeof *active);
    const uint16_t *slots = from_device(routing->slots, TP_FEW * k * TP_FEW * sizeof *slots);
    for (uint32_t expert = 0; expert < routing->n_experts; expert++) {
        uint16_t expected[TP_FEW];
        memset(expected, 0xff, sizeof expected);
        bool is_chosen = false;
        for (size_t i = 0; i < n * k; i++) {
            if (chosen[i] == expert)
                expected[i / k] = (uint16_t)(i % k), is_chosen = true;
        }
        if (!is_chosen)
            continue;
        expect(active[n_active] == expert, "active expert %zu: found %u, expected %u", n_active,
               active[n_active], expert);
        for (size_t token = 0; token < TP_FEW; token++)
            expect(slots[n_active * TP_FEW + token] == expected[token],
                   "slot of token %zu at expert %u: found %u", token, expert,
                   slots[n_active * TP_FEW + token]);
        n_active++;
    }
    expect(*found_n == n_active, "found %u active experts, expected %zu", *found_n, n_active);
}

static void check_router(const struct output_case *c, const struct tp_few_output *a,
                         const struct weights *router, const float *bias, const float *normed,
                         const float *x)
{
    const float *logits = from_device(a->router_logits, TP_FEW * c->n_experts * sizeof *logits);
    const uint32_t *chosen = from_device(a->routing.chosen, c->n * c->k * sizeof *chosen);
    const float *weights = from_device(a->routing.weights, c->n * c->k * sizeof *weights);
    const float *scales = from_device(a->routing.scales, TP_FEW * sizeof *scales);
    for (size_t token = 0; token < c->n; token++) {
        double squares = 0, size;
        for (size_t i = 0; i < c->rows; i++)
            squares += (double)x[token * c->rows + i] * x[token * c->rows + i];
        double scale = 1 / sqrt(squares / (double)c->rows + a->squares.epsilon);
        expect_near(scales[token], scale, scale, 2e-6, "scale", token, 0);
        for (size_t expert = 0; expert < c->n_experts; expert++) {
            double logit = multiply_row(router, expert, normed + token * c->rows, &size) * scale;
            expect_near(logits[token * c->n_experts + expert], logit + bias[expert],
                        size * scale + 1, 4e-6, "logit", token, expert);
        }
        expect_choice(logits + token * c->n_experts, c->n_experts, c->k, chosen + token * c->k,
                      weights + token * c->k, token);
    }
    check_active(&a->routing, chosen, c->n);
}

static void check_dense_routing(const struct output_case *c, const struct tp_routing *routing)
{
    const uint32_t *chosen = from_device(routing->chosen, c->n * sizeof *chosen);
    const float *weights = from_device(routing->weights, c->n * sizeof *weights);
    for (size_t token = 0; token < c->n; token++)
        expect(chosen[token] == 0 && weights[token] == 1, "token %zu: expert %u with weight %g",
               token, chosen[token], weights[token]);
    check_active(routing, chosen, c->n);
}

static void check_output(const struct output_case *c)
{
    uint32_t groups;
    size_t n_tiles = (c->rows + TP_TILE_ROWS - 1) / TP_TILE_ROWS,
           n_experts = c->n_experts > 0 ? c->n_experts : 1;
    struct weights w = make_weights(c->type, 1, c->rows, c->columns, NULL, 0);
    struct weights router = make_weights(c->n_experts % 2 == 0 ? TP_MATRIX_BF16 : TP_MATRIX_F32, 1,
                                         n_experts, c->rows, NULL, 0);
    float *mixed = random_floats(c->n * c->columns), *bias = random_floats(c->rows),
          *weight = random_floats(c->rows);
    float *x = random_floats(c->n * c->rows), *router_bias = random_floats(n_experts);
    float *normed = on_host(c->n * c->rows, sizeof *x);
    if (c->change != NULL)
        c->change(&router, router_bias);
    struct tp_few_output a = {
        .o = w.gpu,
        .bias = c->n % 3 == 0 ? NULL : on_device(bias, c->rows * sizeof *bias),
        .mixed = make_columns(mixed, c->n, c->columns, c->n_parts, false),
        .n_tokens = (uint32_t)c->n,
        .x = on_device(x, c->n * c->rows * sizeof *x),
        .weight = on_device(weight, c->rows * sizeof *weight),
        .columns = empty_columns(c->n, c->rows, c->n_parts, c->rows % 32 == 0),
        .squares = {.sums = zeros_on_device(n_tiles * TP_FEW * sizeof(float)),
                    .n_sums = (uint32_t)n_tiles,
                    .size = (uint32_t)c->rows,
                    .epsilon = 0.0625f},
        .router_sums = zeros_on_device(n_tiles * TP_FEW * n_experts * sizeof(float)),
        .router_logits = zeros_on_device(TP_FEW * n_experts * sizeof(float)),
        .routing = empty_routing(n_experts, c->k),
        .arrived = zeros_on_device(sizeof(uint32_t))};
    if (c->n_experts > 0) {
        a.router = router.gpu;
        a.router_bias = on_device(router_bias, n_experts * sizeof *router_bias);
    }
    tp_kernel_fn *kernel =
        variant_for(&output_variants, &w.gpu, c->n_parts, c->n, c->tiles, &groups);
    launch(kernel, &a, sizeof a, c->blocks < n_tiles ? c->blocks : (unsigned)n_tiles,
           TP_FEW_THREADS, tp_few_shared_bytes(groups, (uint32_t)c->n, (uint32_t)n_experts));
    const float *found = from_device(a.x, c->n * c->rows * sizeof *found),
                *columns = read_columns(&a.columns, c->n);
    const uint32_t *arrived = from_device(a.arrived, sizeof *arrived);
    expect(*arrived == 0, "the counter of arrivals stays %u", *arrived);
    for (size_t i = 0; i < c->n * c->rows; i++) {
        double size, y = multiply_row(&w, i % c->rows, mixed + i / c->rows * c->columns, &size);
        double expected = x[i] + y + (a.bias != NULL ? bias[i % c->rows] : 0),
               column = expected * weight[i % c->rows];
        expect_near(found[i], expected, size + 2, 2e-6, "x", i / c->rows, i % c->rows);
        expect_near(columns[i], column,
                    fabs(column) * column_tolerance(&a.columns) + 4e-6 * (size + 2), 1, "columns",
                    i / c->rows, i % c->rows);
        normed[i] = found[i] * weight[i % c->rows];
    }
    if (c->n_experts > 0)
        check_router(c, &a, &router, router_bias, normed, found);
    else
        check_dense_routing(c, &a.routing);
}

/* ---- the projection ---- */

static void output_at_edges(void)
{
    static const size_t rows[] = {1, 15, 16, 17, 33}, columns[] = {8, 24, 32, 96, 128, 2880};
    size_t n = 0;
    for (size_t i = 0; i < 5; i++) {
        for (size_t j = 0; j < 6; j++) {
            n = n % TP_FEW + 1;
            check_output(&(struct output_case){
                TP_MATRIX_BF16, rows[i], columns[j], n, j % 2 == 0 ? 0 : 3 + i, j % 2 == 0 ? 1 : 2,
                j % 3 == 0 ? 1 : 3, true, 1 + (unsigned)j % 3, NULL});
        }
    }
}

static void output_of_any_type(void)
{
    static const enum tp_matrix_type types[] = {TP_MATRIX_BF16, TP_MATRIX_F16, TP_MATRIX_F32};
    for (size_t i = 0; i < 3; i++)
        check_output(&(struct output_case){types[i], 40 + i, 19, 1 + 3 * i, 2 * i, 1 + i, 3, false,
                                           3, NULL});
}

/* ---- the router ---- */

static void experts_of_all_numbers(void)
{
    static const size_t n_experts[] = {1, 2, 31, 32, 33, 64, 128}, k[] = {1, 2, 4, 32, 5, 8, 4};
    for (size_t i = 0; i < 7; i++) {
        for (size_t n = 1; n <= TP_FEW; n += 7 - i)
            check_output(&(struct output_case){TP_MATRIX_BF16, 48, 32, n, n_experts[i], k[i], 3,
                                               true, 3, NULL});
    }
}

static void refill(struct weights *router)
{
    uint32_t rows = router->gpu.rows, columns = router->gpu.columns;
    router->gpu.type = TP_MATRIX_F32;
    router->gpu.values = on_device(router->values, (size_t)rows * columns * sizeof(float));
}

/* Logits are their biases alone. */
static void clear(struct weights *router)
{
    memset(router->values, 0, (size_t)router->gpu.rows * router->gpu.columns * sizeof(float));
    refill(router);
}

static void make_all_equal(struct weights *router, float *bias)
{
    clear(router);
    for (size_t i = 0; i < router->gpu.rows; i++)
        bias[i] = -2.5f;
}

static void make_ties(struct weights *router, float *bias)
{
    clear(router);
    for (size_t i = 0; i < router->gpu.rows; i++)
        bias[i] = (float)(i * 7 % 5);
}

static void make_some_nan(struct weights *router, float *bias)
{
    clear(router);
    for (size_t i = 0; i < router->gpu.rows; i++)
        bias[i] = i % 3 != 1 ? NAN : (float)(i % 2) - 3;
}

static void make_all_nan(struct weights *router, float *bias)
{
    clear(router);
    for (size_t i = 0; i < router->gpu.rows; i++)
        bias[i] = NAN;
}

static void make_extremes(struct weights *router, float *bias)
{
    clear(router);
    for (size_t i = 0; i < router->gpu.rows; i++)
        bias[i] = i % 4 == 0 ? -INFINITY : i % 4 == 1 ? -3e38f : i % 4 == 2 ? -0.0f : 0.0f;
}

static void make_large(struct weights *router, float *bias)
{
    clear(router);
    for (size_t i = 0; i < router->gpu.rows; i++)
        bias[i] = 200 + (float)(i * 5 % 7);
}

static void ties_and_what_is_no_number(void)
{
    void (*const changes[])(struct weights *, float *) = {make_all_equal, make_ties,  make_some_nan,
                                                          make_extremes,  make_large, make_all_nan};
    static const size_t n_experts[] = {4, 33, 64, 128, 20, 5};
    for (size_t i = 0; i < 6; i++) {
        check_output(&(struct output_case){TP_MATRIX_BF16, 32, 32, 1 + i, n_experts[i], 4, 3, true,
                                           2, changes[i]});
        check_output(&(struct output_case){TP_MATRIX_BF16, 16, 32, 2, 40 - i, 40 - i, 3, true, 2,
                                           changes[i]});
    }
}

static void large_output(void)
{
    for (size_t n = 1; n <= TP_FEW; n += TP_FEW - 1)
        check_output(&(struct output_case){TP_MATRIX_BF16, LARGE_HIDDEN, LARGE_QUERY, n,
                                           LARGE_EXPERTS, LARGE_EXPERTS_PER_TOKEN, 3, true,
                                           blocks_at_once(), NULL});
}

const struct kernel_test output_tests[] = {
    {"output_at_edges", output_at_edges, 0},
    {"output_of_any_type", output_of_any_type, 0},
    {"experts_of_all_numbers", experts_of_all_numbers, 0},
    {"ties_and_what_is_no_number", ties_and_what_is_no_number, 0},
    {"large_output", large_output, IS_LARGE},
    {NULL, NULL, 0},
};
