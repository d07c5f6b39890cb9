/* For every machine: the compiler makes SSE2 or NEON of it. */
#define VALUE_VECTOR_BYTES 16
#define VALUE_KERNELS      tp_value_kernels_base
#include "decode/value_kernels.inc"
