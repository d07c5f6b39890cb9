/* The scalar codecs, against two judges that share no code with them: tables made by numpy and
 * ml_dtypes (tests/kit/goldens/numbers), and the definition of rounding to nearest, which is
 * checked on each result with its two neighbours. Then the choice of the table. */
#include "decode/codec.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "tests/unit/test_codec.h"

/* An npy file of format 1.0 as this test's tables are: ten bytes, the header, the data. */
static void *load_golden(const char *name, size_t *ret_size)
{
    const char *srcdir = getenv("TP_TEST_SRCDIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/tests/kit/goldens/numbers/%s", srcdir != NULL ? srcdir : ".",
             name);
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "cannot open %s: set TP_TEST_SRCDIR", path);

    uint8_t start[10];
    cr_assert_eq(fread(start, 1, sizeof start, file), sizeof start);
    cr_assert_eq(memcmp(start, "\x93NUMPY\x01\x00", 8), 0);
    long data = (long)sizeof start + start[8] + 256L * start[9];
    cr_assert_eq(fseek(file, 0, SEEK_END), 0);
    *ret_size = (size_t)(ftell(file) - data);
    cr_assert_eq(fseek(file, data, SEEK_SET), 0);
    void *bytes = allocate(*ret_size);
    cr_assert_eq(fread(bytes, 1, *ret_size, file), *ret_size);
    fclose(file);
    return bytes;
}

/* A format as its definition describes it. */
struct format {
    int exponent_bits;
    int fraction_bits;
};

static struct format format_of(enum tp_dtype dtype)
{
    switch (dtype) {
    case TP_F8_E4M3:
        return (struct format){4, 3};
    case TP_F8_E5M2:
        return (struct format){5, 2};
    case TP_F16:
        return (struct format){5, 10};
    case TP_BF16:
        return (struct format){8, 7};
    case TP_F32:
        return (struct format){8, 23};
    default:
        cr_assert_eq(dtype, TP_F64);
        return (struct format){11, 52};
    }
}

static uint64_t sign_of(struct format format)
{
    return UINT64_C(1) << (format.exponent_bits + format.fraction_bits);
}

static uint64_t infinity_of(struct format format)
{
    return ((UINT64_C(1) << format.exponent_bits) - 1) << format.fraction_bits;
}

/* The value of `bits`, which have no sign. For the bits of infinity it is the number that would
 * come after the largest one: the point from which half of the last gap is counted. */
static double value_of(uint64_t bits, struct format format)
{
    int bias = (1 << (format.exponent_bits - 1)) - 1;
    int field = (int)(bits >> format.fraction_bits);
    double fraction =
        ldexp((double)(bits & ((UINT64_C(1) << format.fraction_bits) - 1)), -format.fraction_bits);
    return field == 0 ? ldexp(fraction, 1 - bias) : ldexp(1 + fraction, field - bias);
}

/* Whether `bits` is what `exact` rounds to. The midpoints between neighbours are exact. */
static bool is_nearest(double exact, uint64_t bits, struct format format)
{
    uint64_t magnitude = bits & ~sign_of(format);
    double size = fabs(exact);

    if (((bits & sign_of(format)) != 0) != (signbit(exact) != 0) || magnitude > infinity_of(format))
        return false;
    bool tie_wins = magnitude % 2 == 0;
    if (magnitude > 0) {
        double below = (value_of(magnitude - 1, format) + value_of(magnitude, format)) / 2;
        if (size < below || (size == below && !tie_wins))
            return false;
    }
    if (magnitude < infinity_of(format)) {
        double above = (value_of(magnitude, format) + value_of(magnitude + 1, format)) / 2;
        if (size > above || (size == above && !tie_wins))
            return false;
    }
    return true;
}

/* What the policy in codec.h says of the NaN `bits`. */
static uint64_t expected_nan(uint64_t bits, struct format from, struct format to)
{
    uint64_t fraction = bits & ((UINT64_C(1) << from.fraction_bits) - 1);
    int wider = to.fraction_bits - from.fraction_bits;
    uint64_t payload = wider >= 0 ? fraction << wider : fraction >> -wider;
    uint64_t quiet = UINT64_C(1) << (to.fraction_bits - 1);
    return (bits & sign_of(from) ? sign_of(to) : 0) | infinity_of(to) | quiet | payload;
}

