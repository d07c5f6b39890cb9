/* The statistics of values: float16 losses against the codecs, every instruction set against the
 * base one, bit for bit, and the moments of inputs that naive formulae get wrong. Comparisons with
 * numpy are in tests/export/test_inspect_statistics.py. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decode/codec.h"
#include "decode/value_statistics.h"
#include "decode/value_tables.h"

static uint64_t state = 0x9E3779B97F4A7C15;

static uint32_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Random bits, half of them near the two thresholds, some of them special. */
static float random_float(void)
{
    static const uint32_t near[] = {0x477ff000, 0x33000000, 0x7f800000, 0, 0x38800000, 0x7f7fffff};
    uint32_t bits = next_random(), sign = bits & 0x80000000;
    if (next_random() % 2 == 0)
        return float_of(bits);
    return float_of(sign | ((near[bits % 6] + next_random() % 5 - 2) & 0x7fffffff));
}

static void count_by_codec(const float *values, size_t n, uint64_t *overflowed, uint64_t *zeroed)
{
    const struct tp_codecs *codecs = tp_codecs_by_name("scalar");
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        codecs->convert[TP_F32][TP_TARGET_F16](&values[i], &half, 1);
        *overflowed += isfinite(values[i]) && (half & 0x7fff) == 0x7c00;
        *zeroed += values[i] != 0 && (half & 0x7fff) == 0;
    }
}

Test(value_statistics, losses_are_what_the_codec_loses)
{
    enum { N = 5000 };
    float *values = malloc((N + 1) * sizeof *values);
    for (size_t round = 0; round < 60; round++) {
        size_t n = next_random() % N, skew = round % 4;
        char *at = (char *)values + skew;
        uint64_t expected[2] = {7, 9}, found[2] = {7, 9};
        for (size_t i = 0; i < N; i++)
            values[i] = random_float();
        float *copy = malloc((n + 1) * sizeof *copy);
        memcpy(copy, at, n * sizeof *copy);
        count_by_codec(copy, n, &expected[0], &expected[1]);
        tp_count_float16_losses(copy, n, &found[0], &found[1]);
        cr_assert_eq(found[0], expected[0], "overflow: %lu, not %lu", found[0], expected[0]);
        cr_assert_eq(found[1], expected[1], "zero: %lu, not %lu", found[1], expected[1]);
        free(copy);
    }
    free(values);
}

Test(value_statistics, statistics_count_the_same_losses)
{
    float values[3000];
    for (size_t i = 0; i < 3000; i++)
        values[i] = random_float();
    uint64_t overflowed = 0, zeroed = 0;
    struct tp_value_statistics statistics = {0};
    count_by_codec(values, 3000, &overflowed, &zeroed);
    tp_value_statistics_add(&statistics, TP_F32, values, 3000);
    cr_assert_eq(statistics.float16_overflows, overflowed);
    cr_assert_eq(statistics.float16_zeros, zeroed);
}

#if defined(__x86_64__)
static void compare_tables(const struct tp_value_kernels *table)
{
    const struct tp_value_kernels *base = &tp_value_kernels_base;
    float values[TP_VALUE_CHUNK], finite[TP_VALUE_CHUNK];
    for (size_t round = 0; round < 300; round++) {
        for (size_t i = 0; i < TP_VALUE_CHUNK; i++) {
            values[i] = random_float();
            finite[i] = isfinite(values[i]) ? values[i] : (float)i;
        }
        struct tp_value_classes a, b;
        memset(&a, 0, sizeof a);
        memset(&b, 0, sizeof b);
        double sums[4];
        uint64_t losses[4] = {0};
        base->classify(values, &a);
        table->classify(values, &b);
        cr_assert_eq(memcmp(&a, &b, sizeof a), 0);
        base->sum(finite, finite[0], &sums[0], &sums[1]);
        table->sum(finite, finite[0], &sums[2], &sums[3]);
        cr_assert_eq(memcmp(&sums[0], &sums[2], 2 * sizeof *sums), 0);
        base->count_losses(values, &losses[0], &losses[1]);
        table->count_losses(values, &losses[2], &losses[3]);
        cr_assert_eq(memcmp(&losses[0], &losses[2], 2 * sizeof *losses), 0);
    }
}

