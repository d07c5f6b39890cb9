/* Products against sums in double, and bit for bit against themselves in other company. */
#include "infer/cpu/multiply.h"

#include "infer/cpu/layers.h"
#include "tests/unit/test_infer.h"

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static float rounded_to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

/* Random numbers of moderate size, between guard pages. */
static struct tp_matrix random_matrix(enum tp_matrix_type type, size_t rows, size_t columns,
                                      uint64_t seed)
{
    struct tp_matrix w = {type, rows, columns, NULL, NULL};
    size_t bytes = tp_matrix_bytes(&w), blocks = rows * (columns / 32);
    uint8_t *values = guarded(bytes), *scales = guarded(blocks);
    for (size_t i = 0; i < rows * columns && type != TP_MATRIX_MXFP4; i++) {
        float x = random_float(&seed);
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        uint16_t bf16 = (uint16_t)(bits >> 16), f16 = (uint16_t)(next_random(&seed) & 0xbfff);
        if (type == TP_MATRIX_F32)
            memcpy(values + 4 * i, &x, 4);
        else
            memcpy(values + 2 * i, type == TP_MATRIX_BF16 ? &bf16 : &f16, 2);
    }
    for (size_t i = 0; i < bytes && type == TP_MATRIX_MXFP4; i++)
        values[i] = (uint8_t)next_random(&seed);
    for (size_t i = 0; i < blocks && type == TP_MATRIX_MXFP4; i++)
        scales[i] = (uint8_t)(118 + next_random(&seed) % 12);
    w.values = values;
    w.scales = type == TP_MATRIX_MXFP4 ? scales : NULL;
    return w;
}

/* y[n][rows] of vectors x[n][columns], in one call. */
static void multiply(struct tp_workspace *workspace, const struct tp_matrix *w, const float *bias,
                     const float *x, size_t n, enum tp_activations activations, float *y)
{
    struct tp_vectors vectors = {x, n, w->columns, w->columns, NULL, n};
    struct tp_product product = {*w, bias, 0, n, y, w->rows};
    cr_assert_eq(tp_multiply(workspace, &vectors, activations, &product, 1), 0);
}

static void check_against_double(struct tp_workspace *workspace, const struct tp_matrix *w,
                                 const float *bias, const float *x, size_t n, const float *y,
                                 enum tp_activations activations)
{
    float *row = malloc((w->columns + 1) * sizeof *row);
    for (size_t r = 0; r < w->rows; r++) {
        tp_matrix_row(w, r, row);
        for (size_t i = 0; i < n; i++) {
            double sum = 0, squares = 0;
            for (size_t c = 0; c < w->columns; c++) {
                float v = x[i * w->columns + c];
                double term =
                    (double)row[c] * (activations == TP_ACTIVATIONS_BF16 ? rounded_to_bf16(v) : v);
                sum += term;
                squares += term * term;
            }
            double expected = sum + (double)(bias != NULL ? bias[r] : 0);
            double bound =
                0x1p-23 * (sqrt((double)w->columns * squares) + fabs(sum) + fabs(expected));
            cr_assert_leq(fabs(y[i * w->rows + r] - expected), bound,
                          "%s type %d %zux%zu vector %zu of %zu row %zu: %.9g, expected %.9g",
                          workspace->kernels->name, w->type, w->rows, w->columns, i, n, r,
                          (double)y[i * w->rows + r], expected);
        }
    }
    free(row);
}

static const size_t odd_columns[] = {1, 2, 31, 32, 33, 64, 95, 100, 1024, 1056, 1100};
static const size_t odd_rows[] = {1, 3, 8, 50};
static const size_t odd_counts[] = {1, 2, 3, 4, 5, 7, 11, 16, 17, 18, 31, 65, 70, 150};

