/* The scalar codecs: the reference that defines every result.
 *
 * A value goes through one neutral form, sign * significand * 2^exponent with an integer
 * significand: unpack() reads any small float into it and loses nothing, pack() rounds it
 * once. A conversion is the one after the other with constant formats, so that there is one
 * place for each rule of rounding, overflow, subnormals and NaN, and no arithmetic in floating
 * point that could depend on the state of the processor.
 *
 * NaN: the sign and the top bits of the fraction are kept and the quiet bit is set, as x86 and
 * Arm do in hardware. Sources without a fraction (E8M0, a scale of MXFP4) give the positive
 * quiet NaN without payload: 0x7fc00000, 0x7e00, 0x7fc0. Only BF16 to F32 leaves a signalling
 * NaN as it is, because that conversion is a shift.
 */
#include "decode/bitshuffle_tables.h"
#include "decode/codec_tables.h"
#include "decode/mxfp4_encode_tables.h"

#include <stdbool.h>
#include <string.h>

/* What the largest exponent field means. */
enum specials {
    NO_SPECIALS,      /* nothing special */
    NAN_AT_ALL_ONES,  /* NaN when the fraction is all ones too, else an ordinary number */
    INFINITY_AND_NAN, /* IEEE 754 */
};

struct format {
    int exponent_bits;
    int fraction_bits;
    enum specials specials;
};

static const struct format e2m1 = {2, 1, NO_SPECIALS};
static const struct format f8_e4m3 = {4, 3, NAN_AT_ALL_ONES};
static const struct format f8_e5m2 = {5, 2, INFINITY_AND_NAN};
static const struct format f16 = {5, 10, INFINITY_AND_NAN};
static const struct format bf16 = {8, 7, INFINITY_AND_NAN};
static const struct format f32 = {8, 23, INFINITY_AND_NAN};
static const struct format f64 = {11, 52, INFINITY_AND_NAN};

enum kind { FINITE, INFINITE, NOT_A_NUMBER };

struct value {
    enum kind kind;
    bool negative;
    int exponent;         /* finite: the value is significand * 2^exponent */
    uint64_t significand; /* NaN: the fraction, its top bit in bit 63 */
};

static inline int bias_of(struct format format)
{
    return (1 << (format.exponent_bits - 1)) - 1;
}

/* The exponent of the lowest fraction bit of subnormal numbers. */
static inline int lowest_exponent(struct format format)
{
    return 1 - bias_of(format) - format.fraction_bits;
}

static inline struct value unpack(uint64_t bits, struct format format)
{
    uint64_t fraction = bits & ((UINT64_C(1) << format.fraction_bits) - 1);
    int largest_field = (1 << format.exponent_bits) - 1;
    int field = (int)(bits >> format.fraction_bits) & largest_field;
    struct value value = {
        .kind = FINITE,
        .negative = bits >> (format.exponent_bits + format.fraction_bits) & 1,
    };

    if (field == largest_field && format.specials == INFINITY_AND_NAN)
        value.kind = fraction == 0 ? INFINITE : NOT_A_NUMBER;
    if (field == largest_field && format.specials == NAN_AT_ALL_ONES &&
        fraction + 1 == UINT64_C(1) << format.fraction_bits)
        value.kind = NOT_A_NUMBER;

    if (value.kind == NOT_A_NUMBER) {
        value.significand = fraction << (64 - format.fraction_bits);
    } else if (field == 0) {
        value.significand = fraction;
        value.exponent = lowest_exponent(format);
    } else {
        value.significand = fraction | UINT64_C(1) << format.fraction_bits;
        value.exponent = lowest_exponent(format) + field - 1;
    }
    return value;
}

/* significand / 2^drop, rounded to nearest, ties to even; a negative `drop` multiplies. */
static inline uint64_t round_off(uint64_t significand, int drop)
{
    if (drop <= 0)
        return significand << -drop;
    if (drop >= 64)
        return 0; /* significands have at most 53 bits: less than half a unit */
    uint64_t kept = significand >> drop;
    uint64_t rest = significand & ((UINT64_C(1) << drop) - 1);
    uint64_t half = UINT64_C(1) << (drop - 1);
    return rest > half || (rest == half && (kept & 1)) ? kept + 1 : kept;
}

