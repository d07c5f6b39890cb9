/* What a core can do at most: reading memory, and multiplying in registers. */
#ifndef TENSORPORT_BENCH_INFER_PEAKS_H
#define TENSORPORT_BENCH_INFER_PEAKS_H

#include <stddef.h>

/* Reads all of it; `bytes` is a multiple of 512. */
void bench_read(const void *memory, size_t bytes);

/* Each does a fixed number of multiply-adds (lanes counted) and returns it; 0 if this machine has
 * no such instruction. */
double bench_multiply_f32(void);
double bench_multiply_bf16(void);

#endif
