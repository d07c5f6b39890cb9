/* Reading files of the view through the cache, with read-ahead.
 *
 * A reader is one open file. It follows up to eight sequential streams, because several
 * readers may share a descriptor and the kernel reorders its own read-ahead; what it makes of
 * a request is decided in reader.c: served from tiles, or decoded straight into the caller's
 * buffer.
 */
#ifndef TENSORPORT_FS_VIEW_READER_H
#define TENSORPORT_FS_VIEW_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "fs/cache/cache.h"
#include "fs/cache/prefetch.h"
#include "fs/view/content.h"
#include "fs/view/extents.h"

/* Bytes of a tile: as long as the longest request of the kernel, so that an aligned request
 * is one tile. */
enum { TP_TILE_SIZE = 1 << 20 };

/* What all readers share. */
struct tp_reading {
    struct tp_cache *cache;
    struct tp_prefetcher *prefetcher; /* NULL: no read-ahead */
    bool forget_sources; /* what was delivered is kept by someone else: drop the sources' pages */
};

struct tp_reader;

/* `file` names the file in the cache; `content` must outlive the reading. -ENOMEM. */
int tp_reader_open(struct tp_reading *reading, const struct tp_content *content, uint64_t file,
                   struct tp_reader **ret_reader);

/* Cancels its read-ahead. No read may be in progress. */
void tp_reader_close(struct tp_reader *reader);

/* True when no read is in progress, as far as can be told. */
bool tp_reader_is_idle(struct tp_reader *reader);

enum { TP_PIECES_MAX = 4 };

/* The answer to a read: pieces that follow each other, in tiles or in the caller's buffer. */
struct tp_pieces {
    size_t n;
    struct iovec bytes[TP_PIECES_MAX];
    const struct tp_tile *tiles[TP_PIECES_MAX]; /* NULL for a piece in the buffer */
};

/* Reads [offset, offset + length), which lies inside the file; `buffer` has room for `length`
 * bytes. On success the pieces are valid until tp_reader_done(). Thread-safe. */
int tp_reader_read(struct tp_reader *reader, uint64_t offset, size_t length, void *buffer,
                   struct tp_pieces *ret_pieces);

void tp_reader_done(struct tp_reader *reader, const struct tp_pieces *pieces);

#endif
