/* What stands between the products of a step of many tokens: norms, the router, slots. */
#include <math.h>
#include <string.h>

#include "tests/cuda/kernel_reference.h"

enum { SHARED_BYTES = TP_ROW_THREADS / 32 * sizeof(float) };

/* ---- norms ---- */

struct norm_case {
    size_t n, size, n_experts, k; /* no experts: nothing is added */
    size_t n_rows;                /* 0: all tokens */
    uint32_t n_parts;
    bool shuffled;
};

/* x of a token with its experts' outputs. */
static double expected_sum(const struct norm_case *c, const struct sorted *sorted, const float *x,
                           const float *outputs, size_t token, size_t i)
{
    double sum = x[token * c->size + i];
    for (size_t j = token * c->k; c->n_experts > 0 && j < (token + 1) * c->k; j++)
        sum += (double)sorted->weights[j] * outputs[sorted->of_token[j] * c->size + i];
    return sum;
}

static void check_norm(const struct norm_case *c)
{
    size_t n_results = c->n_rows > 0 ? c->n_rows : c->n, k = c->n_experts > 0 ? c->k : 1;
    struct sorted sorted = sort_tokens(c->n, c->n_experts > 0 ? c->n_experts : 1, k, NULL);
    float *x = random_floats(c->n * c->size), *outputs = random_floats(c->n * k * c->size);
    float *weight = random_floats(c->size);
    uint32_t *rows = on_host(n_results, sizeof *rows);
    for (size_t i = 0; i < n_results; i++)
        rows[i] = (uint32_t)(c->n_rows > 0 ? (i * 3 + 2) % c->n : i);
    struct tp_many_norm a = {
        .x = on_device(x, c->n * c->size * sizeof *x),
        .outputs =
            c->n_experts > 0 ? on_device(outputs, c->n * k * c->size * sizeof *outputs) : NULL,
        .slots = sorted.slots,
        .rows = c->n_rows > 0 ? on_device(rows, n_results * sizeof *rows) : NULL,
        .weight = on_device(weight, c->size * sizeof *weight),
        .columns = empty_columns(n_results, c->size, c->n_parts, c->shuffled),
        .squares = {.sums = zeros_on_device(n_results * sizeof(float)),
                    .n_sums = 1,
                    .size = (uint32_t)c->size}};
    launch(tp_many_norm, &a, sizeof a, (unsigned)n_results, TP_ROW_THREADS, SHARED_BYTES);
    const float *found = from_device(a.x, c->n * c->size * sizeof *found);
    const float *columns = read_columns(&a.columns, n_results);
    const float *sums = from_device(a.squares.sums, n_results * sizeof *sums);
    for (size_t i = 0; i < n_results; i++) {
        double squares = 0, tolerance = column_tolerance(&a.columns);
        for (size_t j = 0; j < c->size; j++) {
            double expected = expected_sum(c, &sorted, x, outputs, rows[i], j);
            double column = expected * weight[j];
            expect_near(found[rows[i] * c->size + j], expected, 1 + (double)k,
                        c->n_experts > 0 ? 4e-7 : 0, "x", rows[i], j);
            expect_near(columns[i * c->size + j], column,
                        fabs(column) * tolerance + 4e-7 * (1 + (double)k), 1, "columns", i, j);
            squares += expected * expected;
        }
        expect_near(sums[i], squares, squares + 1, 2e-6, "sum of squares", i, 0);
    }
}

static void norms(void)
{
    static const size_t sizes[] = {1, 8, 100, 255, 256, 257, 2880};
    for (size_t i = 0; i < 7; i++) {
        check_norm(&(struct norm_case){1 + i, sizes[i], 0, 0, 0, i % 2 == 0 ? 3 : 1, false});
        check_norm(&(struct norm_case){9 - i, sizes[i], 1 + i, 1, 0, i % 2 == 0 ? 1 : 3, false});
    }
}

static void norms_add_outputs(void)
{
    static const size_t n_experts[] = {1, 2, 5, 32}, k[] = {1, 2, 3, 4};
    for (size_t i = 0; i < 4; i++) {
        check_norm(&(struct norm_case){65, 96, n_experts[i], k[i], 0, 3, true});
        check_norm(&(struct norm_case){9, 264, n_experts[i], k[i], 0, 1, i % 2 == 0});
    }
}

