/* Decoding of byte ranges: whole units go straight to the target, only the first and the last,
 * where the range cuts through them, by way of a unit on the stack. */
#include "decode/range.h"

#include <assert.h>
#include <string.h>

#include "decode/dtype.h"

struct tp_cover tp_range_cover(uint64_t offset, uint64_t length, size_t unit)
{
    struct tp_cover cover = {.first = offset / unit, .skip = (size_t)(offset % unit)};

    if (length > 0)
        cover.count = (offset + length - 1) / unit - cover.first + 1;
    return cover;
}

/* The decoded bytes of a range: `head` from the end of its first unit (or from the middle,
 * where the range ends there as well), `units` whole ones, `tail` from the start of the last. */
struct pieces {
    size_t head;
    size_t units;
    size_t tail;
};

static struct pieces cut(size_t skip, size_t length, size_t unit)
{
    assert(skip < unit);
    size_t head = skip == 0 ? 0 : unit - skip;
    if (head > length)
        head = length;
    return (struct pieces){head, (length - head) / unit, (length - head) % unit};
}

void tp_range_convert(tp_convert_fn *convert, size_t source_width, size_t target_width,
                      const void *source, size_t skip, void *target, size_t length)
{
    struct pieces pieces = cut(skip, length, target_width);
    const char *from = source;
    char *to = target;
    char element[sizeof(double)];
    assert(target_width <= sizeof element);

    if (pieces.head > 0) {
        convert(from, element, 1);
        memcpy(to, element + skip, pieces.head);
        from += source_width;
        to += pieces.head;
    }
    convert(from, to, pieces.units);
    if (pieces.tail > 0) {
        convert(from + pieces.units * source_width, element, 1);
        memcpy(to + pieces.units * target_width, element, pieces.tail);
    }
}

void tp_range_mxfp4(tp_mxfp4_fn *decode, size_t target_width, const uint8_t *blocks,
                    const uint8_t *scales, size_t skip, void *target, size_t length)
{
    size_t decoded_size = TP_MXFP4_BLOCK_ELEMENTS * target_width;
    struct pieces pieces = cut(skip, length, decoded_size);
    char *to = target;
    char decoded[TP_MXFP4_BLOCK_ELEMENTS * sizeof(float)];
    assert(decoded_size <= sizeof decoded);

    if (pieces.head > 0) {
        decode(blocks, scales, decoded, 1);
        memcpy(to, decoded + skip, pieces.head);
        blocks += TP_MXFP4_BLOCK_BYTES;
        scales++;
        to += pieces.head;
    }
    decode(blocks, scales, to, pieces.units);
    if (pieces.tail > 0) {
        decode(blocks + pieces.units * TP_MXFP4_BLOCK_BYTES, scales + pieces.units, decoded, 1);
        memcpy(to + pieces.units * decoded_size, decoded, pieces.tail);
    }
}
