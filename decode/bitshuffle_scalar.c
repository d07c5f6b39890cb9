/* The reference: eight elements at a time, whose bytes j are a matrix of 8 x 8 bits. */
#include "decode/bitshuffle_tables.h"

/* Transposes 8 x 8 bits: bit k of byte i becomes bit i of byte k. Blocks of 1, 2 and 4 bits are
 * exchanged across the diagonal (Warren, "Hacker's Delight", section 7-3). */
static uint64_t transpose_8x8(uint64_t x)
{
    uint64_t t = (x ^ x >> 7) & UINT64_C(0x00aa00aa00aa00aa);
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & UINT64_C(0x0000cccc0000cccc);
    x ^= t ^ t << 14;
    t = (x ^ x >> 28) & UINT64_C(0x00000000f0f0f0f0);
    return x ^ t ^ t << 28;
}

/* Eight bytes, `step` apart, as one number, the first lowest; and back. */
static uint64_t gather(const uint8_t *bytes, size_t step)
{
    uint64_t x = 0;
    for (size_t i = 0; i < 8; i++)
        x |= (uint64_t)bytes[i * step] << 8 * i;
    return x;
}

static void scatter(uint64_t x, uint8_t *bytes, size_t step)
{
    for (size_t i = 0; i < 8; i++)
        bytes[i * step] = (uint8_t)(x >> 8 * i);
}

void tp_bitshuffle_scalar_from(size_t first, const uint8_t *source, uint8_t *target, size_t n,
                               size_t width)
{
    size_t row = n / 8;
    for (size_t i = first; i < n; i += 8) {
        for (size_t j = 0; j < width; j++)
            scatter(transpose_8x8(gather(source + i * width + j, width)),
                    target + 8 * j * row + i / 8, row);
    }
}

void tp_bitunshuffle_scalar_from(size_t first, const uint8_t *source, uint8_t *target, size_t n,
                                 size_t width)
{
    size_t row = n / 8;
    for (size_t i = first; i < n; i += 8) {
        for (size_t j = 0; j < width; j++)
            scatter(transpose_8x8(gather(source + 8 * j * row + i / 8, row)),
                    target + i * width + j, width);
    }
}

void tp_bitshuffle_scalar(const uint8_t *source, uint8_t *target, size_t n, size_t width)
{
    tp_bitshuffle_scalar_from(0, source, target, n, width);
}

void tp_bitunshuffle_scalar(const uint8_t *source, uint8_t *target, size_t n, size_t width)
{
    tp_bitunshuffle_scalar_from(0, source, target, n, width);
}
