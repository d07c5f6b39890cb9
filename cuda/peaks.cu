/* Kernels that do one thing only, as fast as the device does it: what others are measured by. */
#include "cuda/gpu.cuh"
#include "cuda/kernels.h"

/* Each thread has four loads on the way. A block takes neighbouring bytes. */
TP_KERNEL(tp_peak_copy, struct tp_peak_copy, TP_PEAK_THREADS)
{
    enum { LOADS = 4 };
    const uint4 *source = (const uint4 *)a->source;
    uint4 *target = (uint4 *)a->target;
    size_t n = a->bytes / sizeof(uint4), stride = (size_t)gridDim.x * TP_PEAK_THREADS * LOADS;
    size_t first = (size_t)blockIdx.x * TP_PEAK_THREADS * LOADS + threadIdx.x;
    for (size_t i = first; i < n; i += stride) {
        uint4 v[LOADS];
#pragma unroll
        for (size_t j = 0; j < LOADS; j++) {
            if (i + j * TP_PEAK_THREADS < n)
                v[j] = tp_load_once(&source[i + j * TP_PEAK_THREADS]);
        }
#pragma unroll
        for (size_t j = 0; j < LOADS; j++) {
            if (i + j * TP_PEAK_THREADS < n)
                target[i + j * TP_PEAK_THREADS] = v[j];
        }
    }
}

/* Two BF16 between 1 and 2, of either sign: zeros would take less power, and run faster. */
TP_DEVICE uint32_t some_pair(uint32_t i)
{
    uint32_t x = i * 0x9e3779b9u;
    x = (x ^ x >> 15) * 0x85ebca6bu;
    return (x & 0x807f807fu) | 0x3f803f80u;
}

/* Each warp has chains enough for the time that a product takes to come out. */
TP_KERNEL(tp_peak_multiply, struct tp_peak_multiply, TP_PEAK_THREADS)
{
    float sums[TP_PEAK_CHAINS][4] = {{0}};
    uint32_t x[TP_PEAK_CHAINS][4], y[2], thread = blockIdx.x * TP_PEAK_THREADS + threadIdx.x;
#pragma unroll
    for (uint32_t i = 0; i < TP_PEAK_CHAINS; i++) {
        for (uint32_t j = 0; j < 4; j++)
            x[i][j] = some_pair(thread + 64 * (4 * i + j));
    }
    y[0] = some_pair(~thread);
    y[1] = some_pair(~thread - 1);
    for (uint32_t step = 0; step < a->steps; step++) {
#pragma unroll
        for (uint32_t i = 0; i < TP_PEAK_CHAINS; i++)
            tp_multiply_tiles(sums[i], x[i], y);
    }
    float sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < TP_PEAK_CHAINS; i++)
        sum += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
    a->sums[thread] = sum;
}
