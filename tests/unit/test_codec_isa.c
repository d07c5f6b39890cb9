/* Every table of codecs against the scalar one, bit for bit: on all inputs of 8 and 16 bits,
 * on a dense choice of F32 and F64, on all codes and scales of MXFP4; at every length and
 * alignment, between pages that cannot be touched; and in unusual floating-point modes. */
#include "decode/codec.h"

#include <inttypes.h>

#include "tests/unit/test_codec.h"

enum { CANARY = 0xa5 };

/* Calls `check` with every table that this machine can run. */
static void for_each_table(void (*check)(const struct tp_codecs *codecs))
{
    for (const char *const *name = tp_codecs_names(); *name != NULL; name++) {
        const struct tp_codecs *codecs = tp_codecs_by_name(*name);
        if (codecs != NULL)
            check(codecs);
    }
}

/* A machine without AVX-512 passes all of this without having tried it: say so. */
Test(codec_isa, which_tables_are_tested)
{
    int tested = 0;
    int all = 0;

    for (const char *const *name = tp_codecs_names(); *name != NULL; name++, all++) {
        if (tp_codecs_by_name(*name) != NULL)
            tested++;
        else
            cr_log_warn("this machine cannot run the codecs called %s: NOT TESTED", *name);
    }
    cr_log_info("%d of %d tables of codecs tested", tested, all);
    cr_assert_geq(tested, 1);
}

static const struct tp_codecs *scalar(void)
{
    return tp_codecs_by_name("scalar");
}

static void compare(const struct tp_codecs *codecs, const char *what, const uint8_t *found,
                    const uint8_t *expected, size_t n, size_t width)
{
    if (memcmp(found, expected, n * width) == 0)
        return;
    for (size_t i = 0; i < n; i++) {
        uint32_t is = 0;
        uint32_t should_be = 0;
        memcpy(&is, found + i * width, width);
        memcpy(&should_be, expected + i * width, width);
        cr_assert(is == should_be, "%s, %s, element %zu: 0x%" PRIx32 ", scalar gives 0x%" PRIx32,
                  codecs->name, what, i, is, should_be);
    }
}

/* Converts `n` elements to every target, in every mode. */
static void compare_conversions(const struct tp_codecs *codecs, enum tp_dtype source,
                                const void *input, size_t n)
{
    uint8_t *expected = allocate(n * sizeof(float));
    uint8_t *found = allocate(n * sizeof(float));

    for (enum tp_target target = 0; target < TP_N_TARGETS; target++) {
        if (codecs->convert[source][target] == NULL)
            continue;
        size_t width = tp_dtype_size(tp_target_dtype(target));
        scalar()->convert[source][target](input, expected, n);
        codecs->convert[source][target](input, found, n);
        compare(codecs, tp_dtype_name(source), found, expected, n, width);
        for (int i = 0; i < N_FLOAT_MODES; i++) {
            memset(found, CANARY, n * width);
            unsigned int before = enter_float_mode(float_modes[i]);
            codecs->convert[source][target](input, found, n);
            leave_float_mode(before);
            compare(codecs, "unusual mode", found, expected, n, width);
        }
    }
    free(found);
    free(expected);
}

/* All values over and over, each time one place later, so that each is in every lane: halves
 * of a register need not come from one instruction. */
static void compare_all_small(const struct tp_codecs *codecs)
{
    enum { N_BYTES = 256 * 16, N_WORDS = 65536 * 16 };
    static uint8_t bytes[N_BYTES];
    static uint16_t words[N_WORDS];

    for (size_t i = 0; i < N_BYTES; i++)
        bytes[i] = (uint8_t)(i + i / 256);
    for (size_t i = 0; i < N_WORDS; i++)
        words[i] = (uint16_t)(i + i / 65536);
    compare_conversions(codecs, TP_F8_E4M3, bytes, N_BYTES);
    compare_conversions(codecs, TP_F8_E5M2, bytes, N_BYTES);
    compare_conversions(codecs, TP_F8_E8M0, bytes, N_BYTES);
    compare_conversions(codecs, TP_F16, words, N_WORDS);
    compare_conversions(codecs, TP_BF16, words, N_WORDS);
}

Test(codec_isa, every_8_and_16_bit_value)
{
    for_each_table(compare_all_small);
}

/* Every upper half, with the lower halves at and around the ties of both 16-bit types. */
static void compare_f32(const struct tp_codecs *codecs)
{
    static const uint16_t lower[] = {0x0000, 0x0001, 0x0fff, 0x1000, 0x1001, 0x1fff,
                                     0x2000, 0x2fff, 0x3000, 0x3001, 0x5000, 0x7000,
                                     0x7fff, 0x8000, 0x8001, 0x9000, 0xf000, 0xffff};
    enum { N_LOWER = sizeof lower / sizeof lower[0], N_RANDOM = 6, N_EACH = N_LOWER + N_RANDOM };
    uint64_t state = 3;
    uint32_t *input = allocate(65536 * N_EACH * sizeof *input);

    for (uint32_t i = 0; i < 65536 * N_EACH; i++) {
        uint32_t which = i % N_EACH;
        uint32_t low = which < N_LOWER ? lower[which] : (uint32_t)random_bits(&state) & 0xffff;
        input[i] = i / N_EACH << 16 | low;
    }
    compare_conversions(codecs, TP_F32, input, 65536 * N_EACH);
    free(input);
}

