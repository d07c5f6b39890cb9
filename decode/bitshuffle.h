/* Bitshuffle: the bits of elements, sorted by their place in the element.
 *
 * Weights have random mantissas and nearly constant exponents. Byte by byte the two are mixed;
 * transposed, the bits of the exponents become long runs that LZ4 can shorten.
 *
 *     element 0: b15 ... b0        row 0:  bit 0 of the elements 0, 1, 2, ...
 *     element 1: b15 ... b0   ->   row 1:  bit 1 of the elements 0, 1, 2, ...
 *        ...                          ...
 *
 * n elements of `width` bytes give 8 * width rows of n / 8 bytes. Row 8 * j + k holds bit k (0 is
 * the least significant) of byte j of each element; bit i % 8 of a row's byte i / 8 belongs to
 * element i. What is left over when `length` is no multiple of 8 elements follows the rows as it
 * is. That is the layout of bshuf_bitshuffle() of the bitshuffle library (Masui et al., "A
 * compression scheme for radio data in high performance computing", 2015) for one block.
 */
#ifndef TENSORPORT_DECODE_BITSHUFFLE_H
#define TENSORPORT_DECODE_BITSHUFFLE_H

#include <stddef.h>

#include "decode/codec.h"

/* `length` bytes; `width` is 1, 2, 4 or 8. Any alignment, no overlap. One undoes the other. */
void tp_bitshuffle(const struct tp_codecs *codecs, const void *source, void *target, size_t length,
                   size_t width);
void tp_bitunshuffle(const struct tp_codecs *codecs, const void *source, void *target,
                     size_t length, size_t width);

#endif
