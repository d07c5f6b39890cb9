#include "decode/packed.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum {
    VERSION = 1,
    REGION_BYTES = 16,
    BLOCK_BYTES = 12, /* a checksum and a length */
    BLOCKS_PER_BASE = 64,
    /* Where things are in the header. */
    AT_VERSION = 8,
    AT_BLOCK_SIZE = 12,
    AT_SIZE = 16,
    AT_HASH = 24,
    AT_TABLE = 40,
    AT_REGIONS = 48,
    AT_BLOCKS = 56,
    AT_TABLE_CHECKSUM = 64,
    AT_CHECKSUM = 72,
};

/* As in PNG: shows a transfer that takes the file for text. */
static const uint8_t magic[8] = {0x89, 'T', 'P', 'K', '\r', '\n', 0x1a, '\n'};

static uint32_t get_32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return le32toh(value);
}

static uint64_t get_64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return le64toh(value);
}

static void put_32(uint8_t *at, uint32_t value)
{
    value = htole32(value);
    memcpy(at, &value, sizeof value);
}

static void put_64(uint8_t *at, uint64_t value)
{
    value = htole64(value);
    memcpy(at, &value, sizeof value);
}

/* ---- the header ---- */

/* Regions and blocks have at least one byte each, so that neither product overflows. */
static bool sizes_are_sane(const struct tp_packed_header *header, uint64_t file_size)
{
    uint64_t most = TP_PACKED_TABLE_MAX / BLOCK_BYTES;
    if (header->original_size > INT64_MAX || header->n_regions > most || header->n_blocks > most ||
        header->n_regions > header->n_blocks || header->n_blocks > header->original_size)
        return false;
    uint64_t table = header->n_regions * REGION_BYTES + header->n_blocks * BLOCK_BYTES;
    return table <= TP_PACKED_TABLE_MAX && table <= file_size &&
           header->table_offset >= TP_PACKED_HEADER_BYTES &&
           header->table_offset == file_size - table;
}

int tp_packed_parse_header(const uint8_t bytes[TP_PACKED_HEADER_BYTES], uint64_t file_size,
                           struct tp_packed_header *ret_header, struct tp_error *error)
{
    if (file_size < TP_PACKED_HEADER_BYTES || memcmp(bytes, magic, sizeof magic) != 0)
        return tp_error_set(error, -EINVAL, "not a packed file");
    if (get_32(bytes + AT_VERSION) != VERSION)
        return tp_error_set(error, -EINVAL,
                            "packed in version %" PRIu32 " of the format, this program reads %d",
                            get_32(bytes + AT_VERSION), VERSION);
    if (get_64(bytes + AT_CHECKSUM) != XXH3_64bits(bytes, AT_CHECKSUM))
        return tp_error_set(error, -EINVAL, "the packed file's header is corrupt");
    struct tp_packed_header header = {
        .block_size = get_32(bytes + AT_BLOCK_SIZE),
        .original_size = get_64(bytes + AT_SIZE),
        .original_hash = {get_64(bytes + AT_HASH), get_64(bytes + AT_HASH + 8)},
        .table_offset = get_64(bytes + AT_TABLE),
        .n_regions = get_64(bytes + AT_REGIONS),
        .n_blocks = get_64(bytes + AT_BLOCKS),
        .table_checksum = get_64(bytes + AT_TABLE_CHECKSUM),
    };
    if (header.block_size < TP_PACKED_BLOCK_SIZE_MIN ||
        header.block_size > TP_PACKED_BLOCK_SIZE_MAX ||
        (header.block_size & (header.block_size - 1)) != 0)
        return tp_error_set(error, -EINVAL,
                            "expected blocks of a power of two from 4 KiB to 1 MiB, found %" PRIu32
                            " bytes",
                            header.block_size);
    if (!sizes_are_sane(&header, file_size))
        return tp_error_set(error, -EINVAL,
                            "expected a table of %" PRIu64 " regions and %" PRIu64
                            " blocks at offset %" PRIu64 " to the end, found %" PRIu64
                            " bytes in all: truncated or corrupt",
                            header.n_regions, header.n_blocks, header.table_offset, file_size);
    *ret_header = header;
    return 0;
}

size_t tp_packed_table_bytes(const struct tp_packed_header *header)
{
    return (size_t)(header->n_regions * REGION_BYTES + header->n_blocks * BLOCK_BYTES);
}

/* ---- the table ---- */

static uint64_t blocks_of(uint64_t length, uint32_t block_size)
{
    return length / block_size + (length % block_size > 0);
}

