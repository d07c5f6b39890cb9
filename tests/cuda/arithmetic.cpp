/* What a warp's tensor core does. gpu.cuh has the places of the numbers. */
#include "tests/cuda/block.h"

typedef float half_row __attribute__((vector_size(4 * sizeof(float))));

static float first_of(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}

static float second_of(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

void tp_tiles_put(tp_tiles *tiles, unsigned lane, const uint32_t a[4], const uint32_t b[2])
{
    unsigned g = lane / 4, k = 2 * (lane % 4);
    for (unsigned i = 0; i < 4; i++) {
        float *two = &tiles->a[g + i % 2 * 8][k + i / 2 * 8];
        two[0] = first_of(a[i]);
        two[1] = second_of(a[i]);
    }
    for (unsigned i = 0; i < 2; i++) {
        tiles->b[k + i * 8][g] = first_of(b[i]);
        tiles->b[k + i * 8 + 1][g] = second_of(b[i]);
    }
}

void tp_tiles_add(const tp_tiles *tiles, unsigned lane, float c[4])
{
    for (unsigned i = 0; i < 4; i++)
        c[i] += tiles->c[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
}

void tp_tiles_multiply(tp_tiles *tiles)
{
    const half_row(*b)[2] = (const half_row(*)[2])tiles->b;
    half_row(*c)[2] = (half_row(*)[2])tiles->c;
    for (unsigned row = 0; row < 16; row++) {
        half_row left = {}, right = {};
        for (unsigned k = 0; k < 16; k++) {
            left += tiles->a[row][k] * b[k][0];
            right += tiles->a[row][k] * b[k][1];
        }
        c[row][0] = left;
        c[row][1] = right;
    }
}