Test(value_statistics, instruction_sets_agree)
{
    if (tp_codecs_by_name("avx2") != NULL)
        compare_tables(&tp_value_kernels_avx2);
    if (tp_codecs_by_name("avx512") != NULL)
        compare_tables(&tp_value_kernels_avx512);
}
#endif

/* 1e15 and k / 8: float64 holds each value exactly, but not their sum nor any square. */
Test(value_statistics, huge_mean_and_tiny_deviation)
{
    enum { N = 100000 };
    double *values = malloc(N * sizeof *values);
    for (size_t i = 0; i < N; i++)
        values[i] = 1e15 + (double)(i % 4) / 8;
    struct tp_value_statistics all = {0}, half = {0};
    tp_value_statistics_add(&all, TP_F64, values, N);
    double exact = sqrt(5.0 / 256);
    cr_assert_eq(tp_value_statistics_mean(&all), 1e15 + 0.1875);
    cr_assert_float_eq(tp_value_statistics_deviation(&all), exact, exact * 1e-14);
    memset(&all, 0, sizeof all);
    tp_value_statistics_add(&all, TP_F64, values, N / 2);
    tp_value_statistics_add(&half, TP_F64, values + N / 2, N / 2);
    tp_value_statistics_merge(&all, &half);
    cr_assert_float_eq(tp_value_statistics_deviation(&all), exact, exact * 1e-14);
    free(values);
}

Test(value_statistics, extreme_float64)
{
    const double large[] = {1.5e308, -1.5e308, 1.5e308, 1.5e308};
    const double small[] = {4e-320, 8e-320};
    struct tp_value_statistics statistics = {0};
    tp_value_statistics_add(&statistics, TP_F64, large, 4);
    cr_assert_float_eq(tp_value_statistics_mean(&statistics), 7.5e307, 1e294);
    cr_assert_float_eq(tp_value_statistics_deviation(&statistics), 1.299038105676658e308, 1e294);
    tp_value_statistics_add(&statistics, TP_F64, small, 2);
    cr_assert_float_eq(tp_value_statistics_mean(&statistics), 5e307, 1e294);
    memset(&statistics, 0, sizeof statistics);
    tp_value_statistics_add(&statistics, TP_F64, small, 2);
    cr_assert_eq(tp_value_statistics_mean(&statistics), (4e-320 + 8e-320) / 2);
    cr_assert_float_eq(tp_value_statistics_deviation(&statistics), 2e-320, 1e-323);
    tp_value_statistics_add(&statistics, TP_F64, large, 4);
    cr_assert_float_eq(tp_value_statistics_mean(&statistics), 5e307, 1e294);
}

Test(value_statistics, integers_of_64_bits)
{
    const int64_t values[] = {INT64_MIN, INT64_MAX, 0, -1};
    const uint64_t near[] = {UINT64_MAX, UINT64_MAX - 2, UINT64_MAX - 1};
    struct tp_value_statistics statistics = {0};
    tp_value_statistics_add(&statistics, TP_I64, values, 4);
    cr_assert_eq(statistics.minimum_integer, 0);
    cr_assert_eq(statistics.maximum_integer, UINT64_MAX);
    cr_assert_eq(statistics.zeros, 1);
    cr_assert_float_eq(tp_value_statistics_mean(&statistics), -0.5, 0x1p63 * 0x1p-52);
    memset(&statistics, 0, sizeof statistics);
    tp_value_statistics_add(&statistics, TP_U64, near, 3);
    cr_assert_eq(statistics.minimum_integer, UINT64_MAX - 2);
    cr_assert_float_eq(tp_value_statistics_deviation(&statistics), sqrt(2.0 / 3), 1e-15);
}

Test(value_statistics, nothing_finite)
{
    const float values[] = {NAN, INFINITY, -INFINITY, -NAN};
    struct tp_value_statistics statistics = {0};
    tp_value_statistics_add(&statistics, TP_F32, values, 0);
    cr_assert(isnan(tp_value_statistics_mean(&statistics)));
    tp_value_statistics_add(&statistics, TP_F32, values, 4);
    cr_assert_eq(statistics.n, 4);
    cr_assert_eq(statistics.nans, 2);
    cr_assert_eq(statistics.infinities, 2);
    cr_assert_eq(statistics.float16_overflows + statistics.float16_zeros, 0);
    cr_assert(isnan(tp_value_statistics_deviation(&statistics)));
}
