/* Threads borrow a decoder, the memory to decode a block in, for the time of a read: as many
 * exist as threads have read at once. How a read is served:
 *
 *   a part of a block that a free decoder holds   from there
 *   a block in the cache                          from there
 *   all of a block                                decoded to where it is wanted
 *   a small part                                  decoded into the cache: it may come back
 *   a large part                                  decoded in a decoder, which holds it
 *
 * Reading in sequence takes blocks in large parts and their ends in small ones, and so decodes each
 * block once, in a few buffers that stay in the processor's cache. Those of the block cache do not:
 * going through it made sequential reads a third slower. Without a block cache, or when all of its
 * tiles are in use, small parts are treated as large ones.
 */
#include "fs/checkpoint/packed.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "decode/block.h"
#include "fs/base/log.h"

struct decoder {
    size_t room; /* bytes of each of the three */
    uint8_t *stored, *scratch, *plain;
    struct tp_tile_key held; /* the block in `plain`; file NO_FILE: none */
    struct decoder *next;
};

#define NO_FILE UINT64_MAX

/* A part is small if it is at most one in so many of the block. */
enum { SMALL_PART = 4 };

struct tp_blocks {
    struct tp_cache *cache; /* NULL: none */
    size_t block_size;      /* the largest of the files' */
    atomic_uint_fast64_t n_files;

    pthread_mutex_t lock;     /* protects the following */
    struct decoder *decoders; /* those that nobody uses */
};

struct tp_packed {
    struct tp_packed_layout layout;
    struct tp_blocks *blocks;
    uint64_t number;      /* of the file, in the cache */
    atomic_bool reported; /* a corrupt block was logged */
};

/* ---- what files share ---- */

int tp_blocks_new(struct tp_blocks **ret_blocks)
{
    struct tp_blocks *blocks = calloc(1, sizeof *blocks);
    if (blocks == NULL)
        return -ENOMEM;
    pthread_mutex_init(&blocks->lock, NULL);
    *ret_blocks = blocks;
    return 0;
}

static void free_decoder(struct decoder *decoder)
{
    free(decoder->stored);
    free(decoder->scratch);
    free(decoder->plain);
    free(decoder);
}

void tp_blocks_free(struct tp_blocks *blocks)
{
    if (blocks == NULL)
        return;
    while (blocks->decoders != NULL) {
        struct decoder *decoder = blocks->decoders;
        blocks->decoders = decoder->next;
        free_decoder(decoder);
    }
    tp_cache_free(blocks->cache);
    pthread_mutex_destroy(&blocks->lock);
    free(blocks);
}

int tp_blocks_reserve(struct tp_blocks *blocks, size_t capacity)
{
    tp_cache_free(blocks->cache);
    blocks->cache = NULL;
    if (capacity == 0 || blocks->block_size == 0)
        return 0;
    return tp_cache_new(capacity, blocks->block_size, &blocks->cache);
}

void tp_blocks_count(struct tp_blocks *blocks, struct tp_cache_counters *ret_counters)
{
    *ret_counters = (struct tp_cache_counters){0};
    if (blocks->cache != NULL)
        tp_cache_count(blocks->cache, ret_counters);
}

static struct decoder *new_decoder(size_t room)
{
    struct decoder *decoder = calloc(1, sizeof *decoder);
    if (decoder == NULL)
        return NULL;
    decoder->room = room;
    decoder->held.file = NO_FILE;
    decoder->stored = malloc(room);
    decoder->scratch = malloc(room);
    decoder->plain = malloc(room);
    if (decoder->stored != NULL && decoder->scratch != NULL && decoder->plain != NULL)
        return decoder;
    free_decoder(decoder);
    return NULL;
}

/* Where the decoder that holds the block hangs; where there is none. Under the lock. */
static struct decoder **find_holder(struct tp_blocks *blocks, struct tp_tile_key wanted)
{
    struct decoder **link = &blocks->decoders;
    while (*link != NULL &&
           ((*link)->held.file != wanted.file || (*link)->held.index != wanted.index))
        link = &(*link)->next;
    return link;
}

/* Takes the decoder that holds the block; NULL if none does that is free. */
static struct decoder *borrow_holder(struct tp_blocks *blocks, struct tp_tile_key wanted)
{
    pthread_mutex_lock(&blocks->lock);
    struct decoder **link = find_holder(blocks, wanted), *decoder = *link;
    if (decoder != NULL)
        *link = decoder->next;
    pthread_mutex_unlock(&blocks->lock);
    return decoder;
}

