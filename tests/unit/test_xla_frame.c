/* Calls that JAX would not make: the handlers with frames made by hand, on XLA's interface. */
#include <criterion/criterion.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <xla/ffi/api/c_api.h>

#include "infer/jax/handlers.h"

enum { MOST = 4 };

struct call {
    XLA_FFI_Buffer buffers[MOST + 1];
    void *args[MOST], *rets[1];
    XLA_FFI_ArgType arg_types[MOST];
    XLA_FFI_RetType ret_type;
    XLA_FFI_CallFrame frame;
};

/* XLA's part: what a handler complains of. */
static char message[1024];
static XLA_FFI_Error_Code code;

static XLA_FFI_Error *create_error(XLA_FFI_Error_Create_Args *args)
{
    snprintf(message, sizeof message, "%s", args->message);
    code = args->errc;
    return (XLA_FFI_Error *)message;
}

static const XLA_FFI_Api api = {.struct_size = XLA_FFI_Api_STRUCT_SIZE,
                                .XLA_FFI_Error_Create = create_error};

static uint8_t memory[4096];

/* mxfp4_matmul of x [2, 64] and W [8, 64]. */
static int64_t x_dims[] = {2, 64}, blocks_dims[] = {8, 2, 16}, scales_dims[] = {8, 2},
               y_dims[] = {2, 8};

static XLA_FFI_Buffer buffer(XLA_FFI_DataType dtype, int64_t rank, int64_t *dims)
{
    return (XLA_FFI_Buffer){.struct_size = XLA_FFI_Buffer_STRUCT_SIZE,
                            .dtype = dtype,
                            .data = memory,
                            .rank = rank,
                            .dims = dims};
}

static void prepare(struct call *call, size_t n)
{
    static float y[16];
    *call = (struct call){
        .buffers = {buffer(XLA_FFI_DataType_F32, 2, x_dims),
                    buffer(XLA_FFI_DataType_U8, 3, blocks_dims),
                    buffer(XLA_FFI_DataType_U8, 2, scales_dims),
                    buffer(XLA_FFI_DataType_F32, 0, NULL), buffer(XLA_FFI_DataType_F32, 2, y_dims)},
        .ret_type = XLA_FFI_RetType_BUFFER,
        .frame = {.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE,
                  .api = &api,
                  .stage = XLA_FFI_ExecutionStage_EXECUTE,
                  .args = {.size = (int64_t)n, .types = call->arg_types, .args = call->args},
                  .rets = {.size = 1, .types = &call->ret_type, .rets = call->rets}}};
    for (size_t i = 0; i < MOST; i++) {
        call->args[i] = &call->buffers[i];
        call->arg_types[i] = XLA_FFI_ArgType_BUFFER;
    }
    call->buffers[MOST].data = y;
    call->rets[0] = &call->buffers[MOST];
    message[0] = '\0';
}

static void refused(struct call *call, const char *says)
{
    cr_assert_not_null(tensorport_mxfp4_matmul(&call->frame));
    cr_assert_eq(code, XLA_FFI_Error_Code_INVALID_ARGUMENT);
    cr_assert_not_null(strstr(message, says), "expected \"%s\" in: %s", says, message);
}

Test(xla_frame, what_fits_is_computed)
{
    struct call call;
    prepare(&call, 3);
    cr_assert_null(tensorport_mxfp4_matmul(&call.frame), "%s", message);
}

Test(xla_frame, tells_the_version_and_nothing_else)
{
    struct call call;
    XLA_FFI_Metadata metadata = {.struct_size = XLA_FFI_Metadata_STRUCT_SIZE};
    XLA_FFI_Metadata_Extension extension = {
        {XLA_FFI_Metadata_Extension_STRUCT_SIZE, XLA_FFI_Extension_Metadata, NULL}, &metadata};
    prepare(&call, 0);
    call.frame.extension_start = &extension.extension_base;
    cr_assert_null(tensorport_mxfp4_matmul(&call.frame));
    cr_assert_eq(metadata.api_version.major_version, XLA_FFI_API_MAJOR);
    cr_assert_eq(metadata.api_version.minor_version, XLA_FFI_API_MINOR);
}

Test(xla_frame, another_stage_or_an_older_interface)
{
    struct call call;
    prepare(&call, 3);
    call.frame.stage = XLA_FFI_ExecutionStage_PREPARE;
    refused(&call, "another interface");
    prepare(&call, 3);
    call.frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE - 8;
    refused(&call, "another interface");
}

Test(xla_frame, sizes_that_cannot_be)
{
    static const struct {
        int64_t dims[3];
        const char *says;
    } cases[] = {
        {{INT64_C(1) << 40, INT64_C(1) << 40, 0}, "more than memory can hold"},
        {{0, INT64_C(1) << 40, INT64_C(1) << 40}, "more than memory can hold"},
        {{INT64_C(1) << 32, INT64_C(1) << 32, 16}, "more than memory can hold"},
        {{INT64_MAX, 2, 16}, "more than memory can hold"},
        {{0, 0, INT64_MAX}, "more than memory can hold"},
        {{-1, 2, 16}, "more than memory can hold"},
        {{INT64_MIN, 0, 16}, "more than memory can hold"},
        {{8, 2, 17}, "expected shape [8, 2, 16], found [8, 2, 17]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct call call;
        int64_t dims[3];
        memcpy(dims, cases[i].dims, sizeof dims);
        prepare(&call, 3);
        call.buffers[1].dims = dims;
        refused(&call, cases[i].says);
    }
}

Test(xla_frame, ranks_and_kinds_that_cannot_be)
{
    struct call call;
    int64_t many[17] = {0};
    prepare(&call, 3);
    call.buffers[0].rank = -1;
    refused(&call, "at most 16 axes, found -1");
    prepare(&call, 3);
    call.buffers[0].rank = 17;
    call.buffers[0].dims = many;
    refused(&call, "at most 16 axes, found 17");
    prepare(&call, 3);
    call.arg_types[1] = (XLA_FFI_ArgType)7;
    refused(&call, "argument \"blocks\": expected an array");
    prepare(&call, 3);
    call.buffers[2].dtype = (XLA_FFI_DataType)99;
    refused(&call, "argument \"scales\": expected uint8, found another element type");
    prepare(&call, 4);
    refused(&call, "argument \"bias\": expected shape [8], found []");
    prepare(&call, 2);
    refused(&call, "expected 3 to 4 arguments, found 2");
}