static uint64_t convert_one(enum tp_dtype source, enum tp_target target, uint64_t bits)
{
    uint64_t result = 0; /* little endian, like the formats */
    tp_codecs_by_name("scalar")->convert[source][target](&bits, &result, 1);
    return result;
}

static bool is_right(enum tp_dtype source, enum tp_target target, uint64_t bits, uint64_t result)
{
    struct format from = format_of(source);
    struct format to = format_of(tp_target_dtype(target));
    uint64_t magnitude = bits & (sign_of(from) - 1);
    bool negative = (bits & sign_of(from)) != 0;
    bool only_nan = source == TP_F8_E4M3; /* no infinity, and NaN at all ones only */

    if (only_nan ? magnitude == 0x7f : magnitude > infinity_of(from)) {
        bool shift = source == TP_BF16 && target == TP_TARGET_F32;
        return result == (shift ? bits << 16 : expected_nan(bits, from, to));
    }
    if (!only_nan && magnitude == infinity_of(from))
        return result == (infinity_of(to) | (negative ? sign_of(to) : 0));
    double size = value_of(magnitude, from);
    return is_nearest(negative ? -size : size, result, to);
}

/* Converts `bits`, with either sign, to every target. */
static void check_all_targets(enum tp_dtype source, uint64_t bits)
{
    for (enum tp_target target = 0; target < TP_N_TARGETS; target++) {
        if (tp_target_dtype(target) == source)
            continue;
        for (int negative = 0; negative < 2; negative++) {
            uint64_t input = negative ? bits ^ sign_of(format_of(source)) : bits;
            uint64_t result = convert_one(source, target, input);
            cr_assert(is_right(source, target, input, result),
                      "%s 0x%" PRIx64 " to %s gave 0x%" PRIx64, tp_dtype_name(source), input,
                      tp_dtype_name(tp_target_dtype(target)), result);
        }
    }
}

Test(codec, every_small_float_rounds_to_nearest)
{
    static const enum tp_dtype sources[] = {TP_F8_E4M3, TP_F8_E5M2, TP_F16, TP_BF16};

    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        for (uint64_t bits = 0; bits < sign_of(format_of(sources[i])); bits++)
            check_all_targets(sources[i], bits);
    }
}

Test(codec, every_e8m0_rounds_to_nearest)
{
    for (enum tp_target target = 0; target < TP_N_TARGETS; target++) {
        struct format to = format_of(tp_target_dtype(target));
        for (int bits = 0; bits < 255; bits++) {
            uint64_t result = convert_one(TP_F8_E8M0, target, (uint64_t)bits);
            cr_assert(is_nearest(ldexp(1, bits - 127), result, to), "%d gave 0x%" PRIx64, bits,
                      result);
        }
        uint64_t canonical = infinity_of(to) | UINT64_C(1) << (to.fraction_bits - 1);
        cr_assert_eq(convert_one(TP_F8_E8M0, target, 255), canonical);
    }
}

static void check_double(double number)
{
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    check_all_targets(TP_F64, bits & INT64_MAX);
}

static void check_float(double number)
{
    float narrow = (float)number;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    check_all_targets(TP_F32, bits & INT32_MAX);
}

/* A number of the target, the midpoint to its successor, and the closest numbers around both:
 * next to a midpoint, rounding F64 to F32 first would make a tie of what is none. */
static void check_around(uint64_t bits, struct format to)
{
    double here = value_of(bits, to);
    double middle = (here + value_of(bits + 1, to)) / 2;
    double points[] = {here, middle};

    for (int i = 0; i < 2; i++) {
        check_double(points[i]);
        check_double(nextafter(points[i], 0));
        check_double(nextafter(points[i], INFINITY));
        check_float(points[i]);
        check_float(nextafterf((float)points[i], 0));
        check_float(nextafterf((float)points[i], INFINITY));
    }
}

Test(codec, neighbourhood_of_every_16_bit_midpoint)
{
    static const enum tp_dtype targets[] = {TP_F16, TP_BF16};

    for (int i = 0; i < 2; i++) {
        struct format to = format_of(targets[i]);
        for (uint64_t bits = 0; bits < infinity_of(to); bits++)
            check_around(bits, to);
    }
}

