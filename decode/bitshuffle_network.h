/* Sorts the bytes of elements by their place, for any vector type: included by the files of the
 * instruction sets after these are defined:
 *
 *     vector                   LANES bytes
 *     split(unit, &a, &b)      numbers of `unit` bytes in a and then b: a becomes all their lower
 *                              halves, b all their upper ones
 *     join(unit, &a, &b)       the way back
 *     UNROLL, INLINE           so that units are constants, and arrays registers
 */
#ifndef TENSORPORT_DECODE_BITSHUFFLE_NETWORK_H
#define TENSORPORT_DECODE_BITSHUFFLE_NETWORK_H

INLINE void swap(vector *a, vector *b)
{
    vector t = *a;
    *a = *b;
    *b = t;
}

/* v[0] to v[width - 1] hold LANES elements as they lie in memory; afterwards v[j] holds byte j of
 * each. */
INLINE void deinterleave(vector v[WIDTH_MAX], size_t width)
{
    if (width == 8) {
        UNROLL for (size_t i = 0; i < 8; i += 2) split(8, &v[i], &v[i + 1]);
        /* lower halves 0 2 4 6, upper halves 1 3 5 7 */
        UNROLL for (size_t i = 0; i < 8; i += 4)
        {
            split(4, &v[i], &v[i + 2]);
            split(4, &v[i + 1], &v[i + 3]);
        }
        /* 16 bits of place 0, 2, 1, 3 in each four */
        UNROLL for (size_t i = 0; i < 4; i++) split(2, &v[i], &v[i + 4]);
        /* bytes 0 4 2 6, then 1 5 3 7 */
        swap(&v[1], &v[4]);
        swap(&v[3], &v[6]);
    } else if (width == 4) {
        split(4, &v[0], &v[1]);
        split(4, &v[2], &v[3]);
        split(2, &v[0], &v[2]);
        split(2, &v[1], &v[3]);
        swap(&v[1], &v[2]);
    } else if (width == 2) {
        split(2, &v[0], &v[1]);
    }
}

INLINE void interleave(vector v[WIDTH_MAX], size_t width)
{
    if (width == 8) {
        swap(&v[1], &v[4]);
        swap(&v[3], &v[6]);
        UNROLL for (size_t i = 0; i < 4; i++) join(2, &v[i], &v[i + 4]);
        UNROLL for (size_t i = 0; i < 8; i += 4)
        {
            join(4, &v[i], &v[i + 2]);
            join(4, &v[i + 1], &v[i + 3]);
        }
        UNROLL for (size_t i = 0; i < 8; i += 2) join(8, &v[i], &v[i + 1]);
    } else if (width == 4) {
        swap(&v[1], &v[2]);
        join(2, &v[0], &v[2]);
        join(2, &v[1], &v[3]);
        join(4, &v[0], &v[1]);
        join(4, &v[2], &v[3]);
    } else if (width == 2) {
        join(2, &v[0], &v[1]);
    }
}

#endif