static void check_shape(struct tp_workspace *workspace, const struct tp_matrix *w)
{
    enum { MOST = 150 };
    float *x = random_floats(MOST * w->columns, 3), *bias = random_floats(w->rows, 4);
    float *y = malloc(MOST * w->rows * sizeof *y), *alone = malloc(w->rows * sizeof *y);
    for (int activations = TP_ACTIVATIONS_F32; activations <= TP_ACTIVATIONS_BF16; activations++) {
        for (size_t k = 0; k < sizeof odd_counts / sizeof odd_counts[0]; k++) {
            size_t n = odd_counts[k];
            multiply(workspace, w, bias, x, n, (enum tp_activations)activations, y);
            if (n == 3 || n == MOST)
                check_against_double(workspace, w, bias, x, n, y, (enum tp_activations)activations);
            for (size_t i = 0; i < n; i += 1 + n / 8) {
                multiply(workspace, w, bias, x + i * w->columns, 1,
                         (enum tp_activations)activations, alone);
                cr_assert_arr_eq(alone, y + i * w->rows, w->rows * sizeof *y,
                                 "%s type %d %zux%zu: vector %zu of %zu differs from itself alone",
                                 workspace->kernels->name, w->type, w->rows, w->columns, i, n);
            }
        }
    }
    free(x);
    free(bias);
    free(y);
    free(alone);
}

static void check_type(struct tp_workspace *workspace, enum tp_matrix_type type)
{
    for (size_t c = 0; c < sizeof odd_columns / sizeof odd_columns[0]; c++) {
        if (type == TP_MATRIX_MXFP4 && odd_columns[c] % 32 != 0)
            continue;
        size_t rows = odd_rows[c % 4];
        struct tp_matrix w = random_matrix(type, rows, odd_columns[c], c + 1);
        check_shape(workspace, &w);
    }
}

static void check_all_types(struct tp_workspace *workspace)
{
    for (int type = TP_MATRIX_F32; type <= TP_MATRIX_MXFP4; type++)
        check_type(workspace, (enum tp_matrix_type)type);
}

Test(infer_multiply, agrees_with_double_and_with_itself_in_any_company, .timeout = 120)
{
    for_each_workspace(check_all_types);
}

/* The bits of threads 1 and 3, and of a full-size row. */
static void check_threads(const struct tp_kernels *kernels)
{
    struct tp_workspace one, three;
    struct tp_matrix w = random_matrix(TP_MATRIX_BF16, 333, 2880, 5);
    float *x = random_floats(20 * 2880, 6), y[2][20 * 333];
    cr_assert_eq(tp_workspace_init(&one, kernels, 1, false, NULL), 0);
    cr_assert_eq(tp_workspace_init(&three, kernels, 3, true, NULL), 0);
    for (size_t n = 1; n <= 20; n += 19) {
        multiply(&one, &w, NULL, x, n, TP_ACTIVATIONS_F32, y[0]);
        multiply(&three, &w, NULL, x, n, TP_ACTIVATIONS_F32, y[1]);
        cr_assert_arr_eq(y[0], y[1], n * w.rows * sizeof y[0][0]);
    }
    tp_workspace_fini(&one);
    tp_workspace_fini(&three);
    free(x);
}

Test(infer_multiply, threads_do_not_matter, .timeout = 60)
{
    for_each_table(check_threads);
}

