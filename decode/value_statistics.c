#include "decode/value_statistics.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "decode/codec.h"
#include "decode/value_tables.h"

static const struct tp_value_kernels *kernels(void)
{
#if defined(__x86_64__)
    const char *isa = tp_codecs()->name;
    if (strcmp(isa, "avx512") == 0)
        return &tp_value_kernels_avx512;
    if (strcmp(isa, "avx2") == 0)
        return &tp_value_kernels_avx2;
#endif
    return &tp_value_kernels_base;
}

/* ---- moments ---- */

/* The exact sum of two doubles as one double and what that leaves (Knuth's TwoSum). */
static double two_sum(double a, double b, double *ret_low)
{
    double sum = a + b, b_part = sum - a;
    *ret_low = (a - (sum - b_part)) + (b - b_part);
    return sum;
}

/* Of `n` values whose distances from `shift` add up to `sum`, and their squares to `squares`. The
 * shift is one of the values, or their least: so the squares exceed those of the distances from the
 * mean at most n times, and of their digits the subtraction costs at most as many as n has. */
static struct tp_value_moments moments_of(uint64_t n, double shift, double shift_low, double sum,
                                          double squares)
{
    struct tp_value_moments moments = {.n = n};
    double mean = sum / (double)n, low;
    moments.mean = two_sum(shift, mean, &low);
    moments.mean = two_sum(moments.mean, low + shift_low, &moments.mean_low);
    moments.squares = fmax(0, squares - sum * mean);
    return moments;
}

static void rescale(struct tp_value_moments *moments, int scale)
{
    int by = moments->scale - scale;
    moments->mean = ldexp(moments->mean, by);
    moments->mean_low = ldexp(moments->mean_low, by);
    moments->squares = ldexp(moments->squares, 2 * by);
    moments->scale = scale;
}

static bool is_nothing(const struct tp_value_moments *moments)
{
    return moments->mean == 0 && moments->squares == 0;
}

/* Brings both to one scale: the greater, unless nothing but zeros has it. */
static void align(struct tp_value_moments *a, struct tp_value_moments *b)
{
    if (a->scale == b->scale)
        return;
    bool take_a = is_nothing(b) || (!is_nothing(a) && a->scale > b->scale);
    if (take_a)
        rescale(b, a->scale);
    else
        rescale(a, b->scale);
}

static void merge_moments(struct tp_value_moments *into, const struct tp_value_moments *next)
{
    if (next->n == 0)
        return;
    if (into->n == 0) {
        *into = *next;
        return;
    }
    struct tp_value_moments other = *next;
    align(into, &other);
    double n = (double)(into->n + other.n), share = (double)other.n / n, low, rest;
    double distance = (other.mean - into->mean) + (other.mean_low - into->mean_low);
    into->squares += other.squares + distance * distance * ((double)into->n * share);
    into->mean = two_sum(into->mean, distance * share, &low);
    into->mean = two_sum(into->mean, low + into->mean_low, &rest);
    into->mean_low = rest;
    into->n += other.n;
}

double tp_value_statistics_mean(const struct tp_value_statistics *statistics)
{
    const struct tp_value_moments *moments = &statistics->moments;
    return moments->n == 0 ? NAN : ldexp(moments->mean + moments->mean_low, moments->scale);
}

double tp_value_statistics_deviation(const struct tp_value_statistics *statistics)
{
    const struct tp_value_moments *moments = &statistics->moments;
    return moments->n == 0 ? NAN
                           : ldexp(sqrt(moments->squares / (double)moments->n), moments->scale);
}

/* ---- merging ---- */

void tp_value_statistics_merge(struct tp_value_statistics *statistics,
                               const struct tp_value_statistics *next)
{
    statistics->n += next->n;
    statistics->zeros += next->zeros;
    statistics->nans += next->nans;
    statistics->infinities += next->infinities;
    statistics->float16_overflows += next->float16_overflows;
    statistics->float16_zeros += next->float16_zeros;
    if (next->moments.n == 0)
        return;
    bool first = statistics->moments.n == 0;
    if (first || next->minimum < statistics->minimum)
        statistics->minimum = next->minimum;
    if (first || next->maximum > statistics->maximum)
        statistics->maximum = next->maximum;
    if (first || next->minimum_integer < statistics->minimum_integer)
        statistics->minimum_integer = next->minimum_integer;
    if (first || next->maximum_integer > statistics->maximum_integer)
        statistics->maximum_integer = next->maximum_integer;
    merge_moments(&statistics->moments, &next->moments);
}

/* ---- float32 ---- */

/* The number with that key; zero is positive. */
static double number_of_key(int32_t key)
{
    uint32_t bits = (uint32_t)(key ^ ((key >> 31) & INT32_MAX));
    float number;
    memcpy(&number, &bits, sizeof number);
    return (double)number + 0.0;
}