Test(codec_isa, f32)
{
    for_each_table(compare_f32);
}

/* Bits at and around the ties of the targets, whose last bits are 29, 42 and 45. */
static uint64_t f64_fraction(uint64_t *state)
{
    static const int last_bits[] = {29, 42, 45};
    uint64_t choice = random_bits(state);
    uint64_t bits = random_bits(state);
    uint64_t tie = UINT64_C(1) << (last_bits[choice % 3] - 1);

    if (choice >> 8 & 1)
        bits = (bits & ~(2 * tie - 1)) | tie;
    bits += (choice >> 9) % 3 - 1;
    return bits & (UINT64_MAX >> 12);
}

/* Runs of seven numbers with an ordinary exponent and one with any, so that groups are taken
 * by the quick path and by the other. */
static void compare_f64(const struct tp_codecs *codecs)
{
    enum { N = 1 << 20 };
    uint64_t state = 4;
    uint64_t *input = allocate(N * sizeof *input);

    for (size_t i = 0; i < N; i++) {
        uint64_t field = 1023 - 14 + random_bits(&state) % 30;
        uint64_t wide_field = 1023 - 127 + random_bits(&state) % 256;
        uint64_t fraction = random_bits(&state) % 64 == 0 ? 0 : f64_fraction(&state);
        if (i % 64 == 7)
            field = random_bits(&state) % 2048;
        else if (i % 64 > 32)
            field = wide_field;
        else if (i % 16 == 3)
            field = fraction = 0;
        input[i] = random_bits(&state) << 63 | field << 52 | fraction;
    }
    compare_conversions(codecs, TP_F64, input, N);
    for (uint64_t i = 0; i < N; i++) /* every sign and exponent with the largest fractions */
        input[i] = i << 52 | (UINT64_MAX >> 12 >> (i >> 12) % 53);
    compare_conversions(codecs, TP_F64, input, N);
    free(input);
}

Test(codec_isa, f64)
{
    for_each_table(compare_f64);
}

/* The edges of each target's quick path, every one in every lane among ordinary numbers. */
static void compare_f64_edges(const struct tp_codecs *codecs)
{
    static const int exponents[] = {-1022, -150, -149, -127, -126, -25, -24, -15, -14,
                                    14,    15,   16,   126,  127,  128, 129, 1023};
    static const double fractions[] = {1.0, 1.0 + 0x1p-52, 1.5, 2.0 - 0x1p-52};
    enum { N_EXPONENTS = sizeof exponents / sizeof exponents[0], LANES = 16 };

    for (int i = 0; i < N_EXPONENTS * 4 * LANES; i++) {
        double input[LANES];
        for (int lane = 0; lane < LANES; lane++)
            input[lane] = 0.25 + lane;
        input[i % LANES] = __builtin_ldexp(fractions[i / LANES % 4], exponents[i / LANES / 4]);
        compare_conversions(codecs, TP_F64, input, LANES);
    }
}

Test(codec_isa, f64_edges_in_every_lane)
{
    for_each_table(compare_f64_edges);
}

/* Every byte of codes in every place of a block under every scale. */
static void compare_mxfp4(const struct tp_codecs *codecs)
{
    enum { N_BLOCKS = 256 * 256 };
    uint8_t *blocks = allocate(N_BLOCKS * TP_MXFP4_BLOCK_BYTES);
    uint8_t *scales = allocate(N_BLOCKS);
    uint8_t *expected = allocate(N_BLOCKS * TP_MXFP4_BLOCK_ELEMENTS * sizeof(float));
    uint8_t *found = allocate(N_BLOCKS * TP_MXFP4_BLOCK_ELEMENTS * sizeof(float));

    for (size_t i = 0; i < N_BLOCKS; i++) {
        scales[i] = (uint8_t)(i * 37); /* common and rare scales side by side */
        for (size_t j = 0; j < TP_MXFP4_BLOCK_BYTES; j++)
            blocks[i * TP_MXFP4_BLOCK_BYTES + j] = (uint8_t)(i / 256 + j);
    }
    for (enum tp_target target = 0; target < TP_N_TARGETS; target++) {
        size_t width = tp_dtype_size(tp_target_dtype(target));
        size_t n = N_BLOCKS * TP_MXFP4_BLOCK_ELEMENTS;
        scalar()->mxfp4[target](blocks, scales, expected, N_BLOCKS);
        codecs->mxfp4[target](blocks, scales, found, N_BLOCKS);
        compare(codecs, "MXFP4", found, expected, n, width);
        for (int i = 0; i < N_FLOAT_MODES; i++) {
            memset(found, CANARY, n * width);
            unsigned int before = enter_float_mode(float_modes[i]);
            codecs->mxfp4[target](blocks, scales, found, N_BLOCKS);
            leave_float_mode(before);
            compare(codecs, "MXFP4 in an unusual mode", found, expected, n, width);
        }
    }
    free(found);
    free(expected);
    free(scales);
    free(blocks);
}

