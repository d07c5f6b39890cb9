/* Reading packed files: tensorport-pack(5), decode/packed.h.
 *
 * A block is decoded whole and its checksum compared, or its bytes are not delivered. Blocks that
 * small reads want a part of are kept in a cache that all packed files of a checkpoint share
 * (fs/cache): random reads come back to them. packed.c tells the rest.
 */
#ifndef TENSORPORT_FS_CHECKPOINT_PACKED_H
#define TENSORPORT_FS_CHECKPOINT_PACKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "decode/packed.h"
#include "fs/cache/cache.h"
#include "fs/checkpoint/source.h"

/* What the packed files of a checkpoint share: cache, and working memory for each thread that
 * decodes at the same time: three blocks. */
struct tp_blocks;

/* Without a cache at first. -ENOMEM. */
int tp_blocks_new(struct tp_blocks **ret_blocks);
void tp_blocks_free(struct tp_blocks *blocks);

/* Gives it a cache of `capacity` bytes, 0 for none, instead of the one that it has. No read may be
 * in progress. -ENOMEM: it has none then. */
int tp_blocks_reserve(struct tp_blocks *blocks, size_t capacity);

/* All zero without a cache. */
void tp_blocks_count(struct tp_blocks *blocks, struct tp_cache_counters *ret_counters);

struct tp_packed;

/* Reads header and table of a file that has just been opened. -EINVAL: no packed file; -EIO,
 * -ENOMEM. */
int tp_packed_open(struct tp_source *source, struct tp_blocks *blocks,
                   struct tp_packed **ret_packed, struct tp_error *error);

/* `packed` may be NULL. */
void tp_packed_close(struct tp_packed *packed);

const struct tp_packed_layout *tp_packed_layout(const struct tp_packed *packed);

/* Reads bytes of the original of `source`, which is packed, without the check of identity. -EIO
 * when a block is corrupt or cannot be read; the first time this is logged. Thread-safe. */
int tp_packed_read(struct tp_source *source, void *target, size_t length, uint64_t offset);

/* Turns a range of the original, cut off at its end, into that of the stored bytes behind it. */
void tp_packed_stored_range(const struct tp_packed *packed, uint64_t *offset, uint64_t *length);

/* Reads and checks one block, whatever the cache holds. `target` has room for the block size.
 * -EBADMSG: it is corrupt, and nothing is logged; -EIO: it cannot be read. Thread-safe. */
int tp_packed_check_block(struct tp_source *source, uint64_t index, void *target);

#endif
