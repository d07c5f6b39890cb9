/* Quantising to MXFP4, as the OCP MX specification 1.0, section 6.3, has it.
 *
 * A block is 32 values that share a scale, the power of two that brings the largest of them
 * between 4 and 8:
 *
 *     shared exponent = floor(log2(max |v|)) - 2       (2: the largest exponent of E2M1)
 *     scale           = E8M0 of it, clamped to 2^-127 from below
 *     code            = v / scale, to the nearest of 0, .5, 1, 1.5, 2, 3, 4, 6, ties to the
 *                       even code, saturating at 6, with v's sign also where it becomes zero
 *
 * What the specification leaves open:
 *  - a block of zeros has scale 0 (2^-127), as torchao and microxcaling write it, and so has
 *    every block whose largest value is below 2^-124;
 *  - a NaN makes the whole block NaN: scale 255, every code 0;
 *  - an infinity counts as 2^128 for the scale, which is 253 then, and saturates at 6, which
 *    decodes to infinity in F32 and BF16. Finite values keep their place beside it, and no other
 *    block has a scale above 252: whoever refuses such values looks for scales above that.
 *
 * Blocks as this writes them are canonical: decoded to F32 or BF16 and quantised again they are
 * the same bytes. Canonical are scales of 1 to 252 with a code of magnitude 4 or 6, scale 0 with
 * any codes, scale 253 with a 6 and without a 4, and scale 255 with zeros.
 *
 * Pure memory to memory, exact, whatever the floating-point mode: comparisons and shifts of bit
 * patterns. Every instruction set gives the same bytes. Thread-safe.
 */
#ifndef TENSORPORT_DECODE_MXFP4_ENCODE_H
#define TENSORPORT_DECODE_MXFP4_ENCODE_H

#include "decode/codec.h"

enum { TP_MXFP4_SCALE_OF_INFINITY = 253, TP_MXFP4_SCALE_OF_NAN = 255 };

/* The encoder from TP_F32, TP_F16 or TP_BF16 values: `values` [n_blocks][32] to `blocks`
 * [n_blocks][16], low nibble first, and `scales` [n_blocks]; any alignment, no overlap. NULL for
 * every other type. */
tp_mxfp4_encode_fn *tp_mxfp4_encoder(const struct tp_codecs *codecs, enum tp_dtype source);

#endif
