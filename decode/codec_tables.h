/* The tables of the instruction sets, private to the codecs. */
#ifndef TENSORPORT_DECODE_CODEC_TABLES_H
#define TENSORPORT_DECODE_CODEC_TABLES_H

#include "decode/codec.h"

extern const struct tp_codecs tp_codecs_scalar;
extern const struct tp_codecs tp_codecs_avx2;   /* needs AVX2, F16C, FMA, BMI2 */
extern const struct tp_codecs tp_codecs_avx512; /* needs AVX-512 F, BW, VL, DQ */
extern const struct tp_codecs tp_codecs_neon;   /* AArch64 */

#endif