static void add_chunk(struct tp_value_statistics *statistics, const struct tp_value_kernels *table,
                      const float values[TP_VALUE_CHUNK], size_t n_padding, float *room)
{
    struct tp_value_classes classes;
    table->classify(values, &classes);
    classes.nans -= n_padding;
    struct tp_value_statistics chunk = {
        .n = TP_VALUE_CHUNK - n_padding,
        .zeros = classes.zeros,
        .nans = classes.nans,
        .infinities = classes.infinities,
        .float16_overflows = classes.float16_overflows,
        .float16_zeros = classes.float16_zeros,
    };
    uint64_t n = chunk.n - chunk.nans - chunk.infinities;
    if (n > 0) {
        size_t first = 0;
        while (!isfinite(values[first]))
            first++;
        const float shift = values[first];
        const float *finite = values;
        if (n < TP_VALUE_CHUNK) {
            for (size_t i = 0; i < TP_VALUE_CHUNK; i++)
                room[i] = isfinite(values[i]) ? values[i] : shift;
            finite = room;
        }
        double sum, squares;
        table->sum(finite, shift, &sum, &squares);
        chunk.minimum = number_of_key(classes.least);
        chunk.maximum = number_of_key(classes.greatest);
        chunk.moments = moments_of(n, shift, 0, sum, squares);
    }
    tp_value_statistics_merge(statistics, &chunk);
}

static void add_float32(struct tp_value_statistics *statistics, const uint8_t *bytes, size_t n)
{
    const struct tp_value_kernels *table = kernels();
    float chunk[TP_VALUE_CHUNK], room[TP_VALUE_CHUNK];
    for (size_t at = 0; at < n; at += TP_VALUE_CHUNK) {
        size_t now = n - at < TP_VALUE_CHUNK ? n - at : TP_VALUE_CHUNK;
        memcpy(chunk, bytes + at * sizeof *chunk, now * sizeof *chunk);
        for (size_t i = now; i < TP_VALUE_CHUNK; i++)
            chunk[i] = NAN;
        add_chunk(statistics, table, chunk, TP_VALUE_CHUNK - now, room);
    }
}

/* Nothing converts complex numbers to float16, so nothing is lost. */
static void add_complex(struct tp_value_statistics *statistics, const uint8_t *bytes, size_t n)
{
    const uint64_t overflows = statistics->float16_overflows, zeros = statistics->float16_zeros;
    add_float32(statistics, bytes, 2 * n);
    statistics->float16_overflows = overflows;
    statistics->float16_zeros = zeros;
}

void tp_count_float16_losses(const float *values, size_t n, uint64_t *overflowed,
                             uint64_t *became_zero)
{
    const struct tp_value_kernels *table = kernels();
    size_t whole = n / TP_VALUE_CHUNK * TP_VALUE_CHUNK;
    for (size_t at = 0; at < whole; at += TP_VALUE_CHUNK)
        table->count_losses(values + at, overflowed, became_zero);
    if (whole == n)
        return;
    float rest[TP_VALUE_CHUNK] = {0};
    memcpy(rest, values + whole, (n - whole) * sizeof *rest);
    table->count_losses(rest, overflowed, became_zero);
}

/* ---- float64 ---- */

/* Squares of numbers between 2^-SAFE and 2^SAFE can be added. */
enum { SAFE_EXPONENT = 400, LEAST_SCALE = -1000 };

/* The scale for numbers up to `magnitude`, 0 wherever possible. */
static int scale_for(double magnitude)
{
    int exponent = magnitude > 0 ? ilogb(magnitude) : 0;
    if (exponent >= -SAFE_EXPONENT && exponent <= SAFE_EXPONENT)
        return 0;
    return exponent < LEAST_SCALE ? LEAST_SCALE : exponent;
}

static void classify_float64(struct tp_value_statistics *chunk, double value)
{
    double magnitude = fabs(value);
    if (isnan(value) || isinf(value)) {
        chunk->nans += isnan(value) != 0;
        chunk->infinities += isinf(value) != 0;
        return;
    }
    chunk->zeros += magnitude == 0;
    chunk->float16_overflows += magnitude >= 65520;
    chunk->float16_zeros += magnitude != 0 && magnitude <= 0x1p-25;
    if (chunk->moments.n++ == 0)
        chunk->minimum = chunk->maximum = value;
    chunk->minimum = value < chunk->minimum ? value : chunk->minimum;
    chunk->maximum = value > chunk->maximum ? value : chunk->maximum;
}