/* Of the tokens whose logits are wanted: in any order, and one twice. */
static void norms_of_some_rows(void)
{
    check_norm(&(struct norm_case){70, 64, 0, 0, 1, 3, false});
    check_norm(&(struct norm_case){70, 64, 0, 0, TP_FEW, 3, false});
    check_norm(&(struct norm_case){5, 300, 0, 0, 7, 1, false});
}

/* ---- the router ---- */

struct route_case {
    enum tp_matrix_type type;
    size_t n, size, n_experts, k;
    const float *biases; /* [4], repeated; NULL: none */
};

static void check_route(const struct route_case *c)
{
    struct weights w = make_weights(c->type, 1, c->n_experts, c->size, NULL, 0);
    struct sorted sorted = sort_tokens(c->n, c->n_experts, c->k, NULL);
    float *x = random_floats(c->n * c->size), *weight = random_floats(c->size);
    float *normed = on_host(c->n * c->size, sizeof *normed);
    float *bias = on_host(c->n_experts, sizeof *bias);
    double *scales = on_host(c->n, sizeof *scales), size;
    for (size_t i = 0; i < c->n * c->size; i++)
        normed[i] = x[i] * weight[i % c->size];
    for (size_t i = 0; i < c->n_experts && c->biases != NULL; i++)
        bias[i] = c->biases[i % 4];
    struct tp_many_route a = {
        .x = on_device(x, c->n * c->size * sizeof *x),
        .weight = on_device(weight, c->size * sizeof *weight),
        .squares = make_token_squares(x, c->n, c->size, scales),
        .router = w.gpu,
        .bias = c->biases != NULL ? on_device(bias, c->n_experts * sizeof *bias) : NULL,
        .logits = zeros_on_device(c->n * c->n_experts * sizeof(float)),
        .slots = sorted.slots};
    a.slots.chosen = zeros_on_device(c->n * c->k * sizeof(uint32_t));
    a.slots.weights = zeros_on_device(c->n * c->k * sizeof(float));
    launch(tp_many_route, &a, sizeof a, (unsigned)c->n, TP_ROW_THREADS, c->size * sizeof(float));
    const float *logits = from_device(a.logits, c->n * c->n_experts * sizeof *logits);
    const uint32_t *chosen = from_device(a.slots.chosen, c->n * c->k * sizeof *chosen);
    const float *weights = from_device(a.slots.weights, c->n * c->k * sizeof *weights);
    for (size_t token = 0; token < c->n; token++) {
        for (size_t expert = 0; expert < c->n_experts; expert++) {
            double logit = multiply_row(&w, expert, normed + token * c->size, &size);
            expect_near(logits[token * c->n_experts + expert], logit * scales[token] + bias[expert],
                        size * scales[token] + 1, 2e-6, "logit", token, expert);
        }
        expect_choice(logits + token * c->n_experts, c->n_experts, c->k, chosen + token * c->k,
                      weights + token * c->k, token);
    }
}

static void routes(void)
{
    static const enum tp_matrix_type types[] = {TP_MATRIX_BF16, TP_MATRIX_F32, TP_MATRIX_F16};
    static const size_t n_experts[] = {1, 2, 7, 8, 9, 31, 32, 33, 128},
                        k[] = {1, 2, 3, 4, 9, 5, 32, 4, 8},
                        sizes[] = {1, 31, 32, 33, 100, 255, 256, 257, 288};
    static const float biases[] = {0.5f, -1, 0.25f, 2};
    for (size_t i = 0; i < 9; i++) {
        check_route(&(struct route_case){types[i % 3], 1 + 8 * i, sizes[i], n_experts[i], k[i],
                                         i % 2 == 0 ? biases : NULL});
    }
}

/* Equal logits, by infinities; and what is no number comes last. */
static void routes_with_ties(void)
{
    static const float ties[] = {INFINITY, 0, INFINITY, -INFINITY}, nans[] = {NAN, 1, NAN, NAN};
    check_route(&(struct route_case){TP_MATRIX_BF16, 9, 32, 40, 1, ties});
    check_route(&(struct route_case){TP_MATRIX_BF16, 9, 32, 40, 12, nans});
    check_route(&(struct route_case){TP_MATRIX_F32, 3, 40, 33, 33, nans});
}