Test(codec, neighbourhood_of_f32_midpoints)
{
    struct format to = format_of(TP_F32);
    uint64_t state = 1;

    for (uint64_t edge = 0; edge < 100; edge++) {
        check_around(edge, to);                       /* the smallest subnormals */
        check_around(0x00800000 - 50 + edge, to);     /* around the smallest normal */
        check_around(infinity_of(to) - 1 - edge, to); /* the largest */
    }
    for (int i = 0; i < 200000; i++)
        check_around(random_bits(&state) % infinity_of(to), to);
}

Test(codec, random_bits_of_wide_floats)
{
    uint64_t state = 2;

    for (int i = 0; i < 500000; i++) {
        check_all_targets(TP_F32, random_bits(&state) & INT32_MAX);
        check_all_targets(TP_F64, random_bits(&state) & INT64_MAX);
    }
    for (int i = 0; i < 10000; i++) { /* infinity, then NaN of all kinds */
        uint64_t payload = i < 2 ? (uint64_t)i : random_bits(&state) >> (random_bits(&state) % 52);
        check_all_targets(TP_F32, infinity_of(format_of(TP_F32)) | (payload & 0x7fffff));
        check_all_targets(TP_F64, infinity_of(format_of(TP_F64)) | (payload & (UINT64_MAX >> 12)));
    }
}

