/* Bitshuffle: the scalar transposition against its definition, bit by bit; the others against the
 * scalar one, with all lengths, misaligned and between guard pages. */
#include "decode/bitshuffle.h"

#include "tests/unit/test_codec.h"

enum { CANARY = 0xa5, WIDTH_MAX = 8, BIG = 64 << 10 };

static const size_t widths[] = {1, 2, 4, 8};
enum { N_WIDTHS = sizeof widths / sizeof *widths };

static bool bit(const uint8_t *bytes, size_t number)
{
    return (bytes[number / 8] >> number % 8 & 1) != 0;
}

/* Row 8 * j + k, element i: bit k of byte j of element i. */
static void shuffle_by_definition(const uint8_t *source, uint8_t *target, size_t length,
                                  size_t width)
{
    size_t n = length / width / 8 * 8;
    memcpy(target, source, length);
    memset(target, 0, n * width);
    for (size_t i = 0; i < n; i++) {
        for (size_t b = 0; b < 8 * width; b++) {
            if (bit(source + i * width, b))
                target[b * (n / 8) + i / 8] |= (uint8_t)(1 << i % 8);
        }
    }
}

static void check(const struct tp_codecs *codecs, size_t length, size_t width, size_t gap)
{
    struct fence source_fence = make_fence(length + 8), target_fence = make_fence(length + 8);
    uint8_t *expected = allocate(length), *plain = allocate(length);
    uint64_t state = length * 31 + width;
    fill_random(plain, length, &state);
    shuffle_by_definition(plain, expected, length, width);
    for (int at_end = 0; at_end < 2; at_end++) {
        uint8_t *source = place(source_fence, at_end, gap, length);
        uint8_t *target = place(target_fence, at_end, 7 - gap, length);
        memset(target_fence.start, CANARY, (size_t)(target_fence.end - target_fence.start));
        memcpy(source, plain, length);
        tp_bitshuffle(codecs, source, target, length, width);
        cr_assert_eq(memcmp(target, expected, length), 0, "%s, width %zu, %zu bytes: shuffled",
                     codecs->name, width, length);
        cr_assert(untouched_around(target_fence, target, length, CANARY));

        memcpy(source, expected, length);
        memset(target_fence.start, CANARY, (size_t)(target_fence.end - target_fence.start));
        tp_bitunshuffle(codecs, source, target, length, width);
        cr_assert_eq(memcmp(target, plain, length), 0, "%s, width %zu, %zu bytes: unshuffled",
                     codecs->name, width, length);
        cr_assert(untouched_around(target_fence, target, length, CANARY));
    }
    free(expected);
    free(plain);
    drop_fence(source_fence);
    drop_fence(target_fence);
}

static void for_each_table(void (*function)(const struct tp_codecs *codecs))
{
    size_t n = 0;
    for (const char *const *name = tp_codecs_names(); *name != NULL; name++) {
        if (tp_codecs_by_name(*name) != NULL) {
            function(tp_codecs_by_name(*name));
            n++;
        }
    }
    cr_assert_gt(n, 0);
}

static void check_lengths(const struct tp_codecs *codecs)
{
    for (size_t w = 0; w < N_WIDTHS; w++) {
        for (size_t length = 0; length < 80 * widths[w] + 9; length++)
            check(codecs, length, widths[w], length % 4);
        /* Around the 512 elements that go through a tile, and multiples. */
        for (size_t n = 496; n <= 1100; n += 8) {
            for (size_t over = 0; over < 3; over++)
                check(codecs, n * widths[w] + over, widths[w], over);
        }
    }
}

Test(bitshuffle, every_length_between_guard_pages)
{
    for_each_table(check_lengths);
}

static void check_big(const struct tp_codecs *codecs)
{
    for (size_t w = 0; w < N_WIDTHS; w++) {
        for (size_t i = 0; i < 4; i++)
            check(codecs, BIG - i * 7, widths[w], i);
    }
}

Test(bitshuffle, blocks)
{
    for_each_table(check_big);
}

/* Each single bit goes to its own place and comes back. */
static void check_single_bits(const struct tp_codecs *codecs)
{
    enum { LENGTH = 64 * WIDTH_MAX };
    for (size_t w = 0; w < N_WIDTHS; w++) {
        size_t width = widths[w], n = LENGTH / width;
        for (size_t number = 0; number < 8 * (size_t)LENGTH; number++) {
            uint8_t plain[LENGTH] = {0}, shuffled[LENGTH], again[LENGTH];
            plain[number / 8] = (uint8_t)(1 << number % 8);
            tp_bitshuffle(codecs, plain, shuffled, LENGTH, width);
            size_t element = number / (8 * width), row = number % (8 * width);
            cr_assert(bit(shuffled, row * n + element), "%s, width %zu, bit %zu", codecs->name,
                      width, number);
            tp_bitunshuffle(codecs, shuffled, again, LENGTH, width);
            cr_assert_eq(memcmp(again, plain, LENGTH), 0);
        }
    }
}

Test(bitshuffle, single_bits)
{
    for_each_table(check_single_bits);
}
