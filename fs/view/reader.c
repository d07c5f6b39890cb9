/* How a request is served.
 *
 *   small file, or no cache          decode into the caller's buffer
 *   tile there, or on its way        from the tile: no copy, no second decode
 *   next of a stream, small          fill the tile: the requests behind it will hit it
 *   next of a stream, large          into the buffer: a tile would be used once
 *   no stream, tile was here lately  fill it: it is being read again (see fs/cache)
 *   no stream                        into the buffer: work in proportion to the request
 *
 * The source of a packed checkpoint has a cache of its own for what is read again, whose blocks are
 * far smaller: there, tiles are for streams only.
 *
 * Read-ahead is for readers that wait for each answer before they ask again: while an answer
 * is copied out, the prefetcher decodes the next tile on another processor. A reader with
 * several requests in flight (the kernel's own read-ahead) keeps the processors busy as it is,
 * and goes without.
 */
#include "fs/view/reader.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum {
    N_STREAMS = 8,
    /* The kernel's read-ahead arrives out of order: so many requests off, it is the same stream.
     * Counted in requests, or small random reads would pass for streams. */
    SLACK_REQUESTS = 8,
    SMALL_FILE = TP_TILE_SIZE / 8,  /* not worth a tile */
    LARGE_PIECE = TP_TILE_SIZE / 2, /* not worth a detour through a tile */
    AHEAD_MAX = 4,                  /* tiles */
    EXPECT_STEP = 8 << 20,          /* ask the kernel for the source's pages in advance */
    FORGET_STEP = 8 << 20,          /* drop source pages in batches: each costs a system call */
    FORGET_LAG = 16 << 20,          /* earlier requests may still be reading */
};

struct stream {
    uint64_t next;      /* where it goes on; 0: unused */
    uint64_t used;      /* when: the oldest is replaced */
    uint64_t requests;  /* so far, in sequence */
    uint64_t ahead;     /* the first tile nobody asked for yet */
    uint64_t expected;  /* source pages up to here are asked for */
    uint64_t forgotten; /* source pages up to here are dropped */
};

struct tp_reader {
    struct tp_reading *reading;
    const struct tp_content *content;
    uint64_t file;
    uint64_t size;
    atomic_uint in_flight;

    pthread_mutex_t lock; /* protects all below */
    uint64_t clock;
    struct stream streams[N_STREAMS];
};

/* What the streams say about a request. */
struct advice {
    bool sequential;
    uint64_t ahead_first, ahead_end; /* tiles to read ahead */
    uint64_t expect_from, expect_to; /* bytes of the file whose source is wanted soon */
    uint64_t forget_from, forget_to; /* bytes of the file whose source is done with */
};

int tp_reader_open(struct tp_reading *reading, const struct tp_content *content, uint64_t file,
                   struct tp_reader **ret_reader)
{
    struct tp_reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL)
        return -ENOMEM;
    reader->reading = reading;
    reader->content = content;
    reader->file = file;
    reader->size = tp_content_size(content);
    pthread_mutex_init(&reader->lock, NULL);
    *ret_reader = reader;
    return 0;
}

void tp_reader_close(struct tp_reader *reader)
{
    if (reader->reading->prefetcher != NULL)
        tp_prefetch_cancel(reader->reading->prefetcher, reader);
    for (size_t i = 0; reader->reading->forget_sources && i < N_STREAMS; i++) {
        const struct stream *stream = &reader->streams[i];
        if ((stream->requests > 1 || stream->next == reader->size) &&
            stream->next > stream->forgotten)
            tp_content_forget(reader->content, stream->forgotten,
                              (size_t)(stream->next - stream->forgotten));
    }
    pthread_mutex_destroy(&reader->lock);
    free(reader);
}

static bool continues(const struct stream *stream, uint64_t offset, size_t length)
{
    uint64_t slack = SLACK_REQUESTS * (uint64_t)length;
    return stream->next != 0 && offset <= stream->next + slack && stream->next <= offset + slack;
}

/* The stream a request belongs to; else the oldest one, begun afresh. */
static struct stream *find_stream(struct tp_reader *reader, uint64_t offset, size_t length)
{
    struct stream *oldest = &reader->streams[0];
    for (size_t i = 0; i < N_STREAMS; i++) {
        struct stream *stream = &reader->streams[i];
        if (continues(stream, offset, length))
            return stream;
        if (stream->used < oldest->used)
            oldest = stream;
    }
    *oldest = (struct stream){.ahead = (offset + length) / TP_TILE_SIZE, .forgotten = offset};
    return oldest;
}

/* A window that doubles with each request of the stream. */
static void plan_ahead(const struct tp_reader *reader, struct stream *stream, struct advice *advice)
{
    uint64_t tiles = stream->requests < 3 ? 1u << stream->requests : AHEAD_MAX;
    uint64_t first = (stream->next + TP_TILE_SIZE - 1) / TP_TILE_SIZE;
    uint64_t end = first + (tiles < AHEAD_MAX ? tiles : AHEAD_MAX);
    uint64_t last = (reader->size + TP_TILE_SIZE - 1) / TP_TILE_SIZE;
    if (end > last)
        end = last;
    if (first < stream->ahead)
        first = stream->ahead;
    if (first >= end)
        return;
    advice->ahead_first = first;
    advice->ahead_end = stream->ahead = end;
}

/* The kernel's own read-ahead of the source does not see a stream in requests that several
 * threads make out of order. */
static void plan_expect(const struct tp_reader *reader, struct stream *stream,
                        struct advice *advice)
{
    if (stream->expected >= reader->size || stream->expected > stream->next + EXPECT_STEP)
        return;
    advice->expect_from = stream->expected > stream->next ? stream->expected : stream->next;
    advice->expect_to = advice->expect_from + EXPECT_STEP;
    stream->expected = advice->expect_to;
}