Test(codec, every_mxfp4_code_and_scale)
{
    static const double values[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

    for (enum tp_target target = 0; target < TP_N_TARGETS; target++) {
        struct format to = format_of(tp_target_dtype(target));
        size_t width = tp_dtype_size(tp_target_dtype(target));
        for (int i = 0; i < 256 * 256; i++) {
            uint8_t scale = (uint8_t)(i >> 8);
            uint8_t codes[TP_MXFP4_BLOCK_BYTES];
            memset(codes, i & 255, sizeof codes);
            uint8_t decoded[TP_MXFP4_BLOCK_ELEMENTS * sizeof(float)];
            tp_codecs_by_name("scalar")->mxfp4[target](codes, &scale, decoded, 1);
            for (int element = 0; element < TP_MXFP4_BLOCK_ELEMENTS; element++) {
                int code = element % 2 == 0 ? i & 15 : i >> 4 & 15;
                double size = ldexp(values[code & 7], scale - 127);
                uint64_t result = 0;
                memcpy(&result, decoded + (size_t)element * width, width);
                if (scale == 255)
                    cr_assert_eq(result, infinity_of(to) | UINT64_C(1) << (to.fraction_bits - 1));
                else
                    cr_assert(is_nearest(code & 8 ? -size : size, result, to));
            }
        }
    }
}

/* Compares with NaN as a class: its bits are a matter of policy, and checked above. */
static void check_golden(const char *name, const void *results, size_t n, enum tp_dtype dtype)
{
    struct format format = format_of(dtype);
    size_t width = tp_dtype_size(dtype);
    size_t size;
    uint8_t *golden = load_golden(name, &size);
    cr_assert_eq(size, n * width, "%s has %zu bytes", name, size);

    for (size_t i = 0; i < n; i++) {
        uint64_t expected = 0;
        uint64_t found = 0;
        memcpy(&expected, golden + i * width, width);
        memcpy(&found, (const uint8_t *)results + i * width, width);
        bool both_nan = (expected & (sign_of(format) - 1)) > infinity_of(format) &&
                        (found & (sign_of(format) - 1)) > infinity_of(format);
        cr_assert(expected == found || both_nan, "%s[%zu]: 0x%" PRIx64 " is not 0x%" PRIx64, name,
                  i, found, expected);
    }
    free(golden);
}

static void check_conversion(enum tp_dtype source, const void *input, size_t n,
                             enum tp_target target, const char *golden)
{
    void *results = allocate(n * sizeof(float));
    tp_codecs_by_name("scalar")->convert[source][target](input, results, n);
    check_golden(golden, results, n, tp_target_dtype(target));
    free(results);
}

Test(codec, goldens_of_all_16_bit_values)
{
    static uint16_t all[65536];
    for (size_t i = 0; i < 65536; i++)
        all[i] = (uint16_t)i;

    check_conversion(TP_BF16, all, 65536, TP_TARGET_F32, "bf16_to_f32_bits.npy");
    check_conversion(TP_BF16, all, 65536, TP_TARGET_F16, "bf16_to_f16_bits.npy");
    check_conversion(TP_F16, all, 65536, TP_TARGET_F32, "f16_to_f32_bits.npy");
    check_conversion(TP_F16, all, 65536, TP_TARGET_BF16, "f16_to_bf16_bits.npy");
}

Test(codec, goldens_of_hard_f32_values)
{
    size_t size;
    void *hard = load_golden("hard_f32_bits.npy", &size);

    check_conversion(TP_F32, hard, size / 4, TP_TARGET_F16, "hard_f16_bits.npy");
    check_conversion(TP_F32, hard, size / 4, TP_TARGET_BF16, "hard_bf16_bits.npy");
    free(hard);
}

static void check_mxfp4(const char *blocks_name, const char *scales_name, enum tp_target target,
                        const char *golden)
{
    size_t blocks_size;
    size_t n_blocks;
    uint8_t *blocks = load_golden(blocks_name, &blocks_size);
    uint8_t *scales = load_golden(scales_name, &n_blocks);
    cr_assert_eq(blocks_size, n_blocks * TP_MXFP4_BLOCK_BYTES);
    size_t n = n_blocks * TP_MXFP4_BLOCK_ELEMENTS;
    void *results = allocate(n * sizeof(float));
    tp_codecs_by_name("scalar")->mxfp4[target](blocks, scales, results, n_blocks);
    check_golden(golden, results, n, tp_target_dtype(target));
    free(results);
    free(scales);
    free(blocks);
}

Test(codec, goldens_of_mxfp4)
{
    const char *blocks = "mxfp4_blocks.npy";
    const char *scales = "mxfp4_scales.npy";

    check_mxfp4(blocks, scales, TP_TARGET_F32, "mxfp4_f32.npy");
    check_mxfp4(blocks, scales, TP_TARGET_F16, "mxfp4_f16_bits.npy");
    check_mxfp4(blocks, scales, TP_TARGET_BF16, "mxfp4_bf16_bits.npy");
    check_mxfp4("layout_blocks.npy", "layout_scales.npy", TP_TARGET_F32, "layout_native_f32.npy");
}

Test(codec, tables_have_every_conversion_of_floats)
{
    for (const char *const *name = tp_codecs_names(); *name != NULL; name++) {
        const struct tp_codecs *codecs = tp_codecs_by_name(*name);
        if (codecs == NULL)
            continue;
        cr_expect_str_eq(codecs->name, *name);
        for (enum tp_target target = 0; target < TP_N_TARGETS; target++) {
            cr_expect_not_null(codecs->mxfp4[target]);
            for (enum tp_dtype source = 0; source < TP_N_DTYPES; source++) {
                bool wanted = tp_dtype_is_float(source) && source != tp_target_dtype(target);
                cr_expect_eq(codecs->convert[source][target] != NULL, wanted, "%s from %s", *name,
                             tp_dtype_name(source));
            }
        }
    }
}

static const struct tp_codecs *best(void)
{
    const char *const *name = tp_codecs_names();
    while (tp_codecs_by_name(*name) == NULL)
        name++;
    return tp_codecs_by_name(*name);
}

Test(codec, the_best_table_is_the_default)
{
    unsetenv("TENSORPORT_ISA");
    cr_expect_eq(tp_codecs(), best());
    setenv("TENSORPORT_ISA", "scalar", 1);
    cr_expect_eq(tp_codecs(), best(), "the choice is made once");
}

Test(codec, the_environment_names_a_table)
{
    setenv("TENSORPORT_ISA", "scalar", 1);
    cr_expect_str_eq(tp_codecs()->name, "scalar");
}

Test(codec, an_unknown_name_falls_back_to_the_best_table)
{
    cr_expect_null(tp_codecs_by_name("sse9"));
    setenv("TENSORPORT_ISA", "sse9", 1);
    cr_expect_eq(tp_codecs(), best());
}
