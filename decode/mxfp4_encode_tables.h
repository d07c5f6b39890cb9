/* The encoders of the instruction sets, private to the codecs: decode/mxfp4_encode.h says what
 * they do. */
#ifndef TENSORPORT_DECODE_MXFP4_ENCODE_TABLES_H
#define TENSORPORT_DECODE_MXFP4_ENCODE_TABLES_H

#include "decode/codec.h"

tp_mxfp4_encode_fn tp_mxfp4_encode_f32_scalar, tp_mxfp4_encode_f16_scalar,
    tp_mxfp4_encode_bf16_scalar;
tp_mxfp4_encode_fn tp_mxfp4_encode_f32_avx2, tp_mxfp4_encode_f16_avx2, tp_mxfp4_encode_bf16_avx2;
tp_mxfp4_encode_fn tp_mxfp4_encode_f32_avx512, tp_mxfp4_encode_f16_avx512,
    tp_mxfp4_encode_bf16_avx512;
tp_mxfp4_encode_fn tp_mxfp4_encode_f32_neon, tp_mxfp4_encode_f16_neon, tp_mxfp4_encode_bf16_neon;

/* The largest magnitudes, by exponent field, of the blocks that vectors take: from 5 on every
 * threshold between two codes is a normal number, and 255 is infinity or NaN. Other blocks are
 * left to the scalar code. */
enum { TP_MXFP4_LEAST_FIELD = 5, TP_MXFP4_GREATEST_FIELD = 254 };

#endif
