/* Weights in 8 bits: what becomes of a row, against the same written plainly, and products bit for
 * bit against those of matrices that hold the same values in other types. */
#include "infer/cpu/layers.h"
#include "infer/cpu/multiply.h"
#include "infer/cpu/quantized.h"
#include "tests/unit/test_infer.h"

static const size_t odd_columns[] = {1,  2,  15, 16,  17,  31,   32,  33,
                                     63, 64, 65, 100, 992, 1100, 2880};

/* ---- a row ---- */

static float bf16_value(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
}

/* Searched for, not computed: the BF16 with the least distance; of two, the even one. */
static uint16_t nearest_bf16(double x)
{
    uint16_t below = 0, above = 0x7f7f;
    while (above - below > 1) {
        uint16_t middle = (uint16_t)((below + above) / 2);
        *((double)bf16_value(middle) <= x ? &below : &above) = middle;
    }
    double left = x - (double)bf16_value(below), right = (double)bf16_value(above) - x;
    return left < right || (left == right && below % 2 == 0) ? below : above;
}

static void plain_quantize(const float *x, size_t columns, uint8_t *row)
{
    size_t blocks = (columns + 31) / 32;
    memset(row, 0, (blocks * 34 + 63) / 64 * 64);
    for (size_t block = 0; block < blocks; block++) {
        size_t first = block * 32, end = first + 32 < columns ? first + 32 : columns;
        float largest = 0;
        for (size_t c = first; c < end; c++)
            largest = fabsf(x[c]) > largest ? fabsf(x[c]) : largest;
        uint16_t scale = nearest_bf16((double)(largest / 127));
        if ((double)bf16_value(scale) < 0x1p-126)
            continue;
        memcpy(row + blocks * 32 + block * 2, &scale, 2);
        for (size_t c = first; c < end; c++) {
            int8_t byte = (int8_t)nearbyintf(x[c] / bf16_value(scale));
            memcpy(row + first + c % 2 * 16 + (c - first) / 2, &byte, 1);
        }
    }
}

/* What a row says, plainly. */
static void plain_values(const uint8_t *row, size_t columns, float *values)
{
    size_t blocks = (columns + 31) / 32;
    for (size_t c = 0; c < columns; c++) {
        uint16_t scale;
        int8_t byte;
        memcpy(&scale, row + blocks * 32 + c / 32 * 2, 2);
        memcpy(&byte, row + c / 32 * 32 + c % 2 * 16 + c % 32 / 2, 1);
        values[c] = (float)byte * bf16_value(scale);
    }
}

static void check_row(const struct tp_kernels *kernels, const float *x, size_t columns)
{
    size_t bytes = tp_int8_row_bytes(columns);
    uint8_t *row = aligned_alloc(64, bytes), *expected = malloc(bytes);
    float *values = malloc(columns * sizeof *values);
    memset(row, 0xaa, bytes);
    cr_assert(kernels->quantize(x, columns, row));
    plain_quantize(x, columns, expected);
    cr_assert_arr_eq(row, expected, bytes, "%s, %zu columns", kernels->name, columns);
    plain_values(row, columns, values);
    for (size_t c = 0; c < columns; c++) {
        double largest = 0;
        for (size_t other = c / 32 * 32; other < c / 32 * 32 + 32 && other < columns; other++)
            largest = fmax(largest, fabs((double)x[other]));
        double error = fabs((double)values[c] - (double)x[c]);
        cr_assert_leq(error, fmax(largest / 253, 0x1p-119), "%s: %a became %a", kernels->name,
                      (double)x[c], (double)values[c]);
    }
    free(row);
    free(expected);
    free(values);
}

static void check_random_rows(const struct tp_kernels *kernels)
{
    for (size_t i = 0; i < sizeof odd_columns / sizeof odd_columns[0]; i++) {
        size_t columns = odd_columns[i];
        float *random = random_floats(columns, i + 1), *x = guarded(columns * sizeof *x);
        memcpy(x, random, columns * sizeof *x);
        check_row(kernels, x, columns);
        for (int exponent = -149; exponent <= 124; exponent += 3) {
            for (size_t c = 0; c < columns; c++)
                x[c] = ldexpf(random[c], exponent);
            check_row(kernels, x, columns);
        }
        free(random);
    }
}

Test(infer_int8, a_row_is_what_it_is_when_written_plainly, .timeout = 60)
{
    for_each_table(check_random_rows);
}

