/* A call by XLA, turned into buffers whose types and sizes are what a handler expects.
 *
 * XLA's C interface hands over pointers to arguments, results and attributes, and trusts nobody to
 * have compiled against the same shapes: a handler is called with whatever jax.ffi.ffi_call() was
 * given. So everything is asked for by its place and a name, and an error names it:
 *
 *     mxfp4_matmul: argument "scales": expected shape [48, 2], found [48, 3]
 *
 * Of the interface's own types nothing comes out of here but the call frame and the error.
 */
#ifndef TENSORPORT_INFER_JAX_FRAME_H
#define TENSORPORT_INFER_JAX_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "decode/dtype.h"
#include "decode/error.h"

struct XLA_FFI_CallFrame;
struct XLA_FFI_Error;

enum { TP_BUFFER_MAX_RANK = 16 };
#define TP_BUFFER_MAX_BYTES ((size_t)PTRDIFF_MAX / 64)

/* Row major, without gaps. However dimensions are multiplied, those that are 0 left out, and by the
 * 32 columns of a block: it does not overflow. */
struct tp_buffer {
    const char *kind, *name; /* for messages: "argument", "x" */
    enum tp_dtype dtype;
    size_t rank, dims[TP_BUFFER_MAX_RANK];
    size_t elements, bytes;
    void *data; /* only to be read in arguments */
};

/* A set of element types: tp_types(TP_F32) | tp_types(TP_BF16). */
static inline uint32_t tp_types(enum tp_dtype dtype)
{
    return UINT32_C(1) << dtype;
}

/* The call; valid while the handler runs. */
struct tp_frame;

/* How many there are. */
size_t tp_frame_arguments(const struct tp_frame *frame);

/* -EINVAL unless there are `least` to `most` arguments and `results` results. */
int tp_frame_count(const struct tp_frame *frame, size_t least, size_t most, size_t results,
                   struct tp_error *error);

/* Argument or result number `i`, which the counts hold. -EINVAL when its type is not among `types`,
 * or its size is more than can be counted. */
int tp_frame_argument(const struct tp_frame *frame, size_t i, const char *name, uint32_t types,
                      struct tp_buffer *ret_buffer, struct tp_error *error);
int tp_frame_result(const struct tp_frame *frame, size_t i, const char *name, uint32_t types,
                    struct tp_buffer *ret_buffer, struct tp_error *error);

/* Attributes: numpy.float32 and numpy.int64 in Python. -EINVAL where it is missing or another. */
int tp_frame_f32(const struct tp_frame *frame, const char *name, float *ret_value,
                 struct tp_error *error);
int tp_frame_s64(const struct tp_frame *frame, const char *name, int64_t *ret_value,
                 struct tp_error *error);

/* -EINVAL unless the buffer has this shape. */
int tp_buffer_expect(const struct tp_buffer *buffer, const size_t *dims, size_t rank,
                     struct tp_error *error);
/* -EINVAL for fewer axes. */
int tp_buffer_expect_rank(const struct tp_buffer *buffer, size_t least, struct tp_error *error);
/* -EINVAL unless `scales` has at least so many axes, and `blocks` 16 bytes for each scale. */
int tp_buffer_expect_mxfp4(const struct tp_buffer *blocks, const struct tp_buffer *scales,
                           size_t least, struct tp_error *error);

/* ---- of calls for a GPU ---- */

/* The stream that all work goes to; it is not waited for. */
int tp_frame_stream(const struct tp_frame *frame, void **ret_stream, struct tp_error *error);

/* Memory of the device, aligned to 256, of any content; -ENOMEM. Freed at once when the stream has
 * been given all that uses it: who gets it next goes to the same stream. */
int tp_frame_allocate(const struct tp_frame *frame, size_t bytes, void **ret_memory,
                      struct tp_error *error);
void tp_frame_free(const struct tp_frame *frame, void *memory, size_t bytes);

/* ---- the call ---- */

/* 0, or a negative errno with a message: -EINVAL for what the caller did wrong. */
typedef int tp_handler_fn(const struct tp_frame *frame, struct tp_error *error);

/* What an exported handler does: tells XLA which interface it was compiled for, if that is asked;
 * otherwise calls `handler` and turns its failure into XLA's error, which begins with `name`. */
struct XLA_FFI_Error *tp_frame_handle(struct XLA_FFI_CallFrame *frame, const char *name,
                                      tp_handler_fn *handler);

/* Of a handler that XLA may record and replay: it launches the same on the same memory whenever it
 * is called alike, and has no memory of its own. */
struct XLA_FFI_Error *tp_frame_handle_replayable(struct XLA_FFI_CallFrame *frame, const char *name,
                                                 tp_handler_fn *handler);

#endif
