#include "infer/jax/frame.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <xla/ffi/api/c_api.h>

#include "decode/codec.h"

struct tp_frame {
    const XLA_FFI_CallFrame *xla;
};

/* ---- buffers ---- */

static bool dtype_of(XLA_FFI_DataType type, enum tp_dtype *ret_dtype)
{
    static const struct {
        XLA_FFI_DataType xla;
        enum tp_dtype dtype;
    } known[] = {
        {XLA_FFI_DataType_PRED, TP_BOOL}, {XLA_FFI_DataType_S8, TP_I8},
        {XLA_FFI_DataType_S16, TP_I16},   {XLA_FFI_DataType_S32, TP_I32},
        {XLA_FFI_DataType_S64, TP_I64},   {XLA_FFI_DataType_U8, TP_U8},
        {XLA_FFI_DataType_U16, TP_U16},   {XLA_FFI_DataType_U32, TP_U32},
        {XLA_FFI_DataType_U64, TP_U64},   {XLA_FFI_DataType_F16, TP_F16},
        {XLA_FFI_DataType_BF16, TP_BF16}, {XLA_FFI_DataType_F32, TP_F32},
        {XLA_FFI_DataType_F64, TP_F64},   {XLA_FFI_DataType_C64, TP_C64},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i].xla == type) {
            *ret_dtype = known[i].dtype;
            return true;
        }
    }
    return false;
}

enum { SHAPE_BYTES = 24 * (TP_BUFFER_MAX_RANK + 1) + 3 };

static const char *show_shape(const size_t *dims, size_t rank, char text[SHAPE_BYTES])
{
    int n = snprintf(text, SHAPE_BYTES, "[");
    for (size_t i = 0; i < rank; i++)
        n += snprintf(text + n, SHAPE_BYTES - (size_t)n, i > 0 ? ", %zu" : "%zu", dims[i]);
    snprintf(text + n, SHAPE_BYTES - (size_t)n, "]");
    return text;
}

/* "float32, bfloat16" */
static const char *show_types(uint32_t types, char text[SHAPE_BYTES])
{
    int n = 0;
    text[0] = '\0';
    for (int dtype = 0; dtype < TP_N_DTYPES && n < SHAPE_BYTES; dtype++) {
        if (types & tp_types((enum tp_dtype)dtype))
            n += snprintf(text + n, SHAPE_BYTES - (size_t)n, n > 0 ? " or %s" : "%s",
                          tp_dtype_numpy_name((enum tp_dtype)dtype));
    }
    return text;
}

static int measure(struct tp_buffer *buffer, const XLA_FFI_Buffer *xla, struct tp_error *error)
{
    if (xla->rank < 0 || xla->rank > TP_BUFFER_MAX_RANK)
        return tp_error_set(error, -EINVAL, "%s \"%s\": expected at most %d axes, found %lld",
                            buffer->kind, buffer->name, TP_BUFFER_MAX_RANK, (long long)xla->rank);
    buffer->rank = (size_t)xla->rank;
    size_t largest = tp_dtype_size(buffer->dtype);
    buffer->elements = 1;
    for (size_t i = 0; i < buffer->rank; i++) {
        size_t dim = (size_t)xla->dims[i];
        buffer->dims[i] = dim;
        if (xla->dims[i] < 0 || __builtin_mul_overflow(largest, dim > 0 ? dim : 1, &largest) ||
            largest > TP_BUFFER_MAX_BYTES)
            return tp_error_set(error, -EINVAL, "%s \"%s\": its size is more than memory can hold",
                                buffer->kind, buffer->name);
        buffer->elements *= dim;
    }
    buffer->bytes = buffer->elements * tp_dtype_size(buffer->dtype);
    return 0;
}

static int describe(const XLA_FFI_Buffer *xla, const char *kind, const char *name, uint32_t types,
                    struct tp_buffer *ret_buffer, struct tp_error *error)
{
    char text[SHAPE_BYTES];
    struct tp_buffer buffer = {.kind = kind, .name = name, .data = xla->data};
    bool known = dtype_of(xla->dtype, &buffer.dtype);
    if (!known || !(types & tp_types(buffer.dtype)))
        return tp_error_set(error, -EINVAL, "%s \"%s\": expected %s, found %s", kind, name,
                            show_types(types, text),
                            known ? tp_dtype_numpy_name(buffer.dtype) : "another element type");
    int rc = measure(&buffer, xla, error);
    if (rc == 0)
        *ret_buffer = buffer;
    return rc;
}

size_t tp_frame_arguments(const struct tp_frame *frame)
{
    return (size_t)frame->xla->args.size;
}