/* ---- slots ---- */

static void expect_same(const uint32_t *device, const uint32_t *expected, size_t n,
                        const char *what)
{
    const uint32_t *found = from_device(device, n * sizeof *found);
    for (size_t i = 0; i < n; i++)
        expect(found[i] == expected[i], "%s [%zu]: found %u, expected %u", what, i, found[i],
               expected[i]);
}

static void check_sort(size_t n, size_t n_experts, size_t k, const uint32_t *counts, bool is_dense)
{
    struct sorted sorted = sort_tokens(n, n_experts, k, counts);
    struct tp_many_sort a = {.slots = sorted.slots, .n_tokens = (uint32_t)n, .is_dense = is_dense};
    a.slots.first = zeros_on_device((n_experts + 1) * sizeof(uint32_t));
    a.slots.tokens = zeros_on_device(n * k * sizeof(uint32_t));
    a.slots.of_token = zeros_on_device(n * k * sizeof(uint32_t));
    if (is_dense)
        a.slots.chosen = on_device(sorted.of_token, n * sizeof(uint32_t)); /* anything */
    launch(tp_many_sort, &a, sizeof a, 1, TP_SORT_THREADS, n_experts * sizeof(uint32_t));
    expect_same(a.slots.first, sorted.first, n_experts + 1, "first slot");
    expect_same(a.slots.tokens, sorted.tokens, n * k, "token of slot");
    expect_same(a.slots.of_token, sorted.of_token, n * k, "slot of choice");
    expect_same(a.slots.chosen, sorted.chosen, n * k, "choice");
    const float *weights = from_device(a.slots.weights, n * k * sizeof *weights);
    for (size_t i = 0; i < n * k; i++)
        expect(weights[i] == (is_dense ? 1 : sorted.weights[i]), "weight [%zu]: %g", i, weights[i]);
}

static void slots_of_experts(void)
{
    static const size_t n[] = {1, 8, 9, 31, 32, 33, 64, 129, 300},
                        n_experts[] = {4, 1, 2, 31, 32, 33, 64, 128, 37},
                        k[] = {4, 1, 2, 3, 4, 5, 4, 8, 7};
    for (size_t i = 0; i < 9; i++)
        check_sort(n[i], n_experts[i], k[i], NULL, false);
}

static void slots_of_one_expert(void)
{
    check_sort(129, 3, 1, (const uint32_t[]){0, 129, 0}, false);
    check_sort(64, 3, 1, (const uint32_t[]){0, 0, 64}, false);
    check_sort(64, 40, 1, (const uint32_t[40]){[0] = 64}, false);
    check_sort(385, 5, 1, (const uint32_t[]){127, 1, 128, 0, 129}, false);
}

static void slots_of_dense_layers(void)
{
    static const size_t n[] = {1, 63, 64, 65, 1023, 1024, 1025};
    for (size_t i = 0; i < 7; i++)
        check_sort(n[i], 1, 1, NULL, true);
}

static void large_rows(void)
{
    check_norm(&(struct norm_case){1000, LARGE_HIDDEN, LARGE_EXPERTS, LARGE_EXPERTS_PER_TOKEN, 0, 3,
                                   true});
    check_route(&(struct route_case){TP_MATRIX_BF16, 1000, LARGE_HIDDEN, LARGE_EXPERTS,
                                     LARGE_EXPERTS_PER_TOKEN, NULL});
    check_sort(2048, LARGE_EXPERTS, LARGE_EXPERTS_PER_TOKEN, NULL, false);
}

const struct kernel_test many_row_tests[] = {
    {"norms", norms, 0},
    {"norms_add_outputs", norms_add_outputs, 0},
    {"norms_of_some_rows", norms_of_some_rows, 0},
    {"routes", routes, 0},
    {"routes_with_ties", routes_with_ties, 0},
    {"slots_of_experts", slots_of_experts, 0},
    {"slots_of_one_expert", slots_of_one_expert, 0},
    {"slots_of_dense_layers", slots_of_dense_layers, 0},
    {"large_rows", large_rows, IS_LARGE},
    {NULL, NULL, 0},
};
