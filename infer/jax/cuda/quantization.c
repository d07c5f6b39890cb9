/* mxfp4_quantize and mxfp4_dequantize for a GPU: a kernel each, without memory of their own, so
 * that XLA may record them. */
#include "infer/jax/calls.h"
#include "infer/jax/cuda/gpu.h"
#include "infer/jax/handlers.h"

enum { VALUES_OF_BLOCK = 32, VALUES_OF_THREAD = 8 };

static int convert(const struct tp_frame *frame, const struct tp_conversion_call *call,
                   tp_kernel_fn *kernel, struct tp_error *error)
{
    struct tp_gpu_call gpu;
    enum tp_dtype dtype = call->values.dtype;
    struct tp_array_blocks a = {.values = call->values.data,
                                .type = dtype == TP_F32   ? TP_ARRAY_F32
                                        : dtype == TP_F16 ? TP_ARRAY_F16
                                                          : TP_ARRAY_BF16,
                                .blocks = call->blocks.data,
                                .scales = call->scales.data,
                                .n = call->scales.elements};
    if (a.n == 0)
        return 0;
    int rc = tp_gpu_begin(frame, &gpu, error);
    if (rc != 0)
        return rc;
    const unsigned grid[3] = {tp_gpu_blocks(&gpu, a.n * VALUES_OF_BLOCK / VALUES_OF_THREAD), 1, 1};
    tp_gpu_launch(&gpu, kernel, &a, sizeof a, grid, TP_ROW_THREADS, 0);
    return tp_gpu_end(&gpu);
}

static int mxfp4_quantize(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_conversion_call call;
    int rc = tp_open_mxfp4_quantize(frame, &call, error);
    return rc == 0 ? convert(frame, &call, tp_array_quantize, error) : rc;
}

static int mxfp4_dequantize(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_conversion_call call;
    int rc = tp_open_mxfp4_dequantize(frame, &call, error);
    return rc == 0 ? convert(frame, &call, tp_array_dequantize, error) : rc;
}

struct XLA_FFI_Error *tensorport_mxfp4_quantize(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle_replayable(frame, "mxfp4_quantize", mxfp4_quantize);
}

struct XLA_FFI_Error *tensorport_mxfp4_dequantize(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle_replayable(frame, "mxfp4_dequantize", mxfp4_dequantize);
}