static int allocate(struct tp_packed_layout *layout)
{
    const struct tp_packed_header *header = &layout->header;
    size_t n = (size_t)header->n_blocks;
    layout->checksums = calloc(n + 1, sizeof *layout->checksums);
    layout->lengths = calloc(n + 1, sizeof *layout->lengths);
    layout->bases = calloc(n / BLOCKS_PER_BASE + 1, sizeof *layout->bases);
    if (layout->checksums == NULL || layout->lengths == NULL || layout->bases == NULL)
        return -ENOMEM;
    return 0;
}

static bool is_width(uint32_t width)
{
    return width <= 2 || width == 4 || width == 8;
}

static int parse_regions(const uint8_t *at, struct tp_packed_layout *layout, struct tp_error *error)
{
    uint64_t start = 0, block = 0, size = layout->header.original_size;
    for (size_t i = 0; i < layout->header.n_regions; i++, at += REGION_BYTES) {
        struct tp_packed_region *region = &layout->regions[i];
        *region = (struct tp_packed_region){start, get_64(at), block, get_32(at + 8)};
        if (region->length == 0 || region->length > size - start || !is_width(region->width) ||
            get_32(at + 12) != 0)
            return tp_error_set(error, -EINVAL,
                                "region %zu is impossible: %" PRIu64
                                " bytes of elements of %" PRIu32 " bytes",
                                i, region->length, region->width);
        start += region->length;
        block += blocks_of(region->length, layout->header.block_size);
    }
    if (start != size || block != layout->header.n_blocks)
        return tp_error_set(error, -EINVAL,
                            "expected regions of %" PRIu64 " bytes in %" PRIu64
                            " blocks, found %" PRIu64 " bytes in %" PRIu64,
                            size, layout->header.n_blocks, start, block);
    return 0;
}

static int parse_blocks(const uint8_t *checksums, const uint8_t *lengths,
                        struct tp_packed_layout *layout, struct tp_error *error)
{
    uint64_t offset = TP_PACKED_HEADER_BYTES, n = layout->header.n_blocks;
    const struct tp_packed_region *region = layout->regions;
    for (uint64_t i = 0; i < n; i++) {
        while (i >= region->first_block + blocks_of(region->length, layout->header.block_size))
            region++;
        uint64_t behind = region->length - (i - region->first_block) * layout->header.block_size;
        layout->checksums[i] = get_64(checksums + i * 8);
        layout->lengths[i] = get_32(lengths + i * 4);
        if (layout->lengths[i] == 0 || layout->lengths[i] > layout->header.block_size ||
            layout->lengths[i] > behind)
            return tp_error_set(error, -EINVAL, "block %" PRIu64 " has an impossible length: %u", i,
                                layout->lengths[i]);
        if (i % BLOCKS_PER_BASE == 0)
            layout->bases[i / BLOCKS_PER_BASE] = offset;
        offset += layout->lengths[i];
    }
    if (offset != layout->header.table_offset)
        return tp_error_set(error, -EINVAL,
                            "expected blocks up to offset %" PRIu64
                            ", found them to end at %" PRIu64,
                            layout->header.table_offset, offset);
    return 0;
}

int tp_packed_parse_table(const uint8_t *bytes, const struct tp_packed_header *header,
                          struct tp_packed_layout *ret_layout, struct tp_error *error)
{
    if (XXH3_64bits(bytes, tp_packed_table_bytes(header)) != header->table_checksum)
        return tp_error_set(error, -EINVAL, "the packed file's table is corrupt");
    struct tp_packed_layout layout = {.header = *header};
    layout.regions = calloc((size_t)header->n_regions + 1, sizeof *layout.regions);
    int rc = layout.regions == NULL ? -ENOMEM : allocate(&layout);
    if (rc < 0) {
        tp_error_set(error, rc, "out of memory");
    } else {
        const uint8_t *checksums = bytes + header->n_regions * REGION_BYTES;
        rc = parse_regions(bytes, &layout, error);
        if (rc == 0)
            rc = parse_blocks(checksums, checksums + header->n_blocks * 8, &layout, error);
    }
    if (rc < 0)
        tp_packed_clear(&layout);
    else
        *ret_layout = layout;
    return rc;
}

void tp_packed_clear(struct tp_packed_layout *layout)
{
    free(layout->regions);
    free(layout->checksums);
    free(layout->lengths);
    free(layout->bases);
    *layout = (struct tp_packed_layout){0};
}

/* ---- looking things up ---- */

static void place(const struct tp_packed_layout *layout, const struct tp_packed_region *region,
                  uint64_t index, struct tp_packed_block *ret_block)
{
    uint32_t block_size = layout->header.block_size;
    uint64_t before = (index - region->first_block) * block_size;
    uint64_t behind = region->length - before;
    *ret_block = (struct tp_packed_block){
        .index = index,
        .start = region->start + before,
        .length = behind < block_size ? (uint32_t)behind : block_size,
        .width = region->width,
    };
}

