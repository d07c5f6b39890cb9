/* Any bytes as a packed file: what is accepted keeps what the layout promises, its blocks tile the
 * original and the file, and whatever decodes has the right checksum. Header and table checksums
 * are put right first, or a fuzzer would hardly get past them. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "decode/block.h"
#include "decode/packed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    AT_TABLE = 40,
    AT_TABLE_CHECKSUM = 64,
    AT_CHECKSUM = 72,
    DECODED_MAX = 64, /* blocks: the time for an input must stay short */
};

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void correct(uint8_t *file, size_t size)
{
    uint64_t table, checksum;
    memcpy(&table, file + AT_TABLE, sizeof table);
    if (table <= size) {
        checksum = XXH3_64bits(file + table, size - table);
        memcpy(file + AT_TABLE_CHECKSUM, &checksum, sizeof checksum);
    }
    checksum = XXH3_64bits(file, AT_CHECKSUM);
    memcpy(file + AT_CHECKSUM, &checksum, sizeof checksum);
}

/* In a block of its own, so that sanitizers see a step beyond it. */
static void decode(const uint8_t *file, const struct tp_packed_block *block)
{
    uint8_t *stored = malloc(block->stored_length), *scratch = malloc(block->length),
            *target = malloc(block->length);
    require(stored != NULL && scratch != NULL && target != NULL);
    memcpy(stored, file + block->stored_offset, block->stored_length);
    if (tp_block_decode(stored, block->stored_length, block->width, block->checksum, scratch,
                        target, block->length) == 0)
        require(tp_block_checksum(target, block->length) == block->checksum);
    free(stored);
    free(scratch);
    free(target);
}

static void check_blocks(const struct tp_packed_layout *layout, const uint8_t *file, size_t size)
{
    uint64_t start = 0, stored = TP_PACKED_HEADER_BYTES;
    for (uint64_t i = 0; i < layout->header.n_blocks; i++) {
        struct tp_packed_block block, found;
        tp_packed_block(layout, i, &block);
        require(block.start == start && block.stored_offset == stored);
        require(block.length >= 1 && block.length <= layout->header.block_size);
        require(block.stored_length >= 1 && block.stored_length <= block.length);
        tp_packed_find(layout, start + block.length - 1, &found);
        require(found.index == i && found.start == start);
        start += block.length;
        stored += block.stored_length;
        require(stored <= size);
        if (i < DECODED_MAX)
            decode(file, &block);
    }
    require(start == layout->header.original_size && stored == layout->header.table_offset);
}

static void parse(const uint8_t *file, size_t size)
{
    struct tp_error error = {""};
    struct tp_packed_header header;
    struct tp_packed_layout layout;
    int rc = tp_packed_parse_header(file, size, &header, &error);
    if (rc == 0) {
        require(header.table_offset + tp_packed_table_bytes(&header) == size);
        rc = tp_packed_parse_table(file + header.table_offset, &header, &layout, &error);
    }
    if (rc == 0) {
        check_blocks(&layout, file, size);
        tp_packed_clear(&layout);
    }
    require((rc == 0) == (error.text[0] == '\0'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *file = calloc(size > TP_PACKED_HEADER_BYTES ? size : TP_PACKED_HEADER_BYTES, 1);
    require(file != NULL);
    if (size > 0)
        memcpy(file, data, size);
    parse(file, size);
    if (size >= TP_PACKED_HEADER_BYTES) {
        correct(file, size);
        parse(file, size);
    }
    free(file);
    return 0;
}