/* The bits without sign of a finite value, or those of infinity when it is too large. */
static inline uint64_t pack_finite(struct value value, struct format format)
{
    if (value.significand == 0)
        return 0;
    /* The exponent of the lowest bit that the result can hold beside the value's top bit. */
    int top = value.exponent + 63 - __builtin_clzll(value.significand);
    int lowest = top - format.fraction_bits;
    if (lowest < lowest_exponent(format))
        lowest = lowest_exponent(format);

    /* The integer bit of a normal number adds one to the exponent field, which hence counts
     * from 0 here; a carry out of the rounding adds one in the same way. */
    uint64_t kept = round_off(value.significand, lowest - value.exponent);
    uint64_t bits = ((uint64_t)(lowest - lowest_exponent(format)) << format.fraction_bits) + kept;
    uint64_t infinity = ((UINT64_C(1) << format.exponent_bits) - 1) << format.fraction_bits;
    return bits < infinity ? bits : infinity;
}

/* `format` is IEEE-like, as all targets are. */
static inline uint64_t pack(struct value value, struct format format)
{
    uint64_t sign = (uint64_t)value.negative << (format.exponent_bits + format.fraction_bits);
    uint64_t infinity = ((UINT64_C(1) << format.exponent_bits) - 1) << format.fraction_bits;
    uint64_t quiet = UINT64_C(1) << (format.fraction_bits - 1);

    switch (value.kind) {
    case INFINITE:
        return sign | infinity;
    case NOT_A_NUMBER:
        return sign | infinity | quiet | value.significand >> (64 - format.fraction_bits);
    default:
        return sign | pack_finite(value, format);
    }
}

/* 2^(bits - 127): OCP MX specification 1.0, section 5.4.1. */
static inline struct value unpack_e8m0(uint8_t bits)
{
    if (bits == 255)
        return (struct value){.kind = NOT_A_NUMBER};
    return (struct value){.kind = FINITE, .significand = 1, .exponent = bits - 127};
}

/* Defines `name`: n elements of `source_type` through `unpacked`, an expression of `bits`. */
#define CONVERTER(name, source_type, unpacked, target_type, target_format)                         \
    static void name(const void *source, void *target, size_t n)                                   \
    {                                                                                              \
        for (size_t i = 0; i < n; i++) {                                                           \
            source_type bits;                                                                      \
            memcpy(&bits, (const char *)source + i * sizeof bits, sizeof bits);                    \
            target_type result = (target_type)pack(unpacked, target_format);                       \
            memcpy((char *)target + i * sizeof result, &result, sizeof result);                    \
        }                                                                                          \
    }

CONVERTER(f8_e4m3_to_f32, uint8_t, unpack(bits, f8_e4m3), uint32_t, f32)
CONVERTER(f8_e4m3_to_f16, uint8_t, unpack(bits, f8_e4m3), uint16_t, f16)
CONVERTER(f8_e4m3_to_bf16, uint8_t, unpack(bits, f8_e4m3), uint16_t, bf16)
CONVERTER(f8_e5m2_to_f32, uint8_t, unpack(bits, f8_e5m2), uint32_t, f32)
CONVERTER(f8_e5m2_to_f16, uint8_t, unpack(bits, f8_e5m2), uint16_t, f16)
CONVERTER(f8_e5m2_to_bf16, uint8_t, unpack(bits, f8_e5m2), uint16_t, bf16)
CONVERTER(f8_e8m0_to_f32, uint8_t, unpack_e8m0(bits), uint32_t, f32)
CONVERTER(f8_e8m0_to_f16, uint8_t, unpack_e8m0(bits), uint16_t, f16)
CONVERTER(f8_e8m0_to_bf16, uint8_t, unpack_e8m0(bits), uint16_t, bf16)
CONVERTER(f16_to_f32, uint16_t, unpack(bits, f16), uint32_t, f32)
CONVERTER(f16_to_bf16, uint16_t, unpack(bits, f16), uint16_t, bf16)
CONVERTER(bf16_to_f16, uint16_t, unpack(bits, bf16), uint16_t, f16)
CONVERTER(f32_to_f16, uint32_t, unpack(bits, f32), uint16_t, f16)
CONVERTER(f32_to_bf16, uint32_t, unpack(bits, f32), uint16_t, bf16)
CONVERTER(f64_to_f32, uint64_t, unpack(bits, f64), uint32_t, f32)
CONVERTER(f64_to_f16, uint64_t, unpack(bits, f64), uint16_t, f16)
CONVERTER(f64_to_bf16, uint64_t, unpack(bits, f64), uint16_t, bf16)

