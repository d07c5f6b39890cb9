/* The operations between the products, against double. */
#include "infer/cpu/layers.h"

#include "tests/unit/test_infer.h"

static double ulps(float found, double expected)
{
    double unit = fmax(ldexp(1, ilogb(expected) - 23), 0x1p-149);
    return fabs((double)found - expected) / unit;
}

static void check_exponentials(const struct tp_kernels *kernels)
{
    enum { N = 4001 };
    float x[N], y[N], alone;
    double worst = 0;
    for (int span = 0; span < 3; span++) {
        double width = span == 0 ? 2 : span == 1 ? 40 : 103;
        for (int i = 0; i < N; i++)
            x[i] = (float)(width * (2.0 * i / (N - 1) - 1));
        kernels->exponentials(x, N, y);
        for (int i = 0; i < N; i++) {
            double expected = exp((double)x[i]);
            if (expected < FLT_MAX)
                worst = fmax(worst, ulps(y[i], expected));
            kernels->exponentials(x + i, 1, &alone);
            cr_assert_eq(memcmp(&alone, &y[i], sizeof alone), 0, "position matters");
        }
    }
    cr_assert_lt(worst, 1.5, "%s: exp is off by %.2f ulp", kernels->name, worst);
    float edges[] = {0, -0.0f, INFINITY, -INFINITY, 1000, -1000, 88.9f};
    float expected[] = {1, 1, INFINITY, 0, INFINITY, 0, INFINITY};
    kernels->exponentials(edges, 7, y);
    cr_assert_arr_eq(y, expected, sizeof expected);
    kernels->exponentials((float[]){NAN}, 1, y);
    cr_assert(isnan(y[0]));
}

Test(infer_layers, exponentials_are_right_to_an_ulp)
{
    for_each_table(check_exponentials);
}

static void check_rms_norm(struct tp_workspace *workspace)
{
    static const size_t sizes[] = {1, 7, 16, 63, 2880};
    for (size_t k = 0; k < 5; k++) {
        size_t n = sizes[k], rows = 13;
        float *x = random_floats(rows * n, 1), *weight = random_floats(n, 2);
        float *y = malloc(rows * n * sizeof *y);
        tp_rms_norm_rows(workspace, x, weight, rows, n, 1e-5f, y);
        for (size_t i = 0; i < rows; i++) {
            double squares = 0;
            for (size_t c = 0; c < n; c++)
                squares += (double)x[i * n + c] * x[i * n + c];
            for (size_t c = 0; c < n; c++) {
                double expected = x[i * n + c] / sqrt(squares / (double)n + 1e-5) * weight[c];
                cr_assert_float_eq(y[i * n + c], expected, 4e-6 * (fabs(expected) + 1e-3));
            }
        }
        free(x);
        free(weight);
        free(y);
    }
}

Test(infer_layers, rms_norm)
{
    for_each_workspace(check_rms_norm);
}

static void check_rotate(struct tp_workspace *workspace)
{
    static const size_t sizes[] = {2, 6, 64, 80, 128};
    for (size_t k = 0; k < 5; k++) {
        size_t size = sizes[k], half = size / 2, n = 5, heads = 3, stride = heads * size + 1;
        float *x = random_floats(n * stride, 1), *before = malloc(n * stride * sizeof *before);
        float *angles = random_floats(n * half, 3), *c = malloc(n * half * sizeof *c),
              *s = malloc(n * half * sizeof *s);
        memcpy(before, x, n * stride * sizeof *before);
        for (size_t i = 0; i < n * half; i++) {
            c[i] = cosf(angles[i]);
            s[i] = sinf(angles[i]);
        }
        tp_rotate_rows(workspace, x, n, stride, heads, size, c, s);
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < heads * half; j++) {
                size_t at = i * stride + j / half * size + j % half, t = i * half + j % half;
                double a = before[at], b = before[at + half];
                cr_assert_float_eq(x[at], a * c[t] - b * s[t], 1e-6);
                cr_assert_float_eq(x[at + half], b * c[t] + a * s[t], 1e-6);
            }
            cr_assert_eq(x[i * stride + heads * size], before[i * stride + heads * size]);
        }
        free(x);
        free(before);
        free(angles);
        free(c);
        free(s);
    }
}

Test(infer_layers, rotate)
{
    for_each_workspace(check_rotate);
}

static double swiglu(double gate, double up, double alpha, double limit)
{
    gate = fmin(gate, limit);
    up = fmax(fmin(up, limit), -limit);
    return (up + 1) * gate / (1 + exp(-alpha * gate));
}

