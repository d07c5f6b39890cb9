/* Ranges of decoded bytes: each must be the same bytes as in the whole, take no source byte
 * beyond its cover, and write none beyond itself. */
#include "decode/range.h"

#include "decode/dtype.h"
#include "tests/unit/test_codec.h"

enum { CANARY = 0x5a, N_ELEMENTS = 300, N_BLOCKS = 12, N_TRIES = 4000 };

/* A cover is right when its units span the range and neither end unit is idle. */
static void check_cover(uint64_t offset, uint64_t length, size_t unit)
{
    struct tp_cover cover = tp_range_cover(offset, length, unit);

    cr_assert_eq(cover.first * unit + cover.skip, offset);
    cr_assert_lt(cover.skip, unit);
    if (length == 0) {
        cr_assert_eq(cover.count, 0);
        return;
    }
    uint64_t last = cover.first + cover.count - 1;
    cr_assert(last * unit < offset + length, "the last unit is idle");
    cr_assert(offset + length - last * unit <= unit, "a unit is missing");
}

Test(codec_range, cover)
{
    static const size_t units[] = {1, 2, 4, 64, 128};

    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        for (uint64_t offset = 0; offset < 300; offset++) {
            for (uint64_t length = 0; length < 300; length++)
                check_cover(offset, length, units[i]);
        }
        check_cover(UINT64_C(1) << 62, UINT64_C(1) << 62, units[i]);
        check_cover(UINT64_MAX - 5, 5, units[i]);
        check_cover(0, UINT64_MAX, units[i]);
        check_cover(UINT64_MAX, 0, units[i]);
    }
}

/* Any range, with short ones and those that reach the end more often than chance has it. */
static void choose_range(size_t total, uint64_t *state, size_t *ret_offset, size_t *ret_length)
{
    size_t offset = random_bits(state) % (total + 1);
    size_t length = random_bits(state) % (total - offset + 1);
    uint64_t kind = random_bits(state) % 4;

    if (kind == 0)
        length %= 12;
    if (kind == 1)
        length = total - offset;
    *ret_offset = offset;
    *ret_length = length;
}

static void check_conversion(enum tp_dtype source, enum tp_target target)
{
    tp_convert_fn *convert = tp_codecs()->convert[source][target];
    size_t source_width = tp_dtype_size(source);
    size_t width = tp_dtype_size(tp_target_dtype(target));
    uint8_t input[N_ELEMENTS * sizeof(double)];
    uint8_t whole[N_ELEMENTS * sizeof(float)];
    uint64_t state = source * TP_N_TARGETS + target;
    struct fence source_fence = make_fence(sizeof input);
    struct fence target_fence = make_fence(sizeof whole);

    fill_random(input, sizeof input, &state);
    convert(input, whole, N_ELEMENTS);
    for (int i = 0; i < N_TRIES; i++) {
        size_t offset, length;
        choose_range(N_ELEMENTS * width, &state, &offset, &length);
        struct tp_cover cover = tp_range_cover(offset, length, width);
        size_t source_size = cover.count * source_width;
        uint8_t *from = place(source_fence, i % 2, 0, source_size);
        uint8_t *to = place(target_fence, i / 2 % 2, 0, length);
        memcpy(from, input + cover.first * source_width, source_size);
        memset(target_fence.start, CANARY, (size_t)(target_fence.end - target_fence.start));
        tp_range_convert(convert, source_width, width, from, cover.skip, to, length);
        cr_assert(memcmp(to, whole + offset, length) == 0, "%s, bytes [%zu, %zu)",
                  tp_dtype_name(source), offset, offset + length);
        cr_assert(untouched_around(target_fence, to, length, CANARY));
    }
    drop_fence(source_fence);
    drop_fence(target_fence);
}

Test(codec_range, conversions)
{
    for (enum tp_dtype source = 0; source < TP_N_DTYPES; source++) {
        for (enum tp_target target = 0; target < TP_N_TARGETS; target++) {
            if (tp_codecs()->convert[source][target] != NULL)
                check_conversion(source, target);
        }
    }
}

static void check_mxfp4(enum tp_target target)
{
    tp_mxfp4_fn *decode = tp_codecs()->mxfp4[target];
    size_t width = tp_dtype_size(tp_target_dtype(target));
    size_t unit = TP_MXFP4_BLOCK_ELEMENTS * width;
    uint8_t blocks[N_BLOCKS * TP_MXFP4_BLOCK_BYTES];
    uint8_t scales[N_BLOCKS];
    uint8_t whole[N_BLOCKS * TP_MXFP4_BLOCK_ELEMENTS * sizeof(float)];
    uint64_t state = target;
    struct fence block_fence = make_fence(sizeof blocks);
    struct fence scale_fence = make_fence(sizeof scales);
    struct fence target_fence = make_fence(sizeof whole);

    fill_random(blocks, sizeof blocks, &state);
    fill_random(scales, sizeof scales, &state);
    decode(blocks, scales, whole, N_BLOCKS);
    for (int i = 0; i < N_TRIES; i++) {
        size_t offset, length;
        choose_range(N_BLOCKS * unit, &state, &offset, &length);
        struct tp_cover cover = tp_range_cover(offset, length, unit);
        size_t blocks_size = cover.count * TP_MXFP4_BLOCK_BYTES;
        uint8_t *from = place(block_fence, i % 2, 0, blocks_size);
        uint8_t *by = place(scale_fence, i % 2, 0, cover.count);
        uint8_t *to = place(target_fence, i / 2 % 2, 0, length);
        memcpy(from, blocks + cover.first * TP_MXFP4_BLOCK_BYTES, blocks_size);
        memcpy(by, scales + cover.first, cover.count);
        memset(target_fence.start, CANARY, (size_t)(target_fence.end - target_fence.start));
        tp_range_mxfp4(decode, width, from, by, cover.skip, to, length);
        cr_assert(memcmp(to, whole + offset, length) == 0, "bytes [%zu, %zu)", offset,
                  offset + length);
        cr_assert(untouched_around(target_fence, to, length, CANARY));
    }
    drop_fence(block_fence);
    drop_fence(scale_fence);
    drop_fence(target_fence);
}

Test(codec_range, mxfp4)
{
    for (enum tp_target target = 0; target < TP_N_TARGETS; target++)
        check_mxfp4(target);
}
