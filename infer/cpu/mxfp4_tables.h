/* Every MXFP4 number: 256 scales by 16 codes. A lookup costs one load that the code needs anyway,
 * while arithmetic on the scale would cost instructions and treat its ends apart. */
#ifndef TENSORPORT_INFER_CPU_MXFP4_TABLES_H
#define TENSORPORT_INFER_CPU_MXFP4_TABLES_H

#include <stdint.h>

/* Bits of float32; scale 255 is NaN, too large a number infinity. Aligned to 64. */
extern const uint32_t tp_mxfp4_f32[256][16];

/* Bits of BF16, which holds all of them; each row twice, for lookups by five bits. */
extern const uint16_t tp_mxfp4_bf16[256][32];

#endif