/* Ties, zeros and the ends of the range. */
static void check_extremes(const struct tp_kernels *kernels)
{
    static const float largest[] = {127,     -127,      126.75f,     FLT_MAX,       -FLT_MAX,
                                    FLT_MIN, 0x1p-149f, 0x1.fp-120f, 0x1.fc1p-120f, 0,
                                    -0.0f,   255,       0x1.ffp7f};
    float x[96];
    for (size_t i = 0; i < sizeof largest / sizeof largest[0]; i++) {
        for (size_t c = 0; c < 96; c++)
            x[c] = c / 32 == 1 ? 0 : largest[i] * (((float)c - 48) / 254);
        x[i] = largest[i];
        check_row(kernels, x, 96);
    }
}

Test(infer_int8, extremes_and_ties)
{
    for_each_table(check_extremes);
}

static void check_refusals(const struct tp_kernels *kernels)
{
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    enum { COLUMNS = 77 };
    _Alignas(64) uint8_t row[192];
    float x[COLUMNS];
    for (size_t c = 0; c < COLUMNS; c++)
        x[c] = (float)c;
    for (size_t c = 0; c < COLUMNS; c++) {
        float before = x[c];
        for (size_t i = 0; i < 4; i++) {
            x[c] = bad[i];
            cr_assert_not(kernels->quantize(x, COLUMNS, row));
        }
        x[c] = before;
        cr_assert(kernels->quantize(x, COLUMNS, row));
    }
}

Test(infer_int8, what_is_not_finite_is_refused_wherever_it_is)
{
    for_each_table(check_refusals);
}

/* ---- products ---- */

struct matrices {
    struct tp_matrix int8, same; /* of the same values, in float32 or BF16 */
};

/* `as_bf16`: the values are rounded to BF16 for the other one. Zero blocks among the others. */
static struct matrices make(const struct tp_kernels *kernels, size_t rows, size_t columns,
                            bool as_bf16)
{
    size_t row_bytes = tp_int8_row_bytes(columns);
    uint8_t *bytes = guarded(rows * row_bytes);
    float *x = random_floats(columns, rows), *values = guarded(rows * columns * sizeof *values);
    uint16_t *bf16 = guarded(rows * columns * sizeof *bf16);
    uint64_t seed = columns;
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < columns; c++)
            x[c] = (c / 32 + r) % 5 == 4 ? 0 : ldexpf(random_float(&seed), (int)(c / 32 % 7) - 9);
        cr_assert(kernels->quantize(x, columns, bytes + r * row_bytes));
        plain_values(bytes + r * row_bytes, columns, values + r * columns);
    }
    for (size_t i = 0; i < rows * columns; i++) {
        uint16_t magnitude = nearest_bf16(fabs((double)values[i]));
        bf16[i] = (uint16_t)(magnitude | (signbit(values[i]) != 0 ? 0x8000 : 0));
    }
    free(x);
    return (struct matrices){{TP_MATRIX_INT8, rows, columns, bytes, NULL},
                             {as_bf16 ? TP_MATRIX_BF16 : TP_MATRIX_F32, rows, columns,
                              as_bf16 ? bf16 : (void *)values, NULL}};
}

static void multiply(struct tp_workspace *workspace, const struct tp_matrix *w, const float *bias,
                     const float *x, size_t n, enum tp_activations activations, float *y)
{
    struct tp_vectors vectors = {x, n, w->columns, w->columns, NULL, n};
    struct tp_product product = {*w, bias, 0, n, y, w->rows};
    cr_assert_eq(tp_multiply(workspace, &vectors, activations, &product, 1), 0);
}

/* In each number of vectors: `few`, several times `few`, `many` with every rest. */
static void check_shape(struct tp_workspace *workspace, size_t rows, size_t columns,
                        enum tp_activations activations)
{
    enum { MOST = 150 };
    static const size_t counts[] = {1, 2, 3, 4, 5, 16, 17, 18, 31, 66, 67, MOST};
    bool pairs = activations == TP_ACTIVATIONS_BF16 && workspace->kernels->bf16_pairs != NULL;
    struct matrices w = make(workspace->kernels, rows, columns, pairs);
    float *x = random_floats(MOST * columns, 3), *bias = random_floats(rows, 4);
    float *found = malloc(MOST * rows * sizeof *found);
    float *expected = malloc(MOST * rows * sizeof *expected);
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        size_t n = counts[i];
        multiply(workspace, &w.int8, bias, x, n, activations, found);
        multiply(workspace, &w.same, bias, x, n, activations, expected);
        cr_assert_arr_eq(found, expected, n * rows * sizeof *found,
                         "%s, %zux%zu, %zu vectors, activations %d", workspace->kernels->name, rows,
                         columns, n, activations);
    }
    free(x);
    free(bias);
    free(found);
    free(expected);
}

