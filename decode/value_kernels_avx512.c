#define VALUE_VECTOR_BYTES 64
#define VALUE_KERNELS      tp_value_kernels_avx512
#include "decode/value_kernels.inc"