/* Takes any decoder, or a new one. NULL when out of memory. */
static struct decoder *borrow(struct tp_blocks *blocks)
{
    pthread_mutex_lock(&blocks->lock);
    struct decoder *decoder = blocks->decoders;
    if (decoder != NULL)
        blocks->decoders = decoder->next;
    pthread_mutex_unlock(&blocks->lock);
    if (decoder != NULL && decoder->room < blocks->block_size) { /* made while files were opened */
        free_decoder(decoder);
        decoder = NULL;
    }
    return decoder != NULL ? decoder : new_decoder(blocks->block_size);
}

static void give_back(struct tp_blocks *blocks, struct decoder *decoder)
{
    pthread_mutex_lock(&blocks->lock);
    decoder->next = blocks->decoders;
    blocks->decoders = decoder;
    pthread_mutex_unlock(&blocks->lock);
}

/* ---- opening ---- */

static int read_table(struct tp_source *source, const struct tp_packed_header *header,
                      struct tp_packed_layout *ret_layout, struct tp_error *error)
{
    size_t length = tp_packed_table_bytes(header);
    uint8_t *table = malloc(length + 1);
    if (table == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    int rc = tp_source_read_stored(source, table, length, header->table_offset);
    if (rc < 0)
        tp_error_set(error, rc, "cannot read the table of its blocks: %s", strerror(-rc));
    else
        rc = tp_packed_parse_table(table, header, ret_layout, error);
    free(table);
    return rc;
}

static int read_layout(struct tp_source *source, struct tp_packed_layout *ret_layout,
                       struct tp_error *error)
{
    uint8_t bytes[TP_PACKED_HEADER_BYTES] = {0};
    struct tp_packed_header header;
    if (source->stored_size >= sizeof bytes) {
        int rc = tp_source_read_stored(source, bytes, sizeof bytes, 0);
        if (rc < 0)
            return tp_error_set(error, rc, "cannot read the header: %s", strerror(-rc));
    }
    int rc = tp_packed_parse_header(bytes, source->stored_size, &header, error);
    return rc < 0 ? rc : read_table(source, &header, ret_layout, error);
}

int tp_packed_open(struct tp_source *source, struct tp_blocks *blocks,
                   struct tp_packed **ret_packed, struct tp_error *error)
{
    struct tp_packed *packed = calloc(1, sizeof *packed);
    if (packed == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    int rc = read_layout(source, &packed->layout, error);
    if (rc < 0) {
        free(packed);
        return rc;
    }
    packed->blocks = blocks;
    packed->number = atomic_fetch_add(&blocks->n_files, 1);
    if (blocks->block_size < packed->layout.header.block_size)
        blocks->block_size = packed->layout.header.block_size;
    *ret_packed = packed;
    return 0;
}

void tp_packed_close(struct tp_packed *packed)
{
    if (packed == NULL)
        return;
    tp_packed_clear(&packed->layout);
    free(packed);
}

const struct tp_packed_layout *tp_packed_layout(const struct tp_packed *packed)
{
    return &packed->layout;
}

/* ---- blocks ---- */

/* A file that changed meanwhile says so itself; otherwise the block is what is wrong. */
static int report(struct tp_source *source, const struct tp_packed_block *block)
{
    if (tp_source_verify(source) == 0 && !atomic_exchange(&source->packed->reported, true))
        tp_log(source->log, TP_LOG_ERROR,
               "%s: block %llu, bytes %llu to %llu of %s, is corrupt; reads of it fail",
               source->stored_name, (unsigned long long)block->index,
               (unsigned long long)block->start,
               (unsigned long long)(block->start + block->length - 1), source->name);
    return -EIO;
}

/* Decodes it to `target`, in memory of the decoder. -EBADMSG: it is corrupt, which is not reported
 * yet; -EIO: it cannot be read, which is. */
static int decode(struct tp_source *source, const struct tp_packed_block *block,
                  struct decoder *decoder, void *target)
{
    bool is_packed = block->stored_length < block->length;
    void *stored = is_packed ? decoder->stored : target;
    int rc = tp_source_read_stored(source, stored, block->stored_length, block->stored_offset);
    if (rc < 0)
        return rc;
    return tp_block_decode(stored, block->stored_length, block->width, block->checksum,
                           decoder->scratch, target, block->length);
}

static int decode_and_report(struct tp_source *source, const struct tp_packed_block *block,
                             struct decoder *decoder, void *target)
{
    int rc = decode(source, block, decoder, target);
    return rc == -EBADMSG ? report(source, block) : rc;
}

static struct tp_tile_key key_of(const struct tp_packed *packed,
                                 const struct tp_packed_block *block)
{
    return (struct tp_tile_key){packed->number, block->index};
}

static int decode_borrowing(struct tp_source *source, const struct tp_packed_block *block,
                            void *target)
{
    struct tp_blocks *blocks = source->packed->blocks;
    struct decoder *decoder = borrow(blocks);
    if (decoder == NULL)
        return -ENOMEM;
    int rc = decode_and_report(source, block, decoder, target);
    give_back(blocks, decoder);
    return rc;
}

/* Fills a tile of the cache; `context` is the source. */
static int fill(void *context, uint64_t index, void *target, size_t *ret_length)
{
    struct tp_source *source = context;
    struct tp_packed_block block;
    tp_packed_block(&source->packed->layout, index, &block);
    int rc = decode_borrowing(source, &block, target);
    if (rc == 0)
        *ret_length = block.length;
    return rc;
}

/* What a read wants of a block. */
struct part {
    size_t skip, length;
    void *target;
};

/* From a decoder that holds the block; false if there is none. */
static bool read_held(struct tp_source *source, const struct tp_packed_block *block,
                      const struct part *part)
{
    struct tp_blocks *blocks = source->packed->blocks;
    struct decoder *decoder = borrow_holder(blocks, key_of(source->packed, block));
    if (decoder == NULL)
        return false;
    memcpy(part->target, decoder->plain + part->skip, part->length);
    give_back(blocks, decoder);
    return true;
}

static int read_and_hold(struct tp_source *source, const struct tp_packed_block *block,
                         const struct part *part)
{
    struct tp_blocks *blocks = source->packed->blocks;
    struct decoder *decoder = borrow(blocks);
    if (decoder == NULL)
        return -ENOMEM;
    decoder->held.file = NO_FILE;
    int rc = decode_and_report(source, block, decoder, decoder->plain);
    if (rc == 0) {
        decoder->held = key_of(source->packed, block);
        memcpy(part->target, decoder->plain + part->skip, part->length);
    }
    give_back(blocks, decoder);
    return rc;
}

/* -ENOENT or -ENOBUFS: not from the cache. */
static int read_cached(struct tp_source *source, const struct tp_packed_block *block,
                       const struct part *part)
{
    struct tp_cache *cache = source->packed->blocks->cache;
    const struct tp_tile *tile;
    bool is_small = part->length <= block->length / SMALL_PART;
    if (cache == NULL)
        return -ENOENT;
    int rc = tp_cache_acquire(cache, key_of(source->packed, block),
                              is_small ? TP_CACHE_FILL : TP_CACHE_LOOK, fill, source, &tile);
    if (rc < 0)
        return rc;
    memcpy(part->target, (const uint8_t *)tile->data + part->skip, part->length);
    tp_cache_release(cache, tile);
    return 0;
}

static int read_block(struct tp_source *source, const struct tp_packed_block *block,
                      const struct part *part)
{
    bool is_whole = part->length == block->length;
    if (!is_whole && read_held(source, block, part))
        return 0;
    int rc = read_cached(source, block, part);
    if (rc != -ENOENT && rc != -ENOBUFS)
        return rc;
    return is_whole ? decode_borrowing(source, block, part->target)
                    : read_and_hold(source, block, part);
}

int tp_packed_read(struct tp_source *source, void *target, size_t length, uint64_t offset)
{
    const struct tp_packed_layout *layout = &source->packed->layout;
    uint8_t *at = target;
    if (offset > layout->header.original_size || length > layout->header.original_size - offset)
        return -EIO;
    while (length > 0) {
        struct tp_packed_block block;
        tp_packed_find(layout, offset, &block);
        size_t skip = (size_t)(offset - block.start), now = block.length - skip;
        if (now > length)
            now = length;
        int rc = read_block(source, &block, &(struct part){skip, now, at});
        if (rc < 0)
            return rc;
        at += now;
        offset += now;
        length -= now;
    }
    return 0;
}

void tp_packed_stored_range(const struct tp_packed *packed, uint64_t *offset, uint64_t *length)
{
    const struct tp_packed_layout *layout = &packed->layout;
    struct tp_packed_block first, last;
    uint64_t size = layout->header.original_size;
    if (*offset >= size || *length == 0) {
        *length = 0;
        return;
    }
    uint64_t end = *length > size - *offset ? size : *offset + *length;
    tp_packed_find(layout, *offset, &first);
    tp_packed_find(layout, end - 1, &last);
    *offset = first.stored_offset;
    *length = last.stored_offset + last.stored_length - first.stored_offset;
}

int tp_packed_check_block(struct tp_source *source, uint64_t index, void *target)
{
    struct tp_blocks *blocks = source->packed->blocks;
    struct tp_packed_block block;
    tp_packed_block(&source->packed->layout, index, &block);
    struct decoder *decoder = borrow(blocks);
    if (decoder == NULL)
        return -ENOMEM;
    int rc = decode(source, &block, decoder, target);
    give_back(blocks, decoder);
    return rc;
}
