/* The layout of a packed file: tensorport-pack(5).
 *
 *     header | the stored bytes of block 0, 1, 2, ... | table: regions, checksums, lengths
 *
 * A region is a run of the original file with elements of one width; its blocks have the block
 * size each, but for the last one. Where a block's stored bytes begin follows from the lengths of
 * those before it, and whether it is compressed from its own: there is nothing that could
 * contradict, overlap or be left out. Every byte of the file is part of what a checksum covers.
 */
#ifndef TENSORPORT_DECODE_PACKED_H
#define TENSORPORT_DECODE_PACKED_H

#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"

/* What a packed file's name has in addition. */
#define TP_PACKED_SUFFIX ".tpk"

enum {
    TP_PACKED_HEADER_BYTES = 80,
    /* Measured with normally distributed BF16: 32 KiB, 64 KiB and 256 KiB shrink it 1.318, 1.319
     * and 1.320 times at the same rates, while a random 4 KiB read costs as much as its block. */
    TP_PACKED_BLOCK_SIZE = 64 << 10,
    TP_PACKED_BLOCK_SIZE_MIN = 4 << 10,
    TP_PACKED_BLOCK_SIZE_MAX = 1 << 20,
    /* Bytes of a table: enough for an original of 1.4 TB. */
    TP_PACKED_TABLE_MAX = 256 << 20,
};

struct tp_packed_region {
    uint64_t start, length; /* in the original */
    uint64_t first_block;
    uint32_t width; /* of its elements: 1, 2, 4, 8; 0: not shuffled */
};

struct tp_packed_header {
    uint32_t block_size;
    uint64_t original_size;
    uint64_t original_hash[2]; /* XXH3, 128 bits: its low half, then its high one */
    uint64_t table_offset;
    uint64_t n_regions, n_blocks;
    uint64_t table_checksum;
};

/* What is known of a file whose header and table have been read. Immutable. */
struct tp_packed_layout {
    struct tp_packed_header header;
    struct tp_packed_region *regions; /* [n_regions] in order, without gaps */
    uint64_t *checksums;              /* [n_blocks] */
    uint32_t *lengths;                /* [n_blocks]: stored bytes */
    uint64_t *bases;                  /* offset of every 64th block's stored bytes */
};

struct tp_packed_block {
    uint64_t index;
    uint64_t start; /* in the original */
    uint32_t length;
    uint32_t width;
    uint64_t stored_offset; /* in the packed file */
    uint32_t stored_length;
    uint64_t checksum;
};

/* Reads the header, which tells where the table is. -EINVAL with a message: no packed file of
 * `file_size` bytes begins so. */
int tp_packed_parse_header(const uint8_t bytes[TP_PACKED_HEADER_BYTES], uint64_t file_size,
                           struct tp_packed_header *ret_header, struct tp_error *error);

/* Bytes of the table, at most TP_PACKED_TABLE_MAX. */
size_t tp_packed_table_bytes(const struct tp_packed_header *header);

/* Reads the table. Memory in proportion to it. -EINVAL with a message, -ENOMEM. */
int tp_packed_parse_table(const uint8_t *bytes, const struct tp_packed_header *header,
                          struct tp_packed_layout *ret_layout, struct tp_error *error);

void tp_packed_clear(struct tp_packed_layout *layout);

/* The block with that number; the one that holds byte `offset` of the original. Both exist. */
void tp_packed_block(const struct tp_packed_layout *layout, uint64_t index,
                     struct tp_packed_block *ret_block);
void tp_packed_find(const struct tp_packed_layout *layout, uint64_t offset,
                    struct tp_packed_block *ret_block);

/* ---- writing ---- */

/* Where a block lies in the original: the first four fields. */
void tp_packed_original(const struct tp_packed_layout *layout, uint64_t index,
                        struct tp_packed_block *ret_block);

/* Makes a layout for an original of those regions, whose `length` and `width` are set and whose
 * sum is `original_size`: blocks are counted, lengths and checksums still 0. Takes `regions` over,
 * which come from malloc(), in any case. -E2BIG: the table would be too large; -ENOMEM. */
int tp_packed_plan(uint64_t original_size, struct tp_packed_region *regions, size_t n_regions,
                   struct tp_packed_layout *ret_layout);

/* Writes table and header when lengths, checksums and hash are known; `table` has room for
 * tp_packed_table_bytes(). Sets table_offset and table_checksum. */
void tp_packed_finish(struct tp_packed_layout *layout, uint8_t *table,
                      uint8_t header[TP_PACKED_HEADER_BYTES]);

#endif
