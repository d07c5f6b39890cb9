/* All kernels, for the harness: a namespace for each file, as their statics are a file's own. */
#define TP_GPU_HARNESS "tests/cuda/harness.h"
#include "cuda/layer.cuh"
#include "cuda/many_tile.cuh"

namespace arrays
{
#include "cuda/arrays.cu"
}
namespace attend
{
#include "cuda/attend.cu"
}
namespace choose
{
#include "cuda/choose.cu"
}
namespace few
{
#include "cuda/few.cu"
}
namespace many
{
#include "cuda/many.cu"
}
namespace many_attend
{
#include "cuda/many_attend.cu"
}
namespace many_rows
{
#include "cuda/many_rows.cu"
}
namespace peaks
{
#include "cuda/peaks.cu"
}
namespace product
{
#include "cuda/product.cu"
}
