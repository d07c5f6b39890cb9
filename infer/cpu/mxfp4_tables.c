#include "infer/cpu/mxfp4_tables.h"

/* (1 + half / 2) * 2^(scale - 127 + exponent). */
#define MAGNITUDE(scale, exponent, half)                                                            \
    ((scale) == 255               ? 0x7fc00000u                                                     \
     : (scale) + (exponent) > 254 ? 0x7f800000u                                                     \
     : (scale) + (exponent) > 0   ? (unsigned)((scale) + (exponent)) << 23 | (unsigned)(half) << 22 \
     : (scale) + (exponent) == 0  ? (2u + (half)) << 21                                             \
                                  : 1u << 21)
#define ZERO(scale) ((scale) == 255 ? 0x7fc00000u : 0u)
#define NUMBER(scale, exponent, half, sign, shift)                                                 \
    ((MAGNITUDE(scale, exponent, half) | ((scale) != 255 ? (sign) : 0)) >> (shift))

/* 0, 0.5, 1, 1.5, 2, 3, 4, 6. */
#define EIGHT(scale, sign, shift)                                                                  \
    (ZERO(scale) | ((scale) != 255 ? (sign) : 0)) >> (shift), NUMBER(scale, -1, 0, sign, shift),   \
        NUMBER(scale, 0, 0, sign, shift), NUMBER(scale, 0, 1, sign, shift),                        \
        NUMBER(scale, 1, 0, sign, shift), NUMBER(scale, 1, 1, sign, shift),                        \
        NUMBER(scale, 2, 0, sign, shift), NUMBER(scale, 2, 1, sign, shift)
#define SIXTEEN(scale, shift) EIGHT(scale, 0, shift), EIGHT(scale, 0x80000000u, shift)

#define F32(scale)                                                                                 \
    {                                                                                              \
        SIXTEEN(scale, 0)                                                                          \
    }
#define BF16(scale)                                                                                \
    {                                                                                              \
        SIXTEEN(scale, 16), SIXTEEN(scale, 16)                                                     \
    }
#define BY_4(row, scale) row(scale), row((scale) + 1), row((scale) + 2), row((scale) + 3)
#define BY_16(row, scale)                                                                          \
    BY_4(row, scale), BY_4(row, (scale) + 4), BY_4(row, (scale) + 8), BY_4(row, (scale) + 12)
#define BY_64(row, scale)                                                                          \
    BY_16(row, scale), BY_16(row, (scale) + 16), BY_16(row, (scale) + 32), BY_16(row, (scale) + 48)

_Alignas(64) const uint32_t tp_mxfp4_f32[256][16] = {
    BY_64(F32, 0),
    BY_64(F32, 64),
    BY_64(F32, 128),
    BY_64(F32, 192),
};

_Alignas(64) const uint16_t tp_mxfp4_bf16[256][32] = {
    BY_64(BF16, 0),
    BY_64(BF16, 64),
    BY_64(BF16, 128),
    BY_64(BF16, 192),
};
