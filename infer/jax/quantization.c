/* mxfp4_quantize and mxfp4_dequantize: decode/'s codecs over runs of blocks, by all threads. */
#include <errno.h>
#include <string.h>

#include "decode/codec.h"
#include "decode/mxfp4_encode.h"
#include "infer/jax/calls.h"
#include "infer/jax/frame.h"
#include "infer/jax/handlers.h"
#include "infer/jax/process.h"

/* A piece is what fits a core's cache with its result. */
enum { BLOCKS_OF_PIECE = 1024 };

struct conversion {
    tp_mxfp4_encode_fn *encode; /* or NULL: then decode */
    tp_mxfp4_fn *decode;
    uint8_t *values, *blocks, *scales;
    size_t value_bytes, n_blocks;
};

static void convert_piece(void *context, size_t item, size_t thread)
{
    const struct conversion *c = context;
    size_t first = item * BLOCKS_OF_PIECE, rest = c->n_blocks - first;
    size_t n = rest < BLOCKS_OF_PIECE ? rest : BLOCKS_OF_PIECE;
    uint8_t *values = c->values + first * TP_MXFP4_BLOCK_ELEMENTS * c->value_bytes;
    uint8_t *blocks = c->blocks + first * TP_MXFP4_BLOCK_BYTES, *scales = c->scales + first;
    (void)thread;
    if (c->encode != NULL)
        c->encode(values, blocks, scales, n);
    else
        c->decode(blocks, scales, values, n);
}

static int convert(struct conversion *c, struct tp_error *error)
{
    struct tp_process *process;
    if (c->n_blocks == 0)
        return 0;
    int rc = tp_process_enter(&process, error);
    if (rc != 0)
        return rc;
    tp_pool_run(process->workspace.pool, (c->n_blocks + BLOCKS_OF_PIECE - 1) / BLOCKS_OF_PIECE,
                convert_piece, c);
    tp_process_leave();
    return 0;
}

static int mxfp4_quantize(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_conversion_call call;
    int rc = tp_open_mxfp4_quantize(frame, &call, error);
    if (rc != 0)
        return rc;
    struct conversion c = {.encode = tp_mxfp4_encoder(tp_codecs(), call.values.dtype),
                           .values = call.values.data,
                           .blocks = call.blocks.data,
                           .scales = call.scales.data,
                           .value_bytes = tp_dtype_size(call.values.dtype),
                           .n_blocks = call.scales.elements};
    return convert(&c, error);
}

static int mxfp4_dequantize(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_conversion_call call;
    int rc = tp_open_mxfp4_dequantize(frame, &call, error);
    if (rc != 0)
        return rc;
    enum tp_target target = call.values.dtype == TP_F32   ? TP_TARGET_F32
                            : call.values.dtype == TP_F16 ? TP_TARGET_F16
                                                          : TP_TARGET_BF16;
    struct conversion c = {.decode = tp_codecs()->mxfp4[target],
                           .values = call.values.data,
                           .blocks = call.blocks.data,
                           .scales = call.scales.data,
                           .value_bytes = tp_dtype_size(call.values.dtype),
                           .n_blocks = call.scales.elements};
    return convert(&c, error);
}

struct XLA_FFI_Error *tensorport_mxfp4_quantize(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle(frame, "mxfp4_quantize", mxfp4_quantize);
}

struct XLA_FFI_Error *tensorport_mxfp4_dequantize(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle(frame, "mxfp4_dequantize", mxfp4_dequantize);
}
