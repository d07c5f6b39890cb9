/* Codecs: exact or correctly rounded conversions from stored element types to floats.
 *
 * Memory to memory, caller-owned buffers, no state, no failure: sizes were checked when the
 * checkpoint was opened. One scalar reference (codec_scalar.c) defines every result; the
 * variants for instruction sets agree with it bit for bit, NaN included.
 *
 * Policy:
 *  - rounding is to nearest, ties to even; overflow gives infinity; subnormals are kept on
 *    both sides, whatever MXCSR says; the sign of zero is kept; F64 is rounded once;
 *  - NaN stays NaN with its sign and its top payload bits, and every conversion but BF16 to
 *    F32, which is a shift, sets the quiet bit; sources without payload (E8M0, MXFP4 scale
 *    255) give the positive quiet NaN 0x7fc00000, 0x7e00, 0x7fc0;
 *  - F8_E4M3 is the "fn" type (no infinity, 0x7f and 0xff are NaN), F8_E5M2 has infinities,
 *    F8_E8M0 is 2^(x - 127) with 255 NaN (OCP MX specification 1.0, section 5);
 *  - MXFP4 is E2M1 codes, low nibble first, times an E8M0 scale for each 32 of them; scale
 *    255 makes the whole block NaN. Exact in F32 and BF16 except for overflow to infinity.
 */
#ifndef TENSORPORT_DECODE_CODEC_H
#define TENSORPORT_DECODE_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "decode/dtype.h"

enum {
    TP_MXFP4_BLOCK_BYTES = 16,    /* stored bytes of the codes of one block */
    TP_MXFP4_BLOCK_ELEMENTS = 32, /* elements that share one scale */
};

/* Converts `n` elements. `source` and `target` may have any alignment and do not overlap. */
typedef void tp_convert_fn(const void *source, void *target, size_t n);

/* Decodes `n_blocks` blocks: `blocks` [n_blocks][16], `scales` [n_blocks], `target`
 * [n_blocks][32]. Any alignment, no overlap. */
typedef void tp_mxfp4_fn(const uint8_t *blocks, const uint8_t *scales, void *target,
                         size_t n_blocks);

/* Quantises `n_blocks` blocks: see decode/mxfp4_encode.h. */
typedef void tp_mxfp4_encode_fn(const void *values, uint8_t *blocks, uint8_t *scales,
                                size_t n_blocks);

/* Transposes bits: see decode/bitshuffle.h, whose functions call these. `n` elements of `width`
 * bytes; n is a multiple of 8. */
typedef void tp_bitshuffle_fn(const uint8_t *source, uint8_t *target, size_t n, size_t width);

/* The types that can be decoded to. */
enum tp_target { TP_TARGET_F32, TP_TARGET_F16, TP_TARGET_BF16, TP_N_TARGETS };

enum tp_dtype tp_target_dtype(enum tp_target target);

struct tp_codecs {
    const char *name; /* "scalar", "avx2", "avx512", "neon" */
    /* NULL where the source is no float, and where source and target are one type. */
    tp_convert_fn *convert[TP_N_DTYPES][TP_N_TARGETS];
    tp_mxfp4_fn *mxfp4[TP_N_TARGETS];
    tp_mxfp4_encode_fn *mxfp4_encode[TP_N_TARGETS]; /* from these types */
    tp_bitshuffle_fn *bitshuffle, *bitunshuffle;
};

/* The best table for this machine, or the one that TENSORPORT_ISA names. Thread-safe; the
 * choice is made once. An unknown or unsupported name falls back to the best table: programs
 * check it at start with tp_codecs_by_name() and say so. */
const struct tp_codecs *tp_codecs(void);

/* The table called `name`, or NULL when this machine or this build has none such. */
const struct tp_codecs *tp_codecs_by_name(const char *name);

/* The names of all tables of this build, best first, NULL at the end. */
const char *const *tp_codecs_names(void);

#endif
