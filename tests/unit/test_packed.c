/* Blocks and layouts of packed files: what is packed comes back, and what is looked up is right.
 * What is refused: tests/export/test_pack.py and tests/fuzz/fuzz_packed.c. */
#include "decode/packed.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "decode/block.h"

enum { ROOM = TP_PACKED_BLOCK_SIZE };

/* Every fourth bit random, the others rarely set: shrinks with any width. */
static void fill(uint8_t *bytes, size_t length, bool shrinks)
{
    uint64_t state = length + 1;
    for (size_t i = 0; i < length; i++) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
        bytes[i] = (uint8_t)(state >> 56) & (shrinks ? 0x11 : 0xff);
    }
}

static void round_trip(struct tp_block_encoder *encoder, size_t length, size_t width, bool shrinks)
{
    static uint8_t plain[ROOM], stored[ROOM], scratch[ROOM], again[ROOM];
    fill(plain, length, shrinks);
    size_t n = tp_block_encode(encoder, plain, length, width, stored);
    uint64_t checksum = tp_block_checksum(plain, length);
    cr_assert(n >= 1 && n <= length);
    cr_assert(n == length || n <= length - length / 32);
    cr_assert(!shrinks || length < 4096 || n < length);
    cr_assert(shrinks || n == length);
    cr_assert_eq(tp_block_decode(stored, n, width, checksum, scratch, again, length), 0);
    cr_assert_eq(memcmp(plain, again, length), 0);
    cr_assert_eq(tp_block_decode(stored, n, width, checksum + 1, scratch, again, length), -EBADMSG);
    if (n == length) /* in place */
        cr_assert_eq(tp_block_decode(stored, n, width, checksum, scratch, stored, length), 0);
    else
        cr_assert_eq(tp_block_decode(stored, n - 1, width, checksum, scratch, again, length),
                     -EBADMSG);
}

Test(packed, blocks_come_back)
{
    static const size_t widths[] = {0, 1, 2, 4, 8};
    static const size_t lengths[] = {1, 2, 7, 8, 63, 64, 65, 4096, 40001, ROOM - 1, ROOM};
    struct tp_block_encoder *encoder = tp_block_encoder_new(ROOM);
    cr_assert_not_null(encoder);
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            round_trip(encoder, lengths[i], widths[w], false);
            round_trip(encoder, lengths[i], widths[w], true);
        }
    }
    tp_block_encoder_free(encoder);
}

static const uint64_t region_lengths[] = {
    100, 3 * (uint64_t)ROOM, 1, 200 * (uint64_t)ROOM + 5, ROOM,
};
enum { N_REGIONS = sizeof region_lengths / sizeof *region_lengths };

static uint64_t plan(struct tp_packed_layout *layout)
{
    struct tp_packed_region *regions = calloc(N_REGIONS, sizeof *regions);
    uint64_t size = 0;
    for (size_t i = 0; i < N_REGIONS; i++) {
        regions[i].length = region_lengths[i];
        regions[i].width = (uint32_t[]){0, 1, 2, 4, 8}[i];
        size += region_lengths[i];
    }
    cr_assert_eq(tp_packed_plan(size, regions, N_REGIONS, layout), 0);
    return size;
}

/* Written, read again, and every block looked up both ways. */
/* Field by field: padding may be anything. */
static bool is_same(const struct tp_packed_block *a, const struct tp_packed_block *b)
{
    return a->index == b->index && a->start == b->start && a->length == b->length &&
           a->stored_offset == b->stored_offset && a->stored_length == b->stored_length &&
           a->checksum == b->checksum;
}

Test(packed, layouts_come_back)
{
    struct tp_packed_layout made, read;
    struct tp_packed_header header;
    struct tp_error error = {""};
    uint8_t bytes[TP_PACKED_HEADER_BYTES];
    uint64_t size = plan(&made), stored = TP_PACKED_HEADER_BYTES, start = 0;
    for (uint64_t i = 0; i < made.header.n_blocks; i++) {
        made.lengths[i] = 1 + (uint32_t)(i * 37 % 5);
        made.checksums[i] = i * i;
    }
    made.lengths[4] = 1; /* the block of one byte */
    uint8_t *table = malloc(tp_packed_table_bytes(&made.header));
    tp_packed_finish(&made, table, bytes);
    uint64_t file_size = made.header.table_offset + tp_packed_table_bytes(&made.header);

    cr_assert_eq(tp_packed_parse_header(bytes, file_size, &header, &error), 0, "%s", error.text);
    cr_assert_eq(tp_packed_parse_header(bytes, file_size + 1, &header, &error), -EINVAL);
    cr_assert_eq(tp_packed_parse_header(bytes, file_size - 1, &header, &error), -EINVAL);
    cr_assert_eq(tp_packed_parse_table(table, &header, &read, &error), 0, "%s", error.text);
    for (uint64_t i = 0; i < header.n_blocks; i++) {
        struct tp_packed_block block, first, last, place;
        tp_packed_block(&read, i, &block);
        tp_packed_original(&read, i, &place);
        cr_assert(block.index == i && block.start == start && block.stored_offset == stored);
        cr_assert(place.start == start && place.length == block.length);
        cr_assert(block.stored_length == made.lengths[i] && block.checksum == i * i);
        tp_packed_find(&read, start, &first);
        tp_packed_find(&read, start + block.length - 1, &last);
        cr_assert(is_same(&first, &block) && is_same(&last, &block));
        start += block.length;
        stored += block.stored_length;
    }
    cr_assert_eq(start, size);
    cr_assert_eq(stored, header.table_offset);
    table[3] ^= 1;
    cr_assert_eq(tp_packed_parse_table(table, &header, &read, &error), -EINVAL);
    free(table);
    tp_packed_clear(&read);
    tp_packed_clear(&made);
}

Test(packed, nothing_is_a_file_too)
{
    struct tp_packed_layout made, read;
    struct tp_packed_header header;
    struct tp_error error = {""};
    uint8_t bytes[TP_PACKED_HEADER_BYTES], table[1];
    cr_assert_eq(tp_packed_plan(0, NULL, 0, &made), 0);
    tp_packed_finish(&made, table, bytes);
    cr_assert_eq(tp_packed_parse_header(bytes, sizeof bytes, &header, &error), 0, "%s", error.text);
    cr_assert_eq(tp_packed_parse_table(table, &header, &read, &error), 0, "%s", error.text);
    tp_packed_clear(&read);
    tp_packed_clear(&made);
}

Test(packed, too_large_a_table_is_refused)
{
    struct tp_packed_layout layout;
    struct tp_packed_region *region = calloc(1, sizeof *region);
    region->length = UINT64_C(2) << 40;
    cr_assert_eq(tp_packed_plan(region->length, region, 1, &layout), -E2BIG);
}