static void bf16_to_f32(const void *source, void *target, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, (const char *)source + i * sizeof bits, sizeof bits);
        uint32_t result = (uint32_t)bits << 16;
        memcpy((char *)target + i * sizeof result, &result, sizeof result);
    }
}

static inline struct value unpack_mxfp4(uint8_t code, uint8_t scale)
{
    struct value factor = unpack_e8m0(scale);
    if (factor.kind == NOT_A_NUMBER)
        return factor;
    struct value value = unpack(code, e2m1);
    value.exponent += factor.exponent;
    return value;
}

/* Defines `name`: a block has but sixteen values, so they are computed once for each. */
#define MXFP4_DECODER(name, target_type, target_format)                                            \
    static void name(const uint8_t *blocks, const uint8_t *scales, void *target, size_t n_blocks)  \
    {                                                                                              \
        for (size_t b = 0; b < n_blocks; b++) {                                                    \
            target_type values[16];                                                                \
            for (uint8_t code = 0; code < 16; code++)                                              \
                values[code] = (target_type)pack(unpack_mxfp4(code, scales[b]), target_format);    \
                                                                                                   \
            const uint8_t *codes = blocks + b * TP_MXFP4_BLOCK_BYTES;                              \
            target_type decoded[TP_MXFP4_BLOCK_ELEMENTS];                                          \
            for (size_t j = 0; j < TP_MXFP4_BLOCK_BYTES; j++) {                                    \
                decoded[2 * j] = values[codes[j] & 15];                                            \
                decoded[2 * j + 1] = values[codes[j] >> 4];                                        \
            }                                                                                      \
            memcpy((char *)target + b * sizeof decoded, decoded, sizeof decoded);                  \
        }                                                                                          \
    }

MXFP4_DECODER(mxfp4_to_f32, uint32_t, f32)
MXFP4_DECODER(mxfp4_to_f16, uint16_t, f16)
MXFP4_DECODER(mxfp4_to_bf16, uint16_t, bf16)

const struct tp_codecs tp_codecs_scalar = {
    .name = "scalar",
    .convert =
        {
            [TP_F8_E4M3] = {f8_e4m3_to_f32, f8_e4m3_to_f16, f8_e4m3_to_bf16},
            [TP_F8_E5M2] = {f8_e5m2_to_f32, f8_e5m2_to_f16, f8_e5m2_to_bf16},
            [TP_F8_E8M0] = {f8_e8m0_to_f32, f8_e8m0_to_f16, f8_e8m0_to_bf16},
            [TP_F16] = {f16_to_f32, NULL, f16_to_bf16},
            [TP_BF16] = {bf16_to_f32, bf16_to_f16, NULL},
            [TP_F32] = {NULL, f32_to_f16, f32_to_bf16},
            [TP_F64] = {f64_to_f32, f64_to_f16, f64_to_bf16},
        },
    .mxfp4 = {mxfp4_to_f32, mxfp4_to_f16, mxfp4_to_bf16},
    .mxfp4_encode = {tp_mxfp4_encode_f32_scalar, tp_mxfp4_encode_f16_scalar,
                     tp_mxfp4_encode_bf16_scalar},
    .bitshuffle = tp_bitshuffle_scalar,
    .bitunshuffle = tp_bitunshuffle_scalar,
};
