#define VALUE_VECTOR_BYTES 32
#define VALUE_KERNELS      tp_value_kernels_avx2
#include "decode/value_kernels.inc"
