/* The transpositions of the instruction sets, private to the codecs.
 *
 * `n` is a multiple of 8. The *_from functions of the scalar file transpose what the vectors of
 * the others leave over: elements [first, n), `first` a multiple of 8. */
#ifndef TENSORPORT_DECODE_BITSHUFFLE_TABLES_H
#define TENSORPORT_DECODE_BITSHUFFLE_TABLES_H

#include "decode/codec.h"

tp_bitshuffle_fn tp_bitshuffle_scalar, tp_bitunshuffle_scalar;
tp_bitshuffle_fn tp_bitshuffle_avx2, tp_bitunshuffle_avx2;
tp_bitshuffle_fn tp_bitshuffle_avx512, tp_bitunshuffle_avx512;

void tp_bitshuffle_scalar_from(size_t first, const uint8_t *source, uint8_t *target, size_t n,
                               size_t width);
void tp_bitunshuffle_scalar_from(size_t first, const uint8_t *source, uint8_t *target, size_t n,
                                 size_t width);

#endif
