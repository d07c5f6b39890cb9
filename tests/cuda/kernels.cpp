/* All kernels, for the harness. */
#define TP_GPU_HARNESS "tests/cuda/harness.h"
#include "cuda/attend.cu"
#include "cuda/few.cu"
#include "cuda/peaks.cu"
