/* Quantising to MXFP4: the scalar encoder against the specification's formula in double, every
 * other table against the scalar one, bit for bit; and what decoding gives back. */
#include "decode/mxfp4_encode.h"

#include <math.h>

#include "tests/unit/test_codec.h"

enum {
    ELEMENTS = TP_MXFP4_BLOCK_ELEMENTS,
    BYTES = TP_MXFP4_BLOCK_BYTES,
    FIELDS = 256, /* exponent fields of F32 and BF16 */
    /* All 16-bit patterns, 31 to a block beside the one that sets its scale. */
    BLOCKS_OF_ALL = (65536 + ELEMENTS - 2) / (ELEMENTS - 1),
    CANARY = 0xa5,
};

static const float e2m1[8] = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};

struct encoded {
    size_t n;
    uint8_t *blocks, *scales;
};

static struct encoded encode(const struct tp_codecs *codecs, enum tp_dtype source,
                             const void *values, size_t n)
{
    struct encoded encoded = {n, allocate(n * BYTES), allocate(n)};
    memset(encoded.blocks, CANARY, n * BYTES);
    memset(encoded.scales, CANARY, n);
    tp_mxfp4_encoder(codecs, source)(values, encoded.blocks, encoded.scales, n);
    return encoded;
}

static void drop(struct encoded *encoded)
{
    free(encoded->blocks);
    free(encoded->scales);
}

static uint8_t code_at(const struct encoded *encoded, size_t i)
{
    return encoded->blocks[i / 2] >> 4 * (i % 2) & 15;
}

static const struct tp_codecs *scalar(void)
{
    return tp_codecs_by_name("scalar");
}

/* ---- against the formula ---- */

static int expected_scale(const float *values)
{
    double largest = 0;
    int exponent;

    for (size_t i = 0; i < ELEMENTS; i++) {
        if (isnan(values[i]))
            return 255;
        largest = fmax(largest, isinf(values[i]) ? 0x1p128 : fabs((double)values[i]));
    }
    if (largest == 0)
        return 0;
    frexp(largest, &exponent); /* floor(log2) + 1 */
    int scale = exponent - 1 - 2 + 127;
    return scale < 0 ? 0 : scale;
}

/* The nearest value, the even code of two that are as near. */
static uint8_t expected_code(float value, int scale)
{
    double magnitude = ldexp(fabs((double)value), 127 - scale);
    uint8_t best = 0;

    if (isinf(value))
        best = 7;
    for (uint8_t code = 1; code < 8 && !isinf(value); code++) {
        double distance = fabs(magnitude - (double)e2m1[code]);
        double least = fabs(magnitude - (double)e2m1[best]);
        if (distance < least || (distance == least && code % 2 == 0))
            best = code;
    }
    return signbit(value) ? best | 8 : best;
}

static void check_formula(const float *values, const struct encoded *encoded)
{
    for (size_t b = 0; b < encoded->n; b++) {
        int scale = expected_scale(values + b * ELEMENTS);
        cr_assert(encoded->scales[b] == scale, "block %zu: scale %d, expected %d", b,
                  encoded->scales[b], scale);
        for (size_t i = b * ELEMENTS; i < (b + 1) * ELEMENTS; i++) {
            uint8_t expected = scale == 255 ? 0 : expected_code(values[i], scale);
            cr_assert(code_at(encoded, i) == expected, "%a under scale %d: code %d, expected %d",
                      (double)values[i], scale, code_at(encoded, i), expected);
        }
    }
}

/* ---- inputs ---- */

/* All 16-bit patterns, beside one that is the largest of its block unless others are larger. */
static uint16_t *all_patterns_beside(uint16_t anchor)
{
    uint16_t *values = allocate(BLOCKS_OF_ALL * ELEMENTS * sizeof *values);
    size_t next = 0;

    for (size_t i = 0; i < BLOCKS_OF_ALL * ELEMENTS; i++) {
        bool is_anchor = i % ELEMENTS == i / ELEMENTS % ELEMENTS; /* in every lane */
        values[i] = is_anchor ? anchor : (uint16_t)next++;
    }
    return values;
}