static void check_swiglu(struct tp_workspace *workspace)
{
    static const size_t sizes[] = {1, 5, 16, 31, 2880};
    for (size_t k = 0; k < 5; k++) {
        size_t size = sizes[k], n = 12;
        float *pairs = random_floats(2 * n * size, 1), *y = malloc(n * size * sizeof *y);
        for (size_t i = 0; i < 2 * n * size; i++)
            pairs[i] *= 6; /* beyond the limit on both sides */
        tp_swiglu_rows(workspace, pairs, n, size, 1.702f, 7, y);
        for (size_t i = 0; i < n * size; i++) {
            double expected = swiglu(pairs[2 * i], pairs[2 * i + 1], (double)1.702f, 7);
            cr_assert_float_eq(y[i], expected, 2e-6 * fabs(expected) + 1e-37);
        }
        tp_silu_product_rows(workspace, pairs, pairs + n * size, n, size, y);
        for (size_t i = 0; i < n * size; i++) {
            double g = pairs[i], expected = g / (1 + exp(-g)) * pairs[n * size + i];
            cr_assert_float_eq(y[i], expected, 2e-6 * fabs(expected) + 1e-37);
        }
        free(pairs);
        free(y);
    }
    float pair[2] = {NAN, 1}, y;
    workspace->kernels->swiglu(pair, 1, 1.702f, 7, &y);
    cr_assert(isnan(y));
    pair[0] = 1, pair[1] = NAN;
    workspace->kernels->swiglu(pair, 1, 1.702f, 7, &y);
    cr_assert(isnan(y));
    pair[0] = -INFINITY, pair[1] = 1;
    workspace->kernels->swiglu((float[]){-1000, 1}, 1, 1.702f, 7, &y);
    cr_assert_eq(y, 0);
}

Test(infer_layers, swiglu_and_silu)
{
    for_each_workspace(check_swiglu);
}

static void check_sums(struct tp_workspace *workspace)
{
    enum { N = 21, K = 3, COLUMNS = 2001 };
    float *sum = random_floats(N * COLUMNS, 1), *x = random_floats(N * K * COLUMNS, 2);
    float *weights = random_floats(N * K, 3), *before = malloc(N * COLUMNS * sizeof *before);
    uint32_t slots[N * K];
    for (uint32_t i = 0; i < N * K; i++)
        slots[i] = i * 5 % (N * K);
    memcpy(before, sum, N * COLUMNS * sizeof *before);
    tp_add_weighted_rows(workspace, sum, x, slots, weights, N, K, COLUMNS);
    for (size_t i = 0; i < N * COLUMNS; i++) {
        double expected = before[i];
        for (size_t j = i / COLUMNS * K; j < (i / COLUMNS + 1) * K; j++)
            expected += (double)weights[j] * x[slots[j] * COLUMNS + i % COLUMNS];
        cr_assert_float_eq(sum[i], expected, 4e-6);
    }
    memcpy(sum, before, N * COLUMNS * sizeof *before);
    tp_add_rows(workspace, sum, x, N, COLUMNS);
    for (size_t i = 0; i < N * COLUMNS; i++)
        cr_assert_eq(sum[i], before[i] + x[i]);
    free(sum);
    free(x);
    free(weights);
    free(before);
}

Test(infer_layers, sums)
{
    for_each_workspace(check_sums);
}

static void check_top_k(const struct tp_kernels *kernels)
{
    float logits[] = {1, 5, -2, 5, 3, NAN, 5}, weights[7];
    uint32_t indices[7];
    tp_top_k(kernels, logits, 7, 4, indices, weights);
    cr_assert_arr_eq(indices, ((uint32_t[]){1, 3, 6, 4}), 4 * sizeof *indices);
    double total = 3 + exp(-2.0);
    cr_assert_float_eq(weights[0], 1 / total, 1e-7);
    cr_assert_float_eq(weights[3], exp(-2.0) / total, 1e-7);
    tp_top_k(kernels, logits, 7, 7, indices, weights);
    cr_assert_arr_eq(indices, ((uint32_t[]){1, 3, 6, 4, 0, 2, 5}), 7 * sizeof *indices);
    tp_top_k(kernels, (float[]){NAN, NAN}, 2, 2, indices, weights);
    cr_assert(indices[0] == 0 && indices[1] == 1);
    tp_top_k(kernels, logits, 1, 1, indices, weights);
    cr_assert(indices[0] == 0 && weights[0] == 1);

    float *many = random_floats(300, 5);
    many[37] = many[211] = 9;
    cr_assert_eq(kernels->argmax(many, 300), 37);
    many[299] = 10;
    cr_assert_eq(kernels->argmax(many, 300), 299);
    many[299] = NAN;
    cr_assert_eq(kernels->argmax(many, 300), 37);
    cr_assert_eq(kernels->argmax((float[]){NAN}, 1), 0);
    cr_assert_eq(kernels->argmax((float[]){-INFINITY, -INFINITY}, 2), 0);
    kernels->softmax(many, 299, many);
    double sum = 0;
    for (int i = 0; i < 299; i++)
        sum += many[i];
    cr_assert_float_eq(sum, 1, 1e-5);
    free(many);
}

Test(infer_layers, top_k_argmax_and_softmax)
{
    for_each_table(check_top_k);
}