static void plan_forget(struct stream *stream, struct advice *advice)
{
    if (stream->next - stream->forgotten < FORGET_STEP + FORGET_LAG)
        return; /* closing the file takes care of the rest */
    advice->forget_from = stream->forgotten;
    advice->forget_to = stream->forgotten = stream->next - FORGET_LAG;
}

static struct advice note_request(struct tp_reader *reader, uint64_t offset, size_t length,
                                  bool alone)
{
    struct advice advice = {0};
    pthread_mutex_lock(&reader->lock);
    struct stream *stream = find_stream(reader, offset, length);
    if (offset + length > stream->next)
        stream->next = offset + length;
    stream->used = ++reader->clock;
    stream->requests++;
    advice.sequential = stream->requests > 1 || length == reader->size;
    if (advice.sequential && reader->reading->prefetcher != NULL &&
        (alone || length < LARGE_PIECE) && reader->size >= SMALL_FILE)
        plan_ahead(reader, stream, &advice);
    if (advice.sequential)
        plan_expect(reader, stream, &advice);
    if (advice.sequential && reader->reading->forget_sources && stream->next > stream->forgotten)
        plan_forget(stream, &advice);
    pthread_mutex_unlock(&reader->lock);
    return advice;
}

static int fill_tile(void *context, uint64_t index, void *target, size_t *ret_length)
{
    const struct tp_content *content = context;
    uint64_t offset = index * TP_TILE_SIZE, left = tp_content_size(content) - offset;
    size_t length = left < TP_TILE_SIZE ? (size_t)left : TP_TILE_SIZE;
    int rc = tp_content_read(content, offset, length, target);
    if (rc == 0)
        *ret_length = length;
    return rc;
}

/* One piece, inside one tile. */
static int read_piece(struct tp_reader *reader, uint64_t offset, size_t length, bool sequential,
                      void *buffer, struct iovec *ret_bytes, const struct tp_tile **ret_tile)
{
    struct tp_cache *cache = reader->reading->cache;
    struct tp_tile_key key = {reader->file, offset / TP_TILE_SIZE};
    const struct tp_source *source = reader->content->source;
    bool cached_below = source != NULL && source->packed != NULL;
    enum tp_cache_use use = sequential && length < LARGE_PIECE ? TP_CACHE_STREAM
                            : sequential || cached_below       ? TP_CACHE_LOOK
                                                               : TP_CACHE_RANDOM;
    int rc = -ENOENT;
    *ret_tile = NULL;
    if (reader->size >= SMALL_FILE)
        rc = tp_cache_acquire(cache, key, use, fill_tile, (void *)reader->content, ret_tile);
    if (rc == 0) {
        const char *data = (*ret_tile)->data;
        *ret_bytes = (struct iovec){(void *)(data + offset % TP_TILE_SIZE), length};
        return 0;
    }
    if (rc != -ENOBUFS && rc != -ENOENT)
        return rc;
    *ret_bytes = (struct iovec){buffer, length};
    return tp_content_read(reader->content, offset, length, buffer);
}

static int read_pieces(struct tp_reader *reader, uint64_t offset, size_t length, bool sequential,
                       char *buffer, struct tp_pieces *pieces)
{
    pieces->n = 0;
    while (length > 0) {
        size_t now = TP_TILE_SIZE - (size_t)(offset % TP_TILE_SIZE);
        if (now > length || pieces->n == TP_PIECES_MAX - 1)
            now = length;
        size_t i = pieces->n;
        int rc;
        if (offset / TP_TILE_SIZE == (offset + now - 1) / TP_TILE_SIZE) {
            rc = read_piece(reader, offset, now, sequential, buffer, &pieces->bytes[i],
                            &pieces->tiles[i]);
        } else { /* the rest of a request longer than the kernel makes them */
            pieces->tiles[i] = NULL;
            pieces->bytes[i] = (struct iovec){buffer, now};
            rc = tp_content_read(reader->content, offset, now, buffer);
        }
        if (rc < 0) {
            tp_reader_done(reader, pieces);
            return rc;
        }
        pieces->n++;
        offset += now;
        buffer += now;
        length -= now;
    }
    return 0;
}

bool tp_reader_is_idle(struct tp_reader *reader)
{
    return atomic_load(&reader->in_flight) == 0;
}

int tp_reader_read(struct tp_reader *reader, uint64_t offset, size_t length, void *buffer,
                   struct tp_pieces *ret_pieces)
{
    bool alone = atomic_fetch_add(&reader->in_flight, 1) == 0;
    struct advice advice = note_request(reader, offset, length, alone);
    if (advice.expect_to > advice.expect_from)
        tp_content_expect(reader->content, advice.expect_from, EXPECT_STEP);
    for (uint64_t tile = advice.ahead_first; tile < advice.ahead_end; tile++)
        tp_prefetch(reader->reading->prefetcher, reader, (struct tp_tile_key){reader->file, tile},
                    fill_tile, (void *)reader->content);
    int rc = read_pieces(reader, offset, length, advice.sequential, buffer, ret_pieces);
    if (rc == 0 && advice.forget_to > advice.forget_from)
        tp_content_forget(reader->content, advice.forget_from,
                          (size_t)(advice.forget_to - advice.forget_from));
    return rc;
}

void tp_reader_done(struct tp_reader *reader, const struct tp_pieces *pieces)
{
    for (size_t i = 0; i < pieces->n; i++) {
        if (pieces->tiles[i] != NULL)
            tp_cache_release(reader->reading->cache, pieces->tiles[i]);
    }
    atomic_fetch_sub(&reader->in_flight, 1);
}