int tp_frame_count(const struct tp_frame *frame, size_t least, size_t most, size_t results,
                   struct tp_error *error)
{
    size_t n = tp_frame_arguments(frame), n_results = (size_t)frame->xla->rets.size;
    if (n < least || n > most)
        return tp_error_set(error, -EINVAL, "expected %zu to %zu arguments, found %zu", least, most,
                            n);
    if (n_results != results)
        return tp_error_set(error, -EINVAL, "expected %zu results, found %zu", results, n_results);
    return 0;
}

int tp_frame_argument(const struct tp_frame *frame, size_t i, const char *name, uint32_t types,
                      struct tp_buffer *ret_buffer, struct tp_error *error)
{
    const XLA_FFI_Args *args = &frame->xla->args;
    if (args->types[i] != XLA_FFI_ArgType_BUFFER)
        return tp_error_set(error, -EINVAL, "argument \"%s\": expected an array", name);
    return describe(args->args[i], "argument", name, types, ret_buffer, error);
}

int tp_frame_result(const struct tp_frame *frame, size_t i, const char *name, uint32_t types,
                    struct tp_buffer *ret_buffer, struct tp_error *error)
{
    const XLA_FFI_Rets *rets = &frame->xla->rets;
    if (rets->types[i] != XLA_FFI_RetType_BUFFER)
        return tp_error_set(error, -EINVAL, "result \"%s\": expected an array", name);
    return describe(rets->rets[i], "result", name, types, ret_buffer, error);
}

int tp_buffer_expect(const struct tp_buffer *buffer, const size_t *dims, size_t rank,
                     struct tp_error *error)
{
    char expected[SHAPE_BYTES], found[SHAPE_BYTES];
    if (buffer->rank == rank && memcmp(buffer->dims, dims, rank * sizeof *dims) == 0)
        return 0;
    return tp_error_set(error, -EINVAL, "%s \"%s\": expected shape %s, found %s", buffer->kind,
                        buffer->name, show_shape(dims, rank, expected),
                        show_shape(buffer->dims, buffer->rank, found));
}

int tp_buffer_expect_rank(const struct tp_buffer *buffer, size_t least, struct tp_error *error)
{
    char found[SHAPE_BYTES];
    if (buffer->rank >= least)
        return 0;
    return tp_error_set(error, -EINVAL, "%s \"%s\": expected at least %zu axes, found shape %s",
                        buffer->kind, buffer->name, least,
                        show_shape(buffer->dims, buffer->rank, found));
}

int tp_buffer_expect_mxfp4(const struct tp_buffer *blocks, const struct tp_buffer *scales,
                           size_t least, struct tp_error *error)
{
    size_t expected[TP_BUFFER_MAX_RANK + 1];
    int rc = tp_buffer_expect_rank(scales, least, error);
    if (rc < 0)
        return rc;
    memcpy(expected, scales->dims, scales->rank * sizeof *expected);
    expected[scales->rank] = TP_MXFP4_BLOCK_BYTES;
    return tp_buffer_expect(blocks, expected, scales->rank + 1, error);
}

/* ---- attributes ---- */

static int scalar(const struct tp_frame *frame, const char *name, XLA_FFI_DataType type,
                  const char *type_name, void *ret_value, size_t bytes, struct tp_error *error)
{
    const XLA_FFI_Attrs *attrs = &frame->xla->attrs;
    for (int64_t i = 0; i < attrs->size; i++) {
        const XLA_FFI_Scalar *value = attrs->attrs[i];
        if (attrs->names[i]->len != strlen(name) ||
            memcmp(attrs->names[i]->ptr, name, strlen(name)) != 0)
            continue;
        if (attrs->types[i] != XLA_FFI_AttrType_SCALAR || value->dtype != type)
            return tp_error_set(error, -EINVAL, "attribute \"%s\": expected %s", name, type_name);
        memcpy(ret_value, value->value, bytes);
        return 0;
    }
    return tp_error_set(error, -EINVAL, "attribute \"%s\" is missing", name);
}

int tp_frame_f32(const struct tp_frame *frame, const char *name, float *ret_value,
                 struct tp_error *error)
{
    return scalar(frame, name, XLA_FFI_DataType_F32, "a float32", ret_value, sizeof *ret_value,
                  error);
}

int tp_frame_s64(const struct tp_frame *frame, const char *name, int64_t *ret_value,
                 struct tp_error *error)
{
    return scalar(frame, name, XLA_FFI_DataType_S64, "an int64", ret_value, sizeof *ret_value,
                  error);
}

/* ---- of calls for a GPU ---- */

/* XLA's error becomes ours. */
static int take_error(const XLA_FFI_CallFrame *frame, XLA_FFI_Error *theirs, int rc,
                      const char *what, struct tp_error *error)
{
    if (theirs == NULL)
        return 0;
    XLA_FFI_Error_GetMessage_Args message = {
        .struct_size = XLA_FFI_Error_GetMessage_Args_STRUCT_SIZE, .error = theirs};
    frame->api->XLA_FFI_Error_GetMessage(&message);
    tp_error_set(error, rc, "XLA cannot %s: %s", what, message.message);
    XLA_FFI_Error_Destroy_Args destroy = {.struct_size = XLA_FFI_Error_Destroy_Args_STRUCT_SIZE,
                                          .error = theirs};
    frame->api->XLA_FFI_Error_Destroy(&destroy);
    return rc;
}