/* The same without what is larger than the anchor: zero takes its place. */
static uint16_t *patterns_below(uint16_t anchor)
{
    uint16_t *values = all_patterns_beside(anchor);

    for (size_t i = 0; i < BLOCKS_OF_ALL * ELEMENTS; i++) {
        if ((values[i] & 0x7fff) > anchor)
            values[i] &= 0x8000;
    }
    return values;
}

static float *widen(enum tp_dtype dtype, const uint16_t *values, size_t n)
{
    float *wide = allocate(n * sizeof *wide);
    scalar()->convert[dtype][TP_TARGET_F32](values, wide, n);
    return wide;
}

/* Random signs and fractions with exponents near each other, and every so often a value right at,
 * or next to, a midpoint. */
static float *random_values(size_t n_blocks, uint64_t *state)
{
    uint32_t *bits = allocate(n_blocks * ELEMENTS * sizeof *bits);

    for (size_t b = 0; b < n_blocks; b++) {
        uint64_t top = random_bits(state) % FIELDS, spread = 1 + random_bits(state) % 8;
        for (size_t i = b * ELEMENTS; i < (b + 1) * ELEMENTS; i++) {
            uint64_t random = random_bits(state), down = random >> 32 & 0xff;
            uint32_t field = (uint32_t)(top > down % spread ? top - down % spread : 0);
            uint32_t fraction = (uint32_t)random & 0x7fffff;
            if (random >> 60 < 6)
                fraction = (fraction & 0x700000) + (uint32_t)(random >> 40) % 3 - 1;
            bits[i] = (uint32_t)(random >> 63) << 31 | field << 23 | (fraction & 0x7fffff);
        }
    }
    return (float *)bits;
}

/* ---- the scalar encoder ---- */

static void check_16_bit(enum tp_dtype dtype, uint16_t anchor)
{
    size_t n = BLOCKS_OF_ALL * ELEMENTS;
    uint16_t *values = patterns_below(anchor);
    float *wide = widen(dtype, values, n);
    struct encoded encoded = encode(scalar(), dtype, values, BLOCKS_OF_ALL);

    check_formula(wide, &encoded);
    drop(&encoded);
    free(wide);
    free(values);
}

Test(mxfp4_encode, every_bf16_value_under_many_scales)
{
    static const uint16_t fields[] = {0, 1, 2, 3, 4, 5, 6, 7, 100, 127, 128, 252, 253, 254};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        check_16_bit(TP_BF16, (uint16_t)(fields[i] << 7 | 0x7f));
        check_16_bit(TP_BF16, (uint16_t)(fields[i] << 7 | 1));
    }
}

Test(mxfp4_encode, every_f16_value_under_every_scale)
{
    for (uint16_t field = 0; field < 31; field++)
        check_16_bit(TP_F16, (uint16_t)(field << 10 | 1));
}

Test(mxfp4_encode, random_f32_values)
{
    enum { N = 1 << 15 };
    uint64_t state = 7;
    float *values = random_values(N, &state);
    struct encoded encoded = encode(scalar(), TP_F32, values, N);

    check_formula(values, &encoded);
    drop(&encoded);
    free(values);
}

/* ---- what is special ---- */

static void check_block(const float values[ELEMENTS], uint8_t scale, uint8_t first, uint8_t rest)
{
    for (const char *const *name = tp_codecs_names(); *name != NULL; name++) {
        const struct tp_codecs *codecs = tp_codecs_by_name(*name);
        if (codecs == NULL)
            continue;
        struct encoded encoded = encode(codecs, TP_F32, values, 1);
        cr_assert_eq(encoded.scales[0], scale);
        cr_assert_eq(code_at(&encoded, 0), first);
        for (size_t i = 1; i < ELEMENTS; i++)
            cr_assert_eq(code_at(&encoded, i), rest);
        drop(&encoded);
    }
}

Test(mxfp4_encode, zeros_keep_their_signs_under_the_least_scale)
{
    float values[ELEMENTS] = {0};
    check_block(values, 0, 0, 0);
    values[0] = -0.0F;
    check_block(values, 0, 8, 0);
}

