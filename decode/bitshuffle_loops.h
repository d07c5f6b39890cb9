/* The loops over elements: included by the files of the instruction sets after write_rows() and
 * write_elements() are defined.
 *
 * Rows are as far apart as a power of two in most blocks, so that their lines fall into the same
 * few sets of the first-level cache and push each other out. Therefore 512 elements at a time are
 * written to a tile, and from there in whole lines: two to seven times as fast. Reading suffers
 * less, and a tile would cost more than it saves.
 */
#ifndef TENSORPORT_DECODE_BITSHUFFLE_LOOPS_H
#define TENSORPORT_DECODE_BITSHUFFLE_LOOPS_H

enum { LINE = 64, TILE_ELEMENTS = 8 * LINE };

INLINE void shuffle(const uint8_t *source, uint8_t *target, size_t n, size_t width)
{
    uint8_t tile[8 * WIDTH_MAX][LINE] __attribute__((aligned(LINE)));
    size_t row = n / 8, i = 0;
    for (; i + TILE_ELEMENTS <= n; i += TILE_ELEMENTS) {
        for (size_t k = 0; k < TILE_ELEMENTS; k += LANES)
            write_rows(source + (i + k) * width, &tile[0][k / 8], LINE, width);
        for (size_t r = 0; r < 8 * width; r++)
            memcpy(target + r * row + i / 8, tile[r], LINE);
    }
    for (; i + LANES <= n; i += LANES)
        write_rows(source + i * width, target + i / 8, row, width);
    tp_bitshuffle_scalar_from(i, source, target, n, width);
}

INLINE void unshuffle(const uint8_t *source, uint8_t *target, size_t n, size_t width)
{
    size_t row = n / 8, i = 0;
    for (; i + LANES <= n; i += LANES)
        write_elements(source + i / 8, row, target + i * width, width);
    tp_bitunshuffle_scalar_from(i, source, target, n, width);
}

#endif