static void add_stored(const struct tp_packed_layout *layout, struct tp_packed_block *block)
{
    uint64_t base = block->index / BLOCKS_PER_BASE;
    block->stored_offset = layout->bases[base];
    for (uint64_t i = base * BLOCKS_PER_BASE; i < block->index; i++)
        block->stored_offset += layout->lengths[i];
    block->stored_length = layout->lengths[block->index];
    block->checksum = layout->checksums[block->index];
}

/* The last region that begins at or before the block, or the offset. */
static const struct tp_packed_region *find_region(const struct tp_packed_layout *layout,
                                                  uint64_t where, bool by_block)
{
    size_t first = 0, end = (size_t)layout->header.n_regions;
    while (end - first > 1) {
        size_t middle = first + (end - first) / 2;
        const struct tp_packed_region *region = &layout->regions[middle];
        if ((by_block ? region->first_block : region->start) <= where)
            first = middle;
        else
            end = middle;
    }
    return &layout->regions[first];
}

void tp_packed_block(const struct tp_packed_layout *layout, uint64_t index,
                     struct tp_packed_block *ret_block)
{
    place(layout, find_region(layout, index, true), index, ret_block);
    add_stored(layout, ret_block);
}

void tp_packed_find(const struct tp_packed_layout *layout, uint64_t offset,
                    struct tp_packed_block *ret_block)
{
    const struct tp_packed_region *region = find_region(layout, offset, false);
    uint64_t index = region->first_block + (offset - region->start) / layout->header.block_size;
    place(layout, region, index, ret_block);
    add_stored(layout, ret_block);
}

/* ---- writing ---- */

void tp_packed_original(const struct tp_packed_layout *layout, uint64_t index,
                        struct tp_packed_block *ret_block)
{
    place(layout, find_region(layout, index, true), index, ret_block);
}

int tp_packed_plan(uint64_t original_size, struct tp_packed_region *regions, size_t n_regions,
                   struct tp_packed_layout *ret_layout)
{
    struct tp_packed_layout layout = {
        .header = {.block_size = TP_PACKED_BLOCK_SIZE,
                   .original_size = original_size,
                   .n_regions = n_regions},
        .regions = regions,
    };
    uint64_t start = 0;
    for (size_t i = 0; i < n_regions; i++) {
        regions[i].start = start;
        regions[i].first_block = layout.header.n_blocks;
        start += regions[i].length;
        layout.header.n_blocks += blocks_of(regions[i].length, TP_PACKED_BLOCK_SIZE);
    }
    uint64_t most = TP_PACKED_TABLE_MAX / BLOCK_BYTES;
    bool fits = n_regions <= most && layout.header.n_blocks <= most &&
                tp_packed_table_bytes(&layout.header) <= TP_PACKED_TABLE_MAX;
    int rc = fits ? allocate(&layout) : -E2BIG;
    if (rc < 0)
        tp_packed_clear(&layout);
    else
        *ret_layout = layout;
    return rc;
}

static void make_header(const struct tp_packed_header *header,
                        uint8_t bytes[TP_PACKED_HEADER_BYTES])
{
    memcpy(bytes, magic, sizeof magic);
    put_32(bytes + AT_VERSION, VERSION);
    put_32(bytes + AT_BLOCK_SIZE, header->block_size);
    put_64(bytes + AT_SIZE, header->original_size);
    put_64(bytes + AT_HASH, header->original_hash[0]);
    put_64(bytes + AT_HASH + 8, header->original_hash[1]);
    put_64(bytes + AT_TABLE, header->table_offset);
    put_64(bytes + AT_REGIONS, header->n_regions);
    put_64(bytes + AT_BLOCKS, header->n_blocks);
    put_64(bytes + AT_TABLE_CHECKSUM, header->table_checksum);
    put_64(bytes + AT_CHECKSUM, XXH3_64bits(bytes, AT_CHECKSUM));
}

void tp_packed_finish(struct tp_packed_layout *layout, uint8_t *table,
                      uint8_t header[TP_PACKED_HEADER_BYTES])
{
    uint8_t *at = table;
    for (size_t i = 0; i < layout->header.n_regions; i++, at += REGION_BYTES) {
        put_64(at, layout->regions[i].length);
        put_32(at + 8, layout->regions[i].width);
        put_32(at + 12, 0);
    }
    layout->header.table_offset = TP_PACKED_HEADER_BYTES;
    for (size_t i = 0; i < layout->header.n_blocks; i++, at += 8) {
        put_64(at, layout->checksums[i]);
        layout->header.table_offset += layout->lengths[i];
    }
    for (size_t i = 0; i < layout->header.n_blocks; i++, at += 4)
        put_32(at, layout->lengths[i]);
    layout->header.table_checksum = XXH3_64bits(table, tp_packed_table_bytes(&layout->header));
    make_header(&layout->header, header);
}