static void check_products(struct tp_workspace *workspace)
{
    static const size_t odd_rows[] = {1, 3, 8, 50};
    for (size_t i = 0; i < sizeof odd_columns / sizeof odd_columns[0]; i++) {
        check_shape(workspace, odd_rows[i % 4], odd_columns[i], TP_ACTIVATIONS_F32);
        check_shape(workspace, odd_rows[i % 4], odd_columns[i], TP_ACTIVATIONS_BF16);
    }
}

Test(infer_int8, products_are_those_of_any_type_that_holds_the_same, .timeout = 120)
{
    for_each_workspace(check_products);
}

/* ---- a model ---- */

/* Two layers of odd sizes: the second one dense, the first one without what it would not have. */
struct small_model {
    struct tp_model model;
    struct tp_model_layer layers[2];
};

static struct tp_matrix f32_matrix(size_t rows, size_t columns, uint64_t seed)
{
    return (struct tp_matrix){TP_MATRIX_F32, rows, columns, random_floats(rows * columns, seed),
                              NULL};
}

static void fill_model(struct small_model *small)
{
    *small = (struct small_model){.model = {.config = {.n_layers = 2}, .layers = small->layers}};
    for (size_t i = 0; i < 2; i++) {
        small->layers[i].q = f32_matrix(40, 33, 8 * i + 1);
        small->layers[i].k = small->layers[i].v = f32_matrix(17, 33, 8 * i + 2);
        small->layers[i].o = f32_matrix(33, 40, 8 * i + 3);
    }
    small->layers[0].router = f32_matrix(4, 33, 20);
    small->layers[1].gate = small->layers[1].up = f32_matrix(50, 33, 21);
    small->layers[1].down = f32_matrix(33, 50, 22);
    small->model.embedding = small->model.head = f32_matrix(100, 33, 23);
}

static void check_matrix(const struct tp_matrix *found, const struct tp_matrix *original)
{
    uint8_t expected[128];
    size_t bytes = tp_int8_row_bytes(original->columns);
    cr_assert_eq(found->type, TP_MATRIX_INT8);
    cr_assert(found->rows == original->rows && found->columns == original->columns);
    cr_assert_eq((uintptr_t)found->values % 64, 0);
    for (size_t row = 0; row < original->rows; row++) {
        plain_quantize((const float *)original->values + row * original->columns, original->columns,
                       expected);
        cr_assert_arr_eq((const uint8_t *)found->values + row * bytes, expected, bytes);
    }
}

static void check_model(struct tp_workspace *workspace)
{
    struct small_model small;
    struct tp_quantized quantized = {.memory = NULL};
    struct tp_error error = {""};
    fill_model(&small);
    cr_assert_eq(tp_quantized_init(&quantized, &small.model, workspace, &error), 0);
    for (size_t i = 0; i < 2; i++) {
        const struct tp_model_layer *layer = &quantized.model.layers[i];
        check_matrix(&layer->q, &small.layers[i].q);
        check_matrix(&layer->k, &small.layers[i].k);
        check_matrix(&layer->v, &small.layers[i].v);
        check_matrix(&layer->o, &small.layers[i].o);
        cr_assert_eq(layer->router.values, small.layers[i].router.values);
    }
    cr_assert_null(quantized.model.layers[0].gate.values);
    check_matrix(&quantized.model.layers[1].gate, &small.layers[1].gate);
    check_matrix(&quantized.model.layers[1].up, &small.layers[1].up);
    check_matrix(&quantized.model.layers[1].down, &small.layers[1].down);
    check_matrix(&quantized.model.head, &small.model.head);
    cr_assert_eq(quantized.model.embedding.values, small.model.embedding.values);
    tp_quantized_clear(&quantized);
    cr_assert_eq(small.layers[0].q.type, TP_MATRIX_F32);
}

Test(infer_int8, of_a_model_the_dense_matrices_are_changed_and_nothing_else)
{
    for_each_workspace(check_model);
}

static void check_named(struct tp_workspace *workspace)
{
    struct small_model small;
    struct tp_error error = {""};
    fill_model(&small);
    float *down = (float *)small.layers[1].down.values, *head = (float *)small.model.head.values;
    for (int i = 0; i < 2; i++) {
        struct tp_quantized quantized = {.memory = NULL};
        *(i == 0 ? &head[100 * 33 - 1] : &down[7]) = INFINITY;
        cr_assert_eq(tp_quantized_init(&quantized, &small.model, workspace, &error), -EDOM);
        cr_assert_not_null(strstr(error.text, i == 0 ? "\"lm_head.weight\""
                                                     : "\"model.layers.1.mlp.down_proj.weight\""),
                           "%s", error.text);
        tp_quantized_clear(&quantized);
    }
}

Test(infer_int8, a_refusal_names_the_tensor)
{
    for_each_workspace(check_named);
}