/* What holds the same values gives the same bits. */
static void check_types_agree(struct tp_workspace *workspace)
{
    enum { ROWS = 19, COLUMNS = 1088, N = 12 };
    struct tp_matrix w = random_matrix(TP_MATRIX_MXFP4, ROWS, COLUMNS, 7);
    float *values = malloc(ROWS * COLUMNS * sizeof *values);
    uint16_t *bf16 = malloc(ROWS * COLUMNS * sizeof *bf16);
    for (size_t r = 0; r < ROWS; r++)
        tp_matrix_row(&w, r, values + r * COLUMNS);
    for (size_t i = 0; i < ROWS * COLUMNS; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        bf16[i] = (uint16_t)(bits >> 16);
    }
    struct tp_matrix as_f32 = {TP_MATRIX_F32, ROWS, COLUMNS, values, NULL};
    struct tp_matrix as_bf16 = {TP_MATRIX_BF16, ROWS, COLUMNS, bf16, NULL};
    float *x = random_floats(N * COLUMNS, 8), y[3][N * ROWS];
    for (size_t n = 1; n <= N; n += N - 1) {
        multiply(workspace, &w, NULL, x, n, TP_ACTIVATIONS_F32, y[0]);
        multiply(workspace, &as_f32, NULL, x, n, TP_ACTIVATIONS_F32, y[1]);
        multiply(workspace, &as_bf16, NULL, x, n, TP_ACTIVATIONS_F32, y[2]);
        cr_assert_arr_eq(y[0], y[1], n * ROWS * sizeof y[0][0]);
        cr_assert_arr_eq(y[0], y[2], n * ROWS * sizeof y[0][0]);
        multiply(workspace, &w, NULL, x, n, TP_ACTIVATIONS_BF16, y[0]);
        multiply(workspace, &as_bf16, NULL, x, n, TP_ACTIVATIONS_BF16, y[2]);
        cr_assert_arr_eq(y[0], y[2], n * ROWS * sizeof y[0][0]);
    }
    free(values);
    free(bf16);
    free(x);
}

Test(infer_multiply, types_that_hold_the_same_give_the_same, .timeout = 60)
{
    for_each_workspace(check_types_agree);
}

/* All codes and scales, one at a time, times 1. */
static void check_mxfp4(const struct tp_kernels *kernels)
{
    struct tp_workspace workspace;
    uint8_t blocks[256 * 16], scales[256];
    float x[32], y[256], row[32];
    cr_assert_eq(tp_workspace_init(&workspace, kernels, 1, false, NULL), 0);
    struct tp_matrix w = {TP_MATRIX_MXFP4, 256, 32, blocks, scales};
    for (int scale = 0; scale < 256; scale++)
        scales[scale] = (uint8_t)scale;
    for (unsigned code = 0; code < 16; code++) {
        for (unsigned column = 0; column < 32; column += 13) {
            memset(blocks, 0, sizeof blocks);
            memset(x, 0, sizeof x);
            x[column] = 1;
            for (int scale = 0; scale < 256; scale++)
                blocks[scale * 16 + column / 2] = (uint8_t)(code << (column % 2 * 4));
            multiply(&workspace, &w, NULL, x, 1, TP_ACTIVATIONS_F32, y);
            for (size_t scale = 0; scale < 256; scale++) {
                tp_matrix_row(&w, scale, row);
                bool same = isnan(row[column]) ? isnan(y[scale]) : y[scale] == row[column];
                cr_assert(same, "%s code %u scale %zu: %a, expected %a", kernels->name, code, scale,
                          (double)y[scale], (double)row[column]);
            }
        }
    }
    tp_workspace_fini(&workspace);
}

Test(infer_multiply, every_mxfp4_number)
{
    for_each_table(check_mxfp4);
}

/* NaN and infinity stay in their row and their vector, in tails too. */
static void check_not_finite(struct tp_workspace *workspace)
{
    enum { ROWS = 9, COLUMNS = 67 };
    float *values = guarded(ROWS * COLUMNS * sizeof *values), y[12 * ROWS];
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        values[i] = 1;
    values[3 * COLUMNS] = NAN;
    values[5 * COLUMNS + COLUMNS - 1] = INFINITY;
    struct tp_matrix w = {TP_MATRIX_F32, ROWS, COLUMNS, values, NULL};
    float *x = random_floats(12 * COLUMNS, 9);
    for (size_t i = 0; i < 12 * COLUMNS; i++)
        x[i] = fabsf(x[i]) + 1;
    x[1 * COLUMNS + COLUMNS - 1] = NAN;
    for (size_t n = 2; n <= 12; n += 10) {
        multiply(workspace, &w, NULL, x, n, TP_ACTIVATIONS_F32, y);
        for (size_t i = 0; i < n; i++) {
            for (size_t r = 0; r < ROWS; r++) {
                float found = y[i * ROWS + r];
                cr_assert_eq(isnan(found), r == 3 || i == 1);
                cr_assert(isnan(found) || isinf(found) == (r == 5));
            }
        }
    }
    free(x);
}