static void add_float64_chunk(struct tp_value_statistics *statistics, const double *values,
                              size_t n)
{
    struct tp_value_statistics chunk = {.n = n};
    double shift = 0, sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        classify_float64(&chunk, values[i]);
    int scale = scale_for(fmax(fabs(chunk.minimum), fabs(chunk.maximum)));
    double factor = ldexp(1, -scale);
    for (size_t i = 0, found = 0; i < n; i++) {
        if (!isfinite(values[i]))
            continue;
        shift = found++ == 0 ? values[i] * factor : shift;
        double distance = values[i] * factor - shift;
        sum += distance;
        squares += distance * distance;
    }
    if (chunk.moments.n > 0)
        chunk.moments = moments_of(chunk.moments.n, shift, 0, sum, squares);
    chunk.moments.scale = scale;
    chunk.minimum += 0.0; /* zero is positive */
    chunk.maximum += 0.0;
    tp_value_statistics_merge(statistics, &chunk);
}

static void add_float64(struct tp_value_statistics *statistics, const uint8_t *bytes, size_t n)
{
    double chunk[TP_VALUE_CHUNK];
    for (size_t at = 0; at < n; at += TP_VALUE_CHUNK) {
        size_t now = n - at < TP_VALUE_CHUNK ? n - at : TP_VALUE_CHUNK;
        memcpy(chunk, bytes + at * sizeof *chunk, now * sizeof *chunk);
        add_float64_chunk(statistics, chunk, now);
    }
}

/* ---- integers ---- */

#define SIGN_BIT (UINT64_C(1) << 63)

static bool is_signed(enum tp_dtype dtype)
{
    return dtype == TP_I8 || dtype == TP_I16 || dtype == TP_I32 || dtype == TP_I64;
}

/* An integer as an unsigned one that orders as it does. */
static uint64_t load_ordered(const uint8_t *bytes, size_t width, bool with_sign)
{
    uint64_t value = 0;
    memcpy(&value, bytes, width); /* little-endian, like everything here */
    if (!with_sign)
        return value;
    unsigned int unused = 64 - 8 * (unsigned int)width;
    return (uint64_t)((int64_t)(value << unused) >> unused) ^ SIGN_BIT;
}

/* The number as two doubles, which hold it exactly. */
static double split_ordered(uint64_t ordered, bool with_sign, double *ret_low)
{
    double high = (double)(ordered >> 32) * 0x1p32, low = (double)(uint32_t)ordered;
    return two_sum(with_sign ? high - 0x1p63 : high, low, ret_low);
}

static void add_integer_chunk(struct tp_value_statistics *statistics, const uint64_t *values,
                              size_t n, uint64_t zero)
{
    struct tp_value_statistics chunk = {.n = n};
    uint64_t least = values[0], greatest = values[0];
    for (size_t i = 0; i < n; i++) {
        chunk.zeros += values[i] == zero;
        least = values[i] < least ? values[i] : least;
        greatest = values[i] > greatest ? values[i] : greatest;
    }
    double sum = 0, squares = 0, low;
    uint64_t shift = values[0];
    for (size_t i = 0; i < n; i++) {
        double distance =
            values[i] >= shift ? (double)(values[i] - shift) : -(double)(shift - values[i]);
        sum += distance;
        squares += distance * distance;
    }
    double high = split_ordered(shift, zero != 0, &low);
    chunk.moments = moments_of(n, high, low, sum, squares);
    chunk.minimum_integer = least;
    chunk.maximum_integer = greatest;
    chunk.minimum = split_ordered(least, zero != 0, &low);
    chunk.maximum = split_ordered(greatest, zero != 0, &low);
    tp_value_statistics_merge(statistics, &chunk);
}

static void add_integers(struct tp_value_statistics *statistics, enum tp_dtype dtype,
                         const uint8_t *bytes, size_t n)
{
    uint64_t chunk[TP_VALUE_CHUNK];
    const size_t width = tp_dtype_size(dtype);
    const bool with_sign = is_signed(dtype);
    for (size_t at = 0; at < n; at += TP_VALUE_CHUNK) {
        size_t now = n - at < TP_VALUE_CHUNK ? n - at : TP_VALUE_CHUNK;
        for (size_t i = 0; i < now; i++)
            chunk[i] = load_ordered(bytes + (at + i) * width, width, with_sign);
        add_integer_chunk(statistics, chunk, now, with_sign ? SIGN_BIT : 0);
    }
}

void tp_value_statistics_add(struct tp_value_statistics *statistics, enum tp_dtype dtype,
                             const void *values, size_t n)
{
    if (dtype == TP_F32)
        add_float32(statistics, values, n);
    else if (dtype == TP_C64)
        add_complex(statistics, values, n);
    else if (dtype == TP_F64)
        add_float64(statistics, values, n);
    else
        add_integers(statistics, dtype, values, n);
}
