/* The kernels for AVX2, FMA and F16C: 16 registers of 8 lanes. */
#include "infer/cpu/kernel_tables.h"
#include "infer/cpu/lanes_avx2.h"

/* 12 sums in registers, 3 vectors and a weight beside them. */
#define PANEL_BLOCKS      32
#define TILE_ROWS         4
#define TILE_VECTORS      3
#define FEW_ROWS(n)       ((n) <= 2 ? 4 : 2)
#define FEW_MXFP4_ROWS(n) ((n) <= 2 ? 4 : 2)
#define PASSES            8, 8 /* passes_up_to, mxfp4_passes_up_to */
#define HEADS_AT_ONCE     4
#define MIXED_HEADS       2

#include "infer/cpu/products_f32.inc"

#include "infer/cpu/elementwise.inc"

#include "infer/cpu/attend.inc"

#include "infer/cpu/quantize.inc"

#include "infer/cpu/table.inc"

const struct tp_kernels tp_kernels_avx2 = KERNEL_TABLE("avx2", NULL);