Test(mxfp4_encode, what_becomes_zero_keeps_its_sign)
{
    float values[ELEMENTS] = {4};
    for (size_t i = 1; i < ELEMENTS; i++)
        values[i] = -0.25F;
    check_block(values, 127, 6, 8);
}

Test(mxfp4_encode, nan_makes_the_block_nan)
{
    float values[ELEMENTS] = {-NAN, 1, INFINITY};
    check_block(values, 255, 0, 0);
}

Test(mxfp4_encode, infinity_stays_and_finite_values_keep_their_place)
{
    float values[ELEMENTS] = {-INFINITY};
    for (size_t i = 1; i < ELEMENTS; i++)
        values[i] = 0x1p127F; /* 2 * 2^126 */
    check_block(values, 253, 15, 4);
}

Test(mxfp4_encode, only_infinity_and_nan_have_scales_above_252)
{
    float values[ELEMENTS] = {0x1.fffffep127F};
    check_block(values, 252, 7, 0);
}

Test(mxfp4_encode, other_types_have_no_encoder)
{
    for (enum tp_dtype dtype = 0; dtype < TP_N_DTYPES; dtype++) {
        bool is_encoded = dtype == TP_F32 || dtype == TP_F16 || dtype == TP_BF16;
        cr_assert((tp_mxfp4_encoder(scalar(), dtype) != NULL) == is_encoded);
    }
}

/* ---- round trips ---- */

/* A canonical block: see decode/mxfp4_encode.h. */
static void make_canonical(uint8_t *block, uint8_t *scale, uint64_t *state)
{
    fill_random(block, BYTES, state);
    if (*scale == 254)
        *scale = 0;
    if (*scale == 255)
        memset(block, 0, BYTES);
    for (size_t j = 0; *scale == 253 && j < BYTES; j++) {
        block[j] |= (block[j] & 7) == 6;
        block[j] |= (block[j] >> 4 & 7) == 6 ? 0x10 : 0;
    }
    if (*scale > 0 && *scale < 254)
        block[random_bits(state) % BYTES] |= *scale == 253 ? 7 : 6;
}

static void check_round_trip(const struct tp_codecs *codecs, enum tp_target target)
{
    enum { EACH = 64, N = 256 * EACH };
    size_t width = tp_dtype_size(tp_target_dtype(target));
    uint8_t *blocks = allocate(N * BYTES), *scales = allocate(N);
    void *decoded = allocate(N * ELEMENTS * width);
    uint64_t state = 8;

    for (size_t b = 0; b < N; b++) {
        scales[b] = (uint8_t)(b / EACH);
        make_canonical(blocks + b * BYTES, &scales[b], &state);
    }
    codecs->mxfp4[target](blocks, scales, decoded, N);
    struct encoded again = encode(codecs, tp_target_dtype(target), decoded, N);
    for (size_t b = 0; b < N; b++) {
        cr_assert(again.scales[b] == scales[b], "%s: scale %d became %d", codecs->name, scales[b],
                  again.scales[b]);
        cr_assert(memcmp(again.blocks + b * BYTES, blocks + b * BYTES, BYTES) == 0,
                  "%s: a block of scale %d is not what it was", codecs->name, scales[b]);
    }
    drop(&again);
    free(decoded);
    free(scales);
    free(blocks);
}

Test(mxfp4_encode, canonical_blocks_come_back)
{
    for (const char *const *name = tp_codecs_names(); *name != NULL; name++) {
        const struct tp_codecs *codecs = tp_codecs_by_name(*name);
        if (codecs != NULL) {
            check_round_trip(codecs, TP_TARGET_F32);
            check_round_trip(codecs, TP_TARGET_BF16);
        }
    }
}

/* ---- every table against the scalar one ---- */