Test(codec_isa, every_mxfp4_code_and_scale)
{
    for_each_table(compare_mxfp4);
}

enum { MAX_LENGTH = 130, MAX_BLOCKS = 20 };

/* Source and target at both ends of their fences and away from them, so that each touch of a
 * byte too many is a crash, or a canary lost. */
static void convert_fenced(const struct tp_codecs *codecs, enum tp_dtype source,
                           enum tp_target target, const uint8_t *input)
{
    static const size_t gaps[] = {0, 1, 2, 3, 5};
    size_t source_width = tp_dtype_size(source);
    size_t width = tp_dtype_size(tp_target_dtype(target));
    struct fence source_fence = make_fence(MAX_LENGTH * source_width + 8);
    struct fence target_fence = make_fence(MAX_LENGTH * width + 8);
    uint8_t expected[MAX_LENGTH * sizeof(float)];

    scalar()->convert[source][target](input, expected, MAX_LENGTH);
    for (size_t i = 0; i < (MAX_LENGTH + 1) * 2 * 5; i++) {
        size_t n = i / 10;
        bool at_end = i % 2;
        size_t gap = gaps[i / 2 % 5];
        uint8_t *from = place(source_fence, at_end, gap == 0 ? 0 : 5 - gap, n * source_width);
        uint8_t *to = place(target_fence, at_end, gap, n * width);
        memcpy(from, input, n * source_width);
        memset(target_fence.start, CANARY, (size_t)(target_fence.end - target_fence.start));
        codecs->convert[source][target](from, to, n);
        compare(codecs, tp_dtype_name(source), to, expected, n, width);
        cr_assert(untouched_around(target_fence, to, n * width, CANARY),
                  "%s from %s, %zu elements: wrote outside", codecs->name, tp_dtype_name(source),
                  n);
    }
    drop_fence(source_fence);
    drop_fence(target_fence);
}

static void convert_all_fenced(const struct tp_codecs *codecs)
{
    uint8_t input[MAX_LENGTH * sizeof(double)];
    uint64_t state = 5;

    fill_random(input, sizeof input, &state);
    for (enum tp_dtype source = 0; source < TP_N_DTYPES; source++) {
        if (source == TP_F64) { /* ordinary numbers: random ones would avoid the quick path */
            for (size_t i = 0; i < MAX_LENGTH; i++) {
                double number = (double)random_bits(&state) * 0x1p-60 - 8;
                memcpy(input + i * sizeof number, &number, sizeof number);
            }
        }
        for (enum tp_target target = 0; target < TP_N_TARGETS; target++) {
            if (codecs->convert[source][target] != NULL)
                convert_fenced(codecs, source, target, input);
        }
    }
}

Test(codec_isa, every_length_between_guard_pages)
{
    for_each_table(convert_all_fenced);
}

static void decode_fenced(const struct tp_codecs *codecs, enum tp_target target)
{
    size_t size = TP_MXFP4_BLOCK_ELEMENTS * tp_dtype_size(tp_target_dtype(target));
    struct fence block_fence = make_fence(MAX_BLOCKS * TP_MXFP4_BLOCK_BYTES + 8);
    struct fence scale_fence = make_fence(MAX_BLOCKS + 8);
    struct fence target_fence = make_fence(MAX_BLOCKS * size + 8);
    uint8_t expected[MAX_BLOCKS * TP_MXFP4_BLOCK_ELEMENTS * sizeof(float)];
    uint64_t state = 6;

    for (size_t i = 0; i < (MAX_BLOCKS + 1) * 2 * 4; i++) {
        size_t n = i / 8;
        bool at_end = i % 2;
        size_t gap = i / 2 % 4;
        uint8_t *blocks = place(block_fence, at_end, 3 - gap, n * TP_MXFP4_BLOCK_BYTES);
        uint8_t *scales = place(scale_fence, at_end, gap / 2, n);
        uint8_t *to = place(target_fence, at_end, gap, n * size);
        fill_random(blocks, n * TP_MXFP4_BLOCK_BYTES, &state);
        fill_random(scales, n, &state);
        memset(target_fence.start, CANARY, (size_t)(target_fence.end - target_fence.start));
        scalar()->mxfp4[target](blocks, scales, expected, n);
        codecs->mxfp4[target](blocks, scales, to, n);
        compare(codecs, "MXFP4", to, expected, n * size, 1);
        cr_assert(untouched_around(target_fence, to, n * size, CANARY),
                  "%s, %zu blocks: wrote outside", codecs->name, n);
    }
    drop_fence(block_fence);
    drop_fence(scale_fence);
    drop_fence(target_fence);
}

static void decode_all_fenced(const struct tp_codecs *codecs)
{
    for (enum tp_target target = 0; target < TP_N_TARGETS; target++)
        decode_fenced(codecs, target);
}

Test(codec_isa, mxfp4_between_guard_pages)
{
    for_each_table(decode_all_fenced);
}
