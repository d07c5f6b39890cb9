/* The tables behind kernels.h, one for each instruction set. */
#ifndef TENSORPORT_INFER_CPU_KERNEL_TABLES_H
#define TENSORPORT_INFER_CPU_KERNEL_TABLES_H

#include "infer/cpu/kernels.h"

extern const struct tp_kernels tp_kernels_scalar;
extern const struct tp_kernels tp_kernels_avx2;
extern const struct tp_kernels tp_kernels_avx512;      /* without products of BF16 pairs */
extern const struct tp_kernels tp_kernels_avx512_bf16; /* the same with them */

extern const struct tp_product_kernels tp_products_avx512_bf16;

#endif
