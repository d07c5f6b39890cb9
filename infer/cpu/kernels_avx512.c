/* The kernels for AVX-512 F, BW, DQ, VL: 32 registers of 16 lanes. */
#include "infer/cpu/kernel_tables.h"
#include "infer/cpu/lanes_avx512.h"

/* 24 sums in registers, 4 vectors and a weight beside them. */
#define PANEL_BLOCKS      24
#define TILE_ROWS         6
#define TILE_VECTORS      4
#define FEW_ROWS(n)       4
#define FEW_MXFP4_ROWS(n) ((n) <= 2 ? 6 : 4)
#define PASSES            16, 64 /* passes_up_to, mxfp4_passes_up_to */
#define HEADS_AT_ONCE     8
#define MIXED_HEADS       4

#include "infer/cpu/products_f32.inc"

#include "infer/cpu/elementwise.inc"

#include "infer/cpu/attend.inc"

#include "infer/cpu/quantize.inc"

#include "infer/cpu/table.inc"

const struct tp_kernels tp_kernels_avx512 = KERNEL_TABLE("avx512", NULL);
const struct tp_kernels tp_kernels_avx512_bf16 = KERNEL_TABLE("avx512", &tp_products_avx512_bf16);
