/* mxfp4_quantize and mxfp4_dequantize: decode/'s codecs over runs of blocks, by all threads. */
#include <errno.h>
#include <string.h>

#include "decode/codec.h"
#include "decode/mxfp4_encode.h"
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

/* `values` has the shape of `scales`, but for 32 columns in place of each scale. */
static int expect_columns(const struct tp_buffer *values, const struct tp_buffer *scales,
                          struct tp_error *error)
{
    size_t expected[TP_BUFFER_MAX_RANK];
    memcpy(expected, scales->dims, scales->rank * sizeof *expected);
    expected[scales->rank - 1] *= TP_MXFP4_BLOCK_ELEMENTS;
    return tp_buffer_expect(values, expected, scales->rank, error);
}

static int expect_all(const struct tp_buffer *values, const struct tp_buffer *blocks,
                      const struct tp_buffer *scales, struct tp_error *error)
{
    int rc = tp_buffer_expect_mxfp4(blocks, scales, 1, error);
    return rc == 0 ? expect_columns(values, scales, error) : rc;
}

static uint32_t float_types(void)
{
    return tp_types(TP_F32) | tp_types(TP_F16) | tp_types(TP_BF16);
}

static int mxfp4_quantize(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_buffer x, blocks, scales;
    int rc = tp_frame_count(frame, 1, 1, 2, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 0, "x", float_types(), &x, error);
    if (rc == 0)
        rc = tp_frame_result(frame, 0, "blocks", tp_types(TP_U8), &blocks, error);
    if (rc == 0)
        rc = tp_frame_result(frame, 1, "scales", tp_types(TP_U8), &scales, error);
    if (rc == 0)
        rc = expect_all(&x, &blocks, &scales, error);
    if (rc != 0)
        return rc;
    struct conversion c = {.encode = tp_mxfp4_encoder(tp_codecs(), x.dtype),
                           .values = x.data,
                           .blocks = blocks.data,
                           .scales = scales.data,
                           .value_bytes = tp_dtype_size(x.dtype),
                           .n_blocks = scales.elements};
    return convert(&c, error);
}

static int mxfp4_dequantize(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_buffer values, blocks, scales;
    int rc = tp_frame_count(frame, 2, 2, 1, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 0, "blocks", tp_types(TP_U8), &blocks, error);
    if (rc == 0)
        rc = tp_frame_argument(frame, 1, "scales", tp_types(TP_U8), &scales, error);
    if (rc == 0)
        rc = tp_frame_result(frame, 0, "values", float_types(), &values, error);
    if (rc == 0)
        rc = expect_all(&values, &blocks, &scales, error);
    if (rc != 0)
        return rc;
    enum tp_target target = values.dtype == TP_F32   ? TP_TARGET_F32
                            : values.dtype == TP_F16 ? TP_TARGET_F16
                                                     : TP_TARGET_BF16;
    struct conversion c = {.decode = tp_codecs()->mxfp4[target],
                           .values = values.data,
                           .blocks = blocks.data,
                           .scales = scales.data,
                           .value_bytes = tp_dtype_size(values.dtype),
                           .n_blocks = scales.elements};
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