Test(infer_multiply, nan_and_infinity_stay_where_they_are)
{
    for_each_workspace(check_not_finite);
}

/* Experts: each its share of a list of tokens, some none, in one call. */
static void check_groups(struct tp_workspace *workspace)
{
    enum { EXPERTS = 5, ROWS = 40, COLUMNS = 96, TOKENS = 30, LISTED = 47 };
    static const size_t counts[EXPERTS] = {3, 0, 30, 1, 13};
    struct tp_matrix all = random_matrix(TP_MATRIX_MXFP4, EXPERTS * ROWS, COLUMNS, 11);
    struct tp_matrices experts = {EXPERTS, all};
    experts.first.rows = ROWS;
    float *x = random_floats(TOKENS * COLUMNS, 12), *bias = random_floats(EXPERTS * ROWS, 13);
    float y[LISTED * ROWS], alone[ROWS];
    uint32_t tokens[LISTED];
    for (size_t i = 0; i < LISTED; i++)
        tokens[i] = (uint32_t)(i * 7 % TOKENS);
    struct tp_product products[EXPERTS];
    for (size_t e = 0, first = 0; e < EXPERTS; first += counts[e++])
        products[e] = (struct tp_product){
            tp_matrices_at(&experts, e), bias + e * ROWS, first, counts[e], y + first * ROWS, ROWS};
    struct tp_vectors vectors = {x, TOKENS, COLUMNS, COLUMNS, tokens, LISTED};
    for (int activations = TP_ACTIVATIONS_F32; activations <= TP_ACTIVATIONS_BF16; activations++) {
        cr_assert_eq(
            tp_multiply(workspace, &vectors, (enum tp_activations)activations, products, EXPERTS),
            0);
        for (size_t e = 0, i = 0; e < EXPERTS; e++) {
            for (size_t end = i + counts[e]; i < end; i++) {
                multiply(workspace, &products[e].w, products[e].bias, x + tokens[i] * COLUMNS, 1,
                         (enum tp_activations)activations, alone);
                cr_assert_arr_eq(alone, y + i * ROWS, sizeof alone);
            }
        }
    }
    free(x);
    free(bias);
}

Test(infer_multiply, experts_take_their_share)
{
    for_each_workspace(check_groups);
}

static void check_nothing(struct tp_workspace *workspace)
{
    float x[4] = {1, 2, 3, 4}, bias[2] = {5, 6}, y[8] = {0};
    struct tp_matrix no_rows = {TP_MATRIX_F32, 0, 4, x, NULL};
    struct tp_matrix no_columns = {TP_MATRIX_F32, 2, 0, x, NULL};
    multiply(workspace, &no_rows, NULL, x, 1, TP_ACTIVATIONS_F32, y);
    cr_assert_eq(y[0], 0);
    multiply(workspace, &no_columns, bias, x, 0, TP_ACTIVATIONS_F32, y);
    cr_assert_eq(y[0], 0);
    multiply(workspace, &no_columns, bias, x, 3, TP_ACTIVATIONS_F32, y);
    cr_assert(y[0] == 5 && y[1] == 6 && y[4] == 5 && y[5] == 6 && y[6] == 0);
    cr_assert_eq(tp_multiply(workspace, &(struct tp_vectors){x, 1, 4, 4, NULL, 1},
                             TP_ACTIVATIONS_F32, NULL, 0),
                 0);
}

Test(infer_multiply, nothing_is_nothing)
{
    for_each_workspace(check_nothing);
}