int tp_frame_stream(const struct tp_frame *frame, void **ret_stream, struct tp_error *error)
{
    XLA_FFI_Stream_Get_Args args = {.struct_size = XLA_FFI_Stream_Get_Args_STRUCT_SIZE,
                                    .ctx = frame->xla->ctx};
    int rc = take_error(frame->xla, frame->xla->api->XLA_FFI_Stream_Get(&args), -EIO,
                        "say which stream to use", error);
    if (rc == 0)
        *ret_stream = args.stream;
    return rc;
}

int tp_frame_allocate(const struct tp_frame *frame, size_t bytes, void **ret_memory,
                      struct tp_error *error)
{
    enum { ALIGNMENT = 256 };
    XLA_FFI_DeviceMemory_Allocate_Args args = {.struct_size =
                                                   XLA_FFI_DeviceMemory_Allocate_Args_STRUCT_SIZE,
                                               .ctx = frame->xla->ctx,
                                               .size = bytes,
                                               .alignment = ALIGNMENT};
    int rc = take_error(frame->xla, frame->xla->api->XLA_FFI_DeviceMemory_Allocate(&args), -ENOMEM,
                        "give memory", error);
    if (rc == 0 && args.data == NULL)
        rc = tp_error_set(error, -ENOMEM, "XLA has no memory for %zu bytes", bytes);
    if (rc == 0)
        *ret_memory = args.data;
    return rc;
}

void tp_frame_free(const struct tp_frame *frame, void *memory, size_t bytes)
{
    struct tp_error ignored;
    XLA_FFI_DeviceMemory_Free_Args args = {.struct_size =
                                               XLA_FFI_DeviceMemory_Free_Args_STRUCT_SIZE,
                                           .ctx = frame->xla->ctx,
                                           .size = bytes,
                                           .data = memory};
    take_error(frame->xla, frame->xla->api->XLA_FFI_DeviceMemory_Free(&args), -EIO,
               "take memory back", &ignored);
}

/* ---- the call ---- */

/* True when the call was made to learn this and for nothing else. */
static bool tell_version(const XLA_FFI_CallFrame *frame, XLA_FFI_Handler_Traits traits)
{
    const XLA_FFI_Extension_Base *extension = frame->extension_start;
    if (extension == NULL || extension->type != XLA_FFI_Extension_Metadata)
        return false;
    XLA_FFI_Metadata *metadata = ((const XLA_FFI_Metadata_Extension *)extension)->metadata;
    metadata->api_version.major_version = XLA_FFI_API_MAJOR;
    metadata->api_version.minor_version = XLA_FFI_API_MINOR;
    metadata->traits = traits;
    return true;
}

static XLA_FFI_Error_Code code_of(int rc)
{
    return rc == -EINVAL   ? XLA_FFI_Error_Code_INVALID_ARGUMENT
           : rc == -ENOMEM ? XLA_FFI_Error_Code_RESOURCE_EXHAUSTED
                           : XLA_FFI_Error_Code_INTERNAL;
}

static XLA_FFI_Error *fail(const XLA_FFI_CallFrame *frame, int rc, const char *message)
{
    XLA_FFI_Error_Create_Args args = {
        .struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE,
        .message = message,
        .errc = code_of(rc),
    };
    return frame->api->XLA_FFI_Error_Create(&args);
}

static XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame, const char *name, tp_handler_fn *handler,
                             XLA_FFI_Handler_Traits traits)
{
    struct tp_error error = {.text = ""};
    if (tell_version(frame, traits))
        return NULL;
    if (frame->struct_size < XLA_FFI_CallFrame_STRUCT_SIZE ||
        frame->stage != XLA_FFI_ExecutionStage_EXECUTE)
        return fail(frame, -EINVAL,
                    "called by an XLA with another interface; install tensorport anew");
    int rc = handler(&(struct tp_frame){frame}, &error);
    if (rc == 0)
        return NULL;
    if (error.text[0] == '\0')
        tp_error_set(&error, rc, "%s", strerror(-rc));
    return fail(frame, rc, (tp_error_prefix(&error, rc, "%s", name), error.text));
}

XLA_FFI_Error *tp_frame_handle(XLA_FFI_CallFrame *frame, const char *name, tp_handler_fn *handler)
{
    return handle(frame, name, handler, 0);
}

XLA_FFI_Error *tp_frame_handle_replayable(XLA_FFI_CallFrame *frame, const char *name,
                                          tp_handler_fn *handler)
{
    return handle(frame, name, handler, XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE);
}
