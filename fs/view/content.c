#include "fs/view/content.h"

#include <string.h>

#include "decode/range.h"

/* Source bytes read at a time: with what they decode to, they stay in the second-level cache. */
enum { PIECE_BYTES = 64 << 10 };

/* The kernel drops only whole pages, and of large ones only those that lie in the range: going
 * back this far, into the tensor before as well, catches what earlier calls left at their ends. */
enum { FORGET_OVERLAP = 2 << 20 };

static size_t decoded_unit(const struct tp_content *content)
{
    if (content->kind == TP_CONTENT_MXFP4)
        return content->target_width * TP_MXFP4_BLOCK_ELEMENTS;
    return content->target_width;
}

/* One piece: source elements or blocks [cover.first, +count) to `length` bytes at `target`. */
static int read_piece(const struct tp_content *content, struct tp_cover cover, void *target,
                      size_t length)
{
    uint8_t piece[PIECE_BYTES], scales[PIECE_BYTES / TP_MXFP4_BLOCK_BYTES];
    int rc = tp_source_read_unverified(content->source, piece, cover.count * content->source_width,
                                       content->offset + cover.first * content->source_width);
    if (rc < 0)
        return rc;
    if (content->kind == TP_CONTENT_CONVERT) {
        tp_range_convert(content->convert, content->source_width, content->target_width, piece,
                         cover.skip, target, length);
        return 0;
    }
    rc = tp_source_read_unverified(content->scales_source, scales, cover.count,
                                   content->scales_offset + cover.first);
    if (rc == 0)
        tp_range_mxfp4(content->mxfp4, content->target_width, piece, scales, cover.skip, target,
                       length);
    return rc;
}

static int read_decoded(const struct tp_content *content, uint64_t offset, size_t length,
                        uint8_t *target)
{
    size_t unit = decoded_unit(content);
    size_t longest = PIECE_BYTES / content->source_width * unit;
    while (length > 0) {
        /* Pieces after the first begin at a unit. */
        size_t now = longest - (size_t)(offset % unit);
        if (now > length)
            now = length;
        int rc = read_piece(content, tp_range_cover(offset, now, unit), target, now);
        if (rc < 0)
            return rc;
        offset += now;
        target += now;
        length -= now;
    }
    return 0;
}

static int read_data(const struct tp_content *content, uint64_t offset, size_t length,
                     uint8_t *target)
{
    int rc =
        content->kind == TP_CONTENT_COPY
            ? tp_source_read_unverified(content->source, target, length, content->offset + offset)
            : read_decoded(content, offset, length, target);
    if (rc == 0)
        rc = tp_source_verify(content->source);
    if (rc == 0 && content->kind == TP_CONTENT_MXFP4 && content->scales_source != content->source)
        rc = tp_source_verify(content->scales_source);
    return rc;
}

int tp_content_read(const struct tp_content *content, uint64_t offset, size_t length, void *target)
{
    uint8_t *at = target;
    if (offset < content->head_length) {
        size_t from_head = content->head_length - (size_t)offset;
        if (from_head > length)
            from_head = length;
        memcpy(at, content->head + offset, from_head);
        at += from_head;
        offset += from_head;
        length -= from_head;
    }
    return length == 0 ? 0 : read_data(content, offset - content->head_length, length, at);
}

bool tp_content_stored(const struct tp_content *content, uint64_t offset,
                       struct tp_source **ret_source, uint64_t *ret_offset)
{
    if (content->kind != TP_CONTENT_COPY || offset < content->head_length ||
        (content->source != NULL && content->source->packed != NULL))
        return false;
    *ret_source = content->source;
    *ret_offset = content->offset + (offset - content->head_length);
    return true;
}

/* The source bytes behind a range of the file; false when there are none. */
static bool source_range(const struct tp_content *content, uint64_t offset, size_t length,
                         uint64_t *ret_offset, uint64_t *ret_length)
{
    uint64_t end = offset + length;
    if (end > tp_content_size(content))
        end = tp_content_size(content);
    if (end <= content->head_length)
        return false;
    offset = offset < content->head_length ? 0 : offset - content->head_length;
    end -= content->head_length;
    if (end <= offset)
        return false;
    if (content->kind == TP_CONTENT_COPY) {
        *ret_offset = content->offset + offset;
        *ret_length = end - offset;
        return true;
    }
    struct tp_cover cover = tp_range_cover(offset, end - offset, decoded_unit(content));
    *ret_offset = content->offset + cover.first * content->source_width;
    *ret_length = cover.count * content->source_width;
    return true;
}

void tp_content_forget(const struct tp_content *content, uint64_t offset, size_t length)
{
    uint64_t from, bytes;
    if (!source_range(content, offset, length, &from, &bytes))
        return;
    uint64_t back = from < FORGET_OVERLAP ? from : FORGET_OVERLAP;
    tp_source_forget(content->source, from - back, bytes + back);
    if (content->kind == TP_CONTENT_MXFP4) {
        from = content->scales_offset + (from - content->offset) / TP_MXFP4_BLOCK_BYTES;
        back = from < FORGET_OVERLAP ? from : FORGET_OVERLAP;
        tp_source_forget(content->scales_source, from - back, bytes / TP_MXFP4_BLOCK_BYTES + back);
    }
}

void tp_content_expect(const struct tp_content *content, uint64_t offset, size_t length)
{
    uint64_t from, bytes;
    if (!source_range(content, offset, length, &from, &bytes))
        return;
    tp_source_expect(content->source, from, bytes);
    if (content->kind == TP_CONTENT_MXFP4)
        tp_source_expect(content->scales_source,
                         content->scales_offset + (from - content->offset) / TP_MXFP4_BLOCK_BYTES,
                         bytes / TP_MXFP4_BLOCK_BYTES);
}
