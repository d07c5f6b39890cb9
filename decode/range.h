/* Decoding of byte ranges: what a read(2) at any offset needs.
 *
 * A range is given in bytes of the decoded array, so it may begin and end inside an element
 * or inside an MXFP4 block. The functions below tell which source bytes it takes and turn
 * those into exactly the bytes asked for.
 */
#ifndef TENSORPORT_DECODE_RANGE_H
#define TENSORPORT_DECODE_RANGE_H

#include <stddef.h>
#include <stdint.h>

#include "decode/codec.h"

/* Source elements (or blocks) [first, first + count) cover the decoded range; the range
 * begins `skip` decoded bytes after the start of element (or block) `first`. */
struct tp_cover {
    uint64_t first;
    uint64_t count;
    size_t skip;
};

/* `unit` is the number of decoded bytes of one element or block; offset + length must not
 * overflow. length 0 gives count 0. */
struct tp_cover tp_range_cover(uint64_t offset, uint64_t length, size_t unit);

/* Converts with `convert`; `source` points at element `first` of the cover. Writes exactly
 * `length` bytes at `target`. */
void tp_range_convert(tp_convert_fn *convert, size_t source_width, size_t target_width,
                      const void *source, size_t skip, void *target, size_t length);

/* The same for MXFP4; `blocks` and `scales` point at block `first` of the cover. */
void tp_range_mxfp4(tp_mxfp4_fn *decode, size_t target_width, const uint8_t *blocks,
                    const uint8_t *scales, size_t skip, void *target, size_t length);

#endif