static void compare(const struct tp_codecs *codecs, enum tp_dtype source, const void *values,
                    size_t n)
{
    struct encoded expected = encode(scalar(), source, values, n);
    for (int i = 0; i <= N_FLOAT_MODES; i++) {
        unsigned int before = i > 0 ? enter_float_mode(float_modes[i - 1]) : 0;
        struct encoded found = encode(codecs, source, values, n);
        if (i > 0)
            leave_float_mode(before);
        for (size_t b = 0; b < n; b++)
            cr_assert(found.scales[b] == expected.scales[b] &&
                          memcmp(found.blocks + b * BYTES, expected.blocks + b * BYTES, BYTES) == 0,
                      "%s, %s, mode %d: block %zu (scale %d) differs from the scalar one's (%d)",
                      codecs->name, tp_dtype_name(source), i, b, found.scales[b],
                      expected.scales[b]);
        drop(&found);
    }
    drop(&expected);
}

static void compare_all(const struct tp_codecs *codecs)
{
    enum { N_RANDOM = 1 << 15 };
    uint64_t state = 9;

    for (unsigned field = 0; field < FIELDS; field += field < 8 || field > 248 ? 1 : 3) {
        uint16_t *below = patterns_below((uint16_t)(field << 7 | 0x55));
        compare(codecs, TP_BF16, below, BLOCKS_OF_ALL);
        free(below);
    }
    for (unsigned field = 0; field < 32; field++) {
        uint16_t *below = patterns_below((uint16_t)(field << 10 | 0x155));
        compare(codecs, TP_F16, below, BLOCKS_OF_ALL);
        free(below);
    }
    uint16_t *all = all_patterns_beside(0x3f80); /* with NaN and infinity among them */
    compare(codecs, TP_BF16, all, BLOCKS_OF_ALL);
    compare(codecs, TP_F16, all, BLOCKS_OF_ALL);
    free(all);
    float *values = random_values(N_RANDOM, &state);
    compare(codecs, TP_F32, values, N_RANDOM);
    free(values);
}

Test(mxfp4_encode, tables_agree)
{
    for (const char *const *name = tp_codecs_names(); *name != NULL; name++) {
        const struct tp_codecs *codecs = tp_codecs_by_name(*name);
        if (codecs != NULL)
            compare_all(codecs);
        else
            cr_log_warn("this machine cannot run the codecs called %s: NOT TESTED", *name);
    }
}

/* ---- memory ---- */

static void encode_fenced(const struct tp_codecs *codecs, enum tp_dtype source)
{
    enum { MAX_BLOCKS = 9 };
    size_t bytes = ELEMENTS * tp_dtype_size(source);
    struct fence values = make_fence(MAX_BLOCKS * bytes + 8);
    struct fence blocks = make_fence(MAX_BLOCKS * BYTES + 8), scales = make_fence(MAX_BLOCKS + 8);
    uint64_t state = 10;

    for (size_t i = 0; i < (MAX_BLOCKS + 1) * 2 * 4; i++) {
        size_t n = i / 8, gap = i / 2 % 4;
        bool at_end = i % 2;
        uint8_t *from = place(values, at_end, 3 - gap, n * bytes);
        uint8_t *to = place(blocks, at_end, gap, n * BYTES);
        uint8_t *to_scales = place(scales, at_end, gap / 2, n);
        fill_random(from, n * bytes, &state);
        memset(blocks.start, CANARY, (size_t)(blocks.end - blocks.start));
        memset(scales.start, CANARY, (size_t)(scales.end - scales.start));
        tp_mxfp4_encoder(codecs, source)(from, to, to_scales, n);
        struct encoded expected = encode(scalar(), source, from, n);
        cr_assert(memcmp(to, expected.blocks, n * BYTES) == 0);
        cr_assert(memcmp(to_scales, expected.scales, n) == 0);
        cr_assert(untouched_around(blocks, to, n * BYTES, CANARY));
        cr_assert(untouched_around(scales, to_scales, n, CANARY));
        drop(&expected);
    }
    drop_fence(values);
    drop_fence(blocks);
    drop_fence(scales);
}

Test(mxfp4_encode, between_guard_pages)
{
    for (const char *const *name = tp_codecs_names(); *name != NULL; name++) {
        const struct tp_codecs *codecs = tp_codecs_by_name(*name);
        for (enum tp_target target = 0; codecs != NULL && target < TP_N_TARGETS; target++)
            encode_fenced(codecs, tp_target_dtype(target));
    }
}
