/* The handlers for CUDA, in the harness that runs kernels on the CPU, called as XLA would and held
 * to those for the CPU. The latter come from the library given as argument: both have the same
 * names.
 *
 * Memory that the kernels see is the harness's: accesses beside an argument or result are told. */
#include <dlfcn.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xla/ffi/api/c_api.h>

#include "cuda/device.h"
#include "infer/jax/handlers.h"

static struct tp_device *device;
static const char *fault; /* of the running test: the first one */
static char fault_text[512];

__attribute__((format(printf, 2, 3))) static void expect(bool holds, const char *format, ...)
{
    va_list arguments;
    if (holds || fault != NULL)
        return;
    va_start(arguments, format);
    vsnprintf(fault_text, sizeof fault_text, format, arguments);
    va_end(arguments);
    fault = fault_text;
}

static void *checked(void *memory)
{
    if (memory == NULL)
        abort();
    return memory;
}

/* ---- XLA ---- */

struct XLA_FFI_Error {
    XLA_FFI_Error_Code code;
    char message[512];
};

struct XLA_FFI_ExecutionContext {
    size_t scratch_left, scratch_taken; /* allocations that succeed; bytes lent now */
};

static XLA_FFI_Error *create_error(XLA_FFI_Error_Create_Args *args)
{
    XLA_FFI_Error *error = checked(calloc(1, sizeof *error));
    error->code = args->errc;
    snprintf(error->message, sizeof error->message, "%s", args->message);
    return error;
}

static void get_message(XLA_FFI_Error_GetMessage_Args *args)
{
    args->message = args->error->message;
}

static void destroy_error(XLA_FFI_Error_Destroy_Args *args)
{
    free(args->error);
}

static XLA_FFI_Error *get_stream(XLA_FFI_Stream_Get_Args *args)
{
    args->stream = args->ctx; /* any address */
    return NULL;
}

static XLA_FFI_Error *allocate(XLA_FFI_DeviceMemory_Allocate_Args *args)
{
    struct tp_error error;
    if (args->ctx->scratch_left == 0 ||
        tp_device_allocate(device, args->size, &args->data, &error) < 0)
        return create_error(&(XLA_FFI_Error_Create_Args){
            .message = "out of memory", .errc = XLA_FFI_Error_Code_RESOURCE_EXHAUSTED});
    args->ctx->scratch_left--;
    args->ctx->scratch_taken += args->size;
    return NULL;
}

static XLA_FFI_Error *give_back(XLA_FFI_DeviceMemory_Free_Args *args)
{
    args->ctx->scratch_taken -= args->size;
    tp_device_free(device, args->data);
    return NULL;
}

static const XLA_FFI_Api api = {
    .struct_size = XLA_FFI_Api_STRUCT_SIZE,
    .api_version = {.struct_size = XLA_FFI_Api_Version_STRUCT_SIZE,
                    .major_version = XLA_FFI_API_MAJOR,
                    .minor_version = XLA_FFI_API_MINOR},
    .XLA_FFI_Error_Create = create_error,
    .XLA_FFI_Error_GetMessage = get_message,
    .XLA_FFI_Error_Destroy = destroy_error,
    .XLA_FFI_Stream_Get = get_stream,
    .XLA_FFI_DeviceMemory_Allocate = allocate,
    .XLA_FFI_DeviceMemory_Free = give_back,
};

/* ---- numbers ---- */

static uint64_t state = 1;

static uint32_t random_below(uint32_t n)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((state >> 32) * n >> 32);
}

static float random_float(void)
{
    return (float)random_below(1 << 24) * 0x1p-23f - 1;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint16_t to_bf16(float x)
{
    uint32_t bits = bits_of(x);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- arrays ---- */

enum type { F32, BF16, F16, U8, S32 };

struct array {
    enum type type;
    size_t rank;
    int64_t dims[6];
    uint8_t *data; /* of the host */
    size_t offset; /* of the device's memory, from where it is aligned */
};

static size_t type_bytes(enum type type)
{
    static const size_t bytes[] = {4, 2, 2, 1, 4};
    return bytes[type];
}

static XLA_FFI_DataType xla_type(enum type type)
{
    static const XLA_FFI_DataType types[] = {XLA_FFI_DataType_F32, XLA_FFI_DataType_BF16,
                                             XLA_FFI_DataType_F16, XLA_FFI_DataType_U8,
                                             XLA_FFI_DataType_S32};
    return types[type];
}

static size_t elements_of(const struct array *array)
{
    size_t n = 1;
    for (size_t i = 0; i < array->rank; i++)
        n *= (size_t)array->dims[i];
    return n;
}

static size_t bytes_of(const struct array *array)
{
    return elements_of(array) * type_bytes(array->type);
}

/* Of the dimensions up to one that is -1; zeros. */
static struct array make(enum type type, ...)
{
    struct array array = {.type = type};
    va_list dims;
    va_start(dims, type);
    for (int dim; (dim = va_arg(dims, int)) >= 0;)
        array.dims[array.rank++] = dim;
    va_end(dims);
    array.data = checked(calloc(bytes_of(&array) + 1, 1));
    return array;
}

static void set(struct array *array, size_t i, float x)
{
    if (array->type == F32)
        ((float *)(void *)array->data)[i] = x;
    else if (array->type == F16)
        ((uint16_t *)(void *)array->data)[i] = (uint16_t)((to_bf16(x) >> 1 & 0x3fff) | 0x400);
    else
        ((uint16_t *)(void *)array->data)[i] = to_bf16(x);
}

static float get(const struct array *array, size_t i)
{
    if (array->type == F32)
        return ((const float *)(const void *)array->data)[i];
    return float_of((uint32_t)((const uint16_t *)(const void *)array->data)[i] << 16);
}

static struct array filled(struct array array)
{
    for (size_t i = 0; i < elements_of(&array); i++)
        set(&array, i, random_float());
    return array;
}

/* Bytes up to `most`, from `least` on. */
static struct array bytes(struct array array, uint32_t least, uint32_t most)
{
    for (size_t i = 0; i < bytes_of(&array); i++)
        array.data[i] = (uint8_t)(least + random_below(most - least + 1));
    return array;
}

/* ---- calls ---- */

enum { ARRAYS_MAX = 9 };

struct call {
    const char *name;
    struct array arguments[ARRAYS_MAX], results[2];
    size_t n_arguments, n_results;
    const char *attributes[2]; /* NULL: none */
    float floats[2];           /* of "window", as a whole number */
    size_t scratch_left;
};

static void *library; /* the CPU's */

static tp_xla_handler *handler_of(const char *name, bool cuda)
{
    static const struct {
        const char *name;
        tp_xla_handler *handler;
    } handlers[] = {
        {"mxfp4_matmul", tensorport_mxfp4_matmul},
        {"dense_matmul", tensorport_dense_matmul},
        {"mxfp4_moe", tensorport_mxfp4_moe},
        {"mxfp4_quantize", tensorport_mxfp4_quantize},
        {"mxfp4_dequantize", tensorport_mxfp4_dequantize},
        {"sink_attention", tensorport_sink_attention},
    };
    char symbol[64];
    snprintf(symbol, sizeof symbol, "tensorport_%s", name);
    for (size_t i = 0; cuda && i < sizeof handlers / sizeof *handlers; i++) {
        if (strcmp(handlers[i].name, name) == 0)
            return handlers[i].handler;
    }
    void *found = checked(dlsym(library, symbol));
    tp_xla_handler *handler;
    memcpy(&handler, &found, sizeof handler);
    return handler;
}

/* An array's memory for a call; the device's is that of the harness, which ends with the array. */
static void *lend(const struct array *array, bool cuda)
{
    struct tp_error error;
    void *memory = NULL;
    if (!cuda)
        return array->data;
    if (bytes_of(array) == 0)
        return NULL;
    if (tp_device_allocate(device, bytes_of(array) + array->offset, &memory, &error) < 0)
        abort();
    return memcpy((uint8_t *)memory + array->offset, array->data, bytes_of(array));
}

static XLA_FFI_Error *run(const struct call *call, bool cuda)
{
    enum { ALL = ARRAYS_MAX + 2 };
    XLA_FFI_Buffer buffers[ALL];
    XLA_FFI_ArgType argument_types[ARRAYS_MAX];
    XLA_FFI_RetType result_types[2];
    void *arguments[ARRAYS_MAX], *results[2];
    for (size_t i = 0; i < call->n_arguments + call->n_results; i++) {
        bool is_result = i >= call->n_arguments;
        const struct array *array =
            is_result ? &call->results[i - call->n_arguments] : &call->arguments[i];
        buffers[i] = (XLA_FFI_Buffer){.struct_size = XLA_FFI_Buffer_STRUCT_SIZE,
                                      .dtype = xla_type(array->type),
                                      .data = lend(array, cuda),
                                      .rank = (int64_t)array->rank,
                                      .dims = (int64_t *)array->dims};
        if (is_result) {
            result_types[i - call->n_arguments] = XLA_FFI_RetType_BUFFER;
            results[i - call->n_arguments] = &buffers[i];
        } else {
            argument_types[i] = XLA_FFI_ArgType_BUFFER;
            arguments[i] = &buffers[i];
        }
    }
    XLA_FFI_Scalar scalars[2];
    XLA_FFI_ByteSpan spans[2], *names[2];
    XLA_FFI_AttrType attribute_types[2];
    void *attributes[2];
    int64_t whole = (int64_t)call->floats[1], n_attributes = 0;
    for (; n_attributes < 2 && call->attributes[n_attributes] != NULL; n_attributes++) {
        int64_t i = n_attributes;
        bool is_whole = strcmp(call->attributes[i], "window") == 0;
        scalars[i] = (XLA_FFI_Scalar){is_whole ? XLA_FFI_DataType_S64 : XLA_FFI_DataType_F32,
                                      is_whole ? (void *)&whole : (void *)&call->floats[i]};
        spans[i] = (XLA_FFI_ByteSpan){call->attributes[i], strlen(call->attributes[i])};
        names[i] = &spans[i];
        attribute_types[i] = XLA_FFI_AttrType_SCALAR;
        attributes[i] = &scalars[i];
    }
    struct XLA_FFI_ExecutionContext context = {.scratch_left = call->scratch_left};
    XLA_FFI_CallFrame frame = {.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE,
                               .api = &api,
                               .ctx = &context,
                               .stage = XLA_FFI_ExecutionStage_EXECUTE,
                               .args = {.struct_size = XLA_FFI_Args_STRUCT_SIZE,
                                        .size = (int64_t)call->n_arguments,
                                        .types = argument_types,
                                        .args = arguments},
                               .rets = {.struct_size = XLA_FFI_Rets_STRUCT_SIZE,
                                        .size = (int64_t)call->n_results,
                                        .types = result_types,
                                        .rets = results},
                               .attrs = {.struct_size = XLA_FFI_Attrs_STRUCT_SIZE,
                                         .size = n_attributes,
                                         .types = attribute_types,
                                         .names = names,
                                         .attrs = attributes}};
    XLA_FFI_Error *error = handler_of(call->name, cuda)(&frame);
    expect(context.scratch_taken == 0, "%s: %zu bytes were not given back", call->name,
           context.scratch_taken);
    for (size_t i = 0; cuda && i < call->n_arguments + call->n_results; i++) {
        bool is_result = i >= call->n_arguments;
        const struct array *array =
            is_result ? &call->results[i - call->n_arguments] : &call->arguments[i];
        if (is_result && buffers[i].data != NULL)
            memcpy(array->data, buffers[i].data, bytes_of(array));
        else if (buffers[i].data != NULL)
            expect(memcmp(array->data, buffers[i].data, bytes_of(array)) == 0,
                   "%s: argument %zu was changed", call->name, i);
        if (buffers[i].data != NULL)
            tp_device_free(device, (uint8_t *)buffers[i].data - array->offset);
    }
    return error;
}

static void free_call(struct call *call)
{
    for (size_t i = 0; i < call->n_arguments; i++)
        free(call->arguments[i].data);
    for (size_t i = 0; i < call->n_results; i++)
        free(call->results[i].data);
}

static struct call begin(const char *name)
{
    return (struct call){.name = name, .scratch_left = SIZE_MAX};
}

static void add(struct call *call, struct array array)
{
    call->arguments[call->n_arguments++] = array;
}

static void add_result(struct call *call, struct array array)
{
    call->results[call->n_results++] = array;
}

/* Adds up to 1e-5 of the largest number, and a step of BF16's. */
static bool is_near(float found, float expected, float largest, enum type type)
{
    float step = type == BF16 ? fabsf(expected) * 0x1p-7f : 0;
    if (isnan(found) || isnan(expected))
        return isnan(found) && isnan(expected);
    if (isinf(found) || isinf(expected))
        return found == expected;
    return fabsf(found - expected) <= step + 1e-5f * largest;
}

/* Both kinds of handlers succeed and agree; `exactly`: in every byte. Frees the call. */
static void expect_same(struct call *call, bool exactly, const char *what)
{
    uint8_t *found[2];
    XLA_FFI_Error *error = run(call, true);
    expect(error == NULL, "%s: %s", what, error != NULL ? error->message : "");
    free(error);
    for (size_t i = 0; i < call->n_results; i++) {
        found[i] = call->results[i].data;
        call->results[i].data = checked(calloc(bytes_of(&call->results[i]) + 1, 1));
    }
    error = run(call, false);
    expect(error == NULL, "%s, on the CPU: %s", what, error != NULL ? error->message : "");
    free(error);
    for (size_t i = 0; i < call->n_results; i++) {
        const struct array *expected = &call->results[i];
        struct array ours = *expected;
        float largest = 0;
        ours.data = found[i];
        for (size_t j = 0; !exactly && j < elements_of(expected); j++)
            largest = fmaxf(largest, isfinite(get(expected, j)) ? fabsf(get(expected, j)) : 0);
        for (size_t j = 0; !exactly && j < elements_of(expected); j++)
            expect(is_near(get(&ours, j), get(expected, j), largest, expected->type),
                   "%s: number %zu of %zu: expected %g, found %g", what, j, elements_of(expected),
                   (double)get(expected, j), (double)get(&ours, j));
        for (size_t j = 0; exactly && j < bytes_of(expected); j++)
            expect(found[i][j] == expected->data[j], "%s: byte %zu: expected %u, found %u", what, j,
                   expected->data[j], found[i][j]);
        free(found[i]);
    }
    free_call(call);
}

/* Fails with that code, and a message that has `text`. Frees the call. */
static void expect_error(struct call *call, XLA_FFI_Error_Code code, const char *text)
{
    XLA_FFI_Error *error = run(call, true);
    expect(error != NULL, "%s: expected an error with \"%s\"", call->name, text);
    if (error != NULL)
        expect(error->code == code && strstr(error->message, text) != NULL,
               "%s: expected code %d and \"%s\", found code %d and \"%s\"", call->name, (int)code,
               text, (int)error->code, error->message);
    free(error);
    free_call(call);
}

/* ---- products ---- */

enum { NO_BIAS = -1 };

static const char *describe(const char *format, ...) __attribute__((format(printf, 1, 2)));
static const char *describe(const char *format, ...)
{
    static char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return text;
}

static struct call matmul(int n, int columns, int rows, enum type type, int bias)
{
    struct call call = begin("mxfp4_matmul");
    add(&call, filled(make(type, n, columns, -1)));
    add(&call, bytes(make(U8, rows, columns / 32, 16, -1), 0, 255));
    add(&call, bytes(make(U8, rows, columns / 32, -1), 120, 128));
    if (bias != NO_BIAS)
        add(&call, filled(make((enum type)bias, rows, -1)));
    add_result(&call, make(type, n, rows, -1));
    return call;
}

static void check_matmul(int n, int columns, int rows, enum type type, int bias)
{
    struct call call = matmul(n, columns, rows, type, bias);
    expect_same(&call, false,
                describe("%d vectors, %d columns, %d rows, type %d, bias %d", n, columns, rows,
                         (int)type, bias));
}

static void matmul_of_odd_shapes(void)
{
    static const int n[] = {1, 2, 3, 8, 9, 65};
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        check_matmul(n[i], 32, 5, F32, NO_BIAS);
        check_matmul(n[i], 96, 129, BF16, F32);
        check_matmul(n[i], 160, 17, F32, BF16);
    }
    check_matmul(1, 2880, 48, F32, F32);
    check_matmul(9, 2880, 3, BF16, BF16);
}

static void matmul_of_nothing(void)
{
    check_matmul(0, 64, 3, F32, F32);
    check_matmul(3, 0, 4, F32, F32);
    check_matmul(3, 0, 4, BF16, NO_BIAS);
    check_matmul(2, 64, 0, F32, NO_BIAS);
}

/* Leading axes of both, and others of x. */
static void matmul_of_batches(void)
{
    for (int n = 3; n <= 12; n += 9) {
        struct call call = begin("mxfp4_matmul");
        add(&call, filled(make(F32, 2, 3, n, 2, 64, -1)));
        add(&call, bytes(make(U8, 2, 3, 19, 2, 16, -1), 0, 255));
        add(&call, bytes(make(U8, 2, 3, 19, 2, -1), 122, 128));
        add(&call, filled(make(F32, 2, 3, 19, -1)));
        add_result(&call, make(F32, 2, 3, n, 2, 19, -1));
        expect_same(&call, false, describe("batches of %d vectors", n));
    }
}

/* Every scale there is, those that are too large for one factor and NaN among them. */
static void matmul_of_any_scale(void)
{
    for (int n = 1; n <= 17; n += 8) {
        for (int type = F32; type <= BF16; type++) {
            struct call call = matmul(n, 32, 256, (enum type)type, NO_BIAS);
            for (size_t i = 0; i < 256; i++)
                call.arguments[2].data[i] = (uint8_t)i;
            for (size_t i = 0; i < elements_of(&call.arguments[0]); i++)
                set(&call.arguments[0], i, i % 32 == i / 32 ? random_float() : 0);
            /* One number of a row, so that no sum of others hides it; none that overflows. */
            for (size_t i = 0; i < bytes_of(&call.arguments[1]); i++)
                call.arguments[1].data[i] &= 0x33;
            XLA_FFI_Error *error = run(&call, true);
            expect(error == NULL, "%s", error != NULL ? error->message : "");
            free(error);
            struct array found = call.results[0];
            call.results[0] = make((enum type)type, n, 256, -1);
            free(run(&call, false));
            for (size_t i = 0; i < elements_of(&found); i++) {
                float expected = get(&call.results[0], i);
                /* A row's scale decides its size; the CPU's has no denormals. */
                float size = fmaxf(ldexpf(32, (int)(i % 256) - 127), 0x1p-105f);
                expect(is_near(get(&found, i), expected, size, (enum type)type),
                       "%d vectors: scale %zu: expected %g, found %g", n, i % 256, (double)expected,
                       (double)get(&found, i));
            }
            free(found.data);
            free_call(&call);
        }
    }
}

/* Infinite and very large numbers stay what they are. */
static void matmul_of_large_numbers(void)
{
    struct call call = matmul(3, 32, 4, F32, NO_BIAS);
    memset(call.arguments[0].data, 0, bytes_of(&call.arguments[0]));
    memset(call.arguments[1].data, 0x22, bytes_of(&call.arguments[1])); /* ones */
    memset(call.arguments[2].data, 127, bytes_of(&call.arguments[2]));
    set(&call.arguments[0], 3, INFINITY);
    set(&call.arguments[0], 32 + 5, 3.4028235e38f);
    set(&call.arguments[0], 64 + 5, -3.4e38f);
    expect_same(&call, false, "large numbers");
}

static struct call dense(int n, int columns, int rows, enum type x, enum type w, int bias)
{
    struct call call = begin("dense_matmul");
    add(&call, filled(make(x, 2, n, columns, -1)));
    add(&call, filled(make(w, 2, rows, columns, -1)));
    if (bias != NO_BIAS)
        add(&call, filled(make((enum type)bias, 2, rows, -1)));
    add_result(&call, make(x, 2, n, rows, -1));
    return call;
}

/* All types; columns that are no multiple of 8, which tensor cores do not take. */
static void dense_products(void)
{
    static const int n[] = {1, 3, 8, 9, 66}, columns[] = {40, 33, 128, 8, 1};
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        for (int w = F32; w <= F16; w++) {
            enum type x = (i + (size_t)w) % 2 == 0 ? F32 : BF16;
            struct call call = dense(n[i], columns[i], 21, x, (enum type)w, w == F16 ? NO_BIAS : w);
            expect_same(&call, false,
                        describe("%d vectors, %d columns, type %d", n[i], columns[i], w));
        }
    }
}

/* More than one launch takes: in pieces of a matrix's vectors, and of matrices. */
static void products_of_very_many_vectors(void)
{
    for (int n = 7000; n <= 17000; n += 10000) {
        int n_matrices = n == 7000 ? 3 : 1;
        struct call call = begin("dense_matmul");
        add(&call, filled(make(F32, n_matrices, n, 8, -1)));
        add(&call, filled(make(BF16, n_matrices, 3, 8, -1)));
        add(&call, filled(make(F32, n_matrices, 3, -1)));
        add_result(&call, make(F32, n_matrices, n, 3, -1));
        expect_same(&call, false, describe("%d matrices and %d vectors", n_matrices, n));
    }
}

/* Weights, and all else, at addresses that tensor cores do not take. */
static void products_at_odd_addresses(void)
{
    for (int n = 2; n <= 20; n += 18) {
        struct call call = matmul(n, 64, 19, F32, BF16);
        for (size_t i = 0; i < call.n_arguments; i++)
            call.arguments[i].offset = i == 1 || i == 2 ? 1 : 4;
        call.results[0].offset = 4;
        expect_same(&call, false, describe("%d vectors at odd addresses", n));
        call = dense(n, 64, 19, BF16, BF16, BF16);
        for (size_t i = 0; i < call.n_arguments; i++)
            call.arguments[i].offset = 2;
        call.results[0].offset = 2;
        expect_same(&call, false, describe("%d dense vectors at odd addresses", n));
    }
}

/* ---- experts ---- */

static struct call moe(int n, int k, int n_experts, int hidden, int inner, enum type type, int bias)
{
    struct call call = begin("mxfp4_moe");
    struct array chosen = make(S32, n, k, -1);
    for (size_t i = 0; i < elements_of(&chosen); i++) /* -1 and n_experts are none */
        ((int32_t *)(void *)chosen.data)[i] = (int32_t)random_below((uint32_t)n_experts + 2) - 1;
    add(&call, filled(make(type, n, hidden, -1)));
    add(&call, chosen);
    add(&call, filled(make(F32, n, k, -1)));
    add(&call, bytes(make(U8, n_experts, 2 * inner, hidden / 32, 16, -1), 0, 255));
    add(&call, bytes(make(U8, n_experts, 2 * inner, hidden / 32, -1), 121, 124));
    add(&call, bytes(make(U8, n_experts, hidden, inner / 32, 16, -1), 0, 255));
    add(&call, bytes(make(U8, n_experts, hidden, inner / 32, -1), 121, 130));
    if (bias != NO_BIAS) {
        add(&call, filled(make((enum type)bias, n_experts, 2 * inner, -1)));
        add(&call, filled(make((enum type)bias, n_experts, hidden, -1)));
    }
    call.attributes[0] = "alpha", call.floats[0] = 1.702f;
    call.attributes[1] = "limit", call.floats[1] = 7;
    add_result(&call, make(type, n, hidden, -1));
    return call;
}

static void mixtures(void)
{
    static const int n[] = {1, 2, 3, 8, 9, 65}, k[] = {4, 1, 2, 3, 2, 4};
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        struct call call = moe(n[i], k[i], 5, 64, 96, F32, i % 2 == 0 ? F32 : NO_BIAS);
        expect_same(&call, false, describe("%d tokens", n[i]));
        call = moe(n[i], k[i], 3, 96, 32, BF16, i % 2 == 0 ? NO_BIAS : BF16);
        expect_same(&call, false, describe("%d tokens in BF16", n[i]));
    }
    struct call call = moe(2, 4, 8, 32, 256, F32, BF16);
    expect_same(&call, false, "an inner size without padding");
}

/* More than a warp lists at once; scales that are too large for one factor, and no alignment. */
static void mixtures_of_all_kinds(void)
{
    for (int n = 2; n <= 12; n += 10) {
        struct call call = moe(n, 2, 70, 32, 32, F32, F32);
        expect_same(&call, false, "70 experts");
        call = moe(n, 3, 4, 64, 64, BF16, F32);
        bytes(call.arguments[4], 124, 134);
        bytes(call.arguments[6], 124, 134);
        for (size_t i = 0; i < elements_of(&call.arguments[0]); i++)
            set(&call.arguments[0], i, get(&call.arguments[0], i) * 0x1p-9f);
        expect_same(&call, false, "large scales");
        call = moe(n, 2, 4, 64, 64, F32, F32);
        call.arguments[5].offset = 8;
        expect_same(&call, false, "experts at odd addresses");
    }
}

static void mixtures_of_nobody(void)
{
    for (int n = 1; n <= 9; n += 8) {
        struct call call = moe(n, 2, 3, 32, 32, F32, F32);
        for (size_t i = 0; i < elements_of(&call.arguments[1]); i++)
            ((int32_t *)(void *)call.arguments[1].data)[i] = i % 2 == 0 ? -7 : 3;
        expect_same(&call, true, "experts that are none");
        call = moe(n, 0, 3, 32, 32, F32, F32);
        expect_same(&call, true, "no choices");
    }
    struct call call = moe(0, 2, 3, 32, 32, F32, F32);
    expect_same(&call, true, "no tokens");
}

/* An expert's NaN reaches those only who chose it. */
static void mixtures_with_nan(void)
{
    for (int n = 2; n <= 10; n += 8) {
        struct call call = moe(n, 2, 2, 32, 32, F32, F32);
        int32_t *chosen = (void *)call.arguments[1].data;
        for (int i = 0; i < 2 * n; i++)
            chosen[i] = i % 3 - 1;
        memset(call.arguments[4].data, 255, 2 * 32);
        expect_same(&call, false, "NaN of an expert");
    }
}

/* ---- quantising ---- */

static void quantise(struct array values, const char *what)
{
    size_t n = elements_of(&values);
    struct call call = begin("mxfp4_quantize");
    add(&call, values);
    add_result(&call, make(U8, (int)(n / 32), 16, -1));
    add_result(&call, make(U8, (int)(n / 32), -1));
    call.arguments[0].rank = 1;
    call.arguments[0].dims[0] = (int64_t)n;
    expect_same(&call, true, what);
}

/* Patterns of bits, all kinds of NaN and infinities among them. */
static void quantised_bits(void)
{
    for (int type = F32; type <= F16; type++) {
        quantise(make((enum type)type, 0, -1), "nothing");
        for (int n = 1; n <= 300; n += 299) {
            struct array values = bytes(make((enum type)type, 32 * n, -1), 0, 255);
            size_t width = type_bytes((enum type)type);
            /* Near one another in size, as blocks are: the same exponent, or nearly. */
            for (int i = 0; i < 32 * n; i++) {
                uint8_t *top = &values.data[(size_t)(i + 1) * width - 1];
                if (i / 32 % 4 != 0)
                    *top = (uint8_t)((*top & 0x81) | (i / 32 * 5 & 0x7e));
            }
            quantise(values, describe("type %d, %d blocks", type, n));
        }
    }
}

/* Numbers at the midpoints between codes, and beside them. */
static void quantised_midpoints(void)
{
    struct array values = make(F32, 32 * 64, -1);
    static const float midpoints[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5, 7};
    for (size_t block = 0; block < 64; block++) {
        for (size_t i = 0; i < 32; i++) {
            uint32_t bits = bits_of(midpoints[i % 8]) + (uint32_t)(i / 8) - 1;
            set(&values, block * 32 + i,
                ldexpf(float_of(bits), (int)(block * 4) - 130) * (i % 2 == 0 ? 1 : -1));
        }
    }
    quantise(values, "midpoints");
}

/* Every scale with every code. */
static void dequantised(void)
{
    for (int type = F32; type <= F16; type++) {
        struct call call = begin("mxfp4_dequantize");
        add(&call, make(U8, 256, 16, -1));
        add(&call, make(U8, 256, -1));
        for (size_t i = 0; i < 256; i++) {
            call.arguments[1].data[i] = (uint8_t)i;
            for (size_t j = 0; j < 16; j++)
                call.arguments[0].data[16 * i + j] = (uint8_t)(j * 16 + (15 - j));
        }
        add_result(&call, make((enum type)type, 256 * 32, -1));
        expect_same(&call, true, describe("type %d", type));
    }
}

/* ---- attention ---- */

struct attention_shape {
    int n_batches, n_queries, n_heads, size, capacity, n_kv;
    enum type type, cache;
    int window;
    bool has_sinks;
};

/* Positions follow each other, from a random one on, unless `anywhere`. */
static struct call attention(const struct attention_shape *c, bool anywhere)
{
    struct call call = begin("sink_attention");
    struct array positions = make(S32, c->n_batches, c->n_queries, -1);
    int32_t *position = (void *)positions.data;
    for (int i = 0; i < c->n_batches; i++) {
        uint32_t first = random_below((uint32_t)c->capacity);
        for (int j = 0; j < c->n_queries; j++, position++)
            *position = anywhere ? (int32_t)random_below((uint32_t)c->capacity + 2) - 1
                                 : (int32_t)first + j;
    }
    add(&call, filled(make(c->type, c->n_batches, c->n_queries, c->n_heads, c->size, -1)));
    add(&call, filled(make(c->cache, c->n_batches, c->capacity, c->n_kv, c->size, -1)));
    add(&call, filled(make(c->cache, c->n_batches, c->capacity, c->n_kv, c->size, -1)));
    add(&call, positions);
    if (c->has_sinks)
        add(&call, filled(make(c->cache, c->n_heads, -1)));
    call.attributes[0] = "scale", call.floats[0] = 1.5f;
    call.attributes[1] = "window", call.floats[1] = (float)c->window;
    add_result(&call, make(c->type, c->n_batches, c->n_queries, c->n_heads, c->size, -1));
    return call;
}

static void check_attention(const struct attention_shape *c)
{
    for (int anywhere = 0; anywhere < 2; anywhere++) {
        struct call call = attention(c, anywhere != 0);
        expect_same(&call, false,
                    describe("%d batches of %d queries of %d heads of size %d, capacity %d, %d "
                             "heads, types %d and %d, window %d, %s, %s",
                             c->n_batches, c->n_queries, c->n_heads, c->size, c->capacity, c->n_kv,
                             (int)c->type, (int)c->cache, c->window,
                             c->has_sinks ? "sinks" : "no sinks",
                             anywhere != 0 ? "anywhere" : "in order"));
    }
}

static void attention_of_few(void)
{
    static const struct attention_shape shapes[] = {
        {1, 1, 4, 16, 300, 2, F32, F32, 0, true},    {1, 1, 4, 16, 300, 2, BF16, BF16, 129, true},
        {3, 1, 6, 8, 131, 3, F32, BF16, 5, false},   {2, 8, 8, 20, 128, 1, BF16, F32, 0, true},
        {1, 5, 3, 7, 40, 3, F32, F32, 1, true},      {2, 3, 2, 64, 257, 2, F32, BF16, 128, false},
        {1, 2, 2, 4, 10, 1, F32, F32, 1000000, true}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_attention(&shapes[i]);
}

static void attention_of_many(void)
{
    static const struct attention_shape shapes[] = {{1, 9, 4, 16, 300, 2, F32, F32, 0, true},
                                                    {2, 33, 8, 16, 70, 2, BF16, BF16, 20, true},
                                                    {3, 20, 3, 7, 131, 3, F32, BF16, 64, false},
                                                    {1, 70, 64, 8, 129, 1, F32, F32, 3, true}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_attention(&shapes[i]);
}

/* More queries than there is memory for at once; a window that is no number of 32 bits. */
static void attention_of_large_numbers(void)
{
    static const struct attention_shape many = {12, 8, 64, 64, 1280, 1, F32, F32, 0, true};
    static const struct attention_shape one = {1, 1, 2, 4, 600, 1, F32, F32, 0, true};
    struct call call = attention(&many, true);
    int32_t *positions = (void *)call.arguments[3].data;
    for (int i = 0; i < 12 * 8; i++) /* most of it is never seen */
        positions[i] = i % 3 == 0 ? -1 : positions[i] % 20;
    expect_same(&call, false, "very many queries");
    call = attention(&one, false);
    *(int32_t *)(void *)call.arguments[3].data = 599;
    call.floats[1] = 0x1p32f + 512;
    expect_same(&call, false, "a very large window");
}

/* Of no batch, as JAX's arrays are without one. */
static void attention_without_batches(void)
{
    static const struct attention_shape shape = {1, 4, 4, 8, 50, 2, F32, F32, 7, true};
    struct call call = attention(&shape, true);
    struct array *arrays[] = {&call.arguments[0], &call.arguments[1], &call.arguments[2],
                              &call.arguments[3], &call.results[0]};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        arrays[i]->rank--;
        memmove(arrays[i]->dims, arrays[i]->dims + 1, arrays[i]->rank * sizeof *arrays[i]->dims);
    }
    expect_same(&call, false, "no batches");
}

static void attention_to_nothing(void)
{
    struct attention_shape shape = {2, 3, 4, 8, 5, 2, F32, F32, 0, true};
    for (int n = 3; n <= 12; n += 9) {
        shape.n_queries = n;
        struct call call = attention(&shape, false);
        int32_t *positions = (void *)call.arguments[3].data;
        for (int i = 0; i < 2 * n; i++)
            positions[i] = i % 2 == 0 ? -1 - i : INT32_MAX - i;
        expect_same(&call, true, "nothing is in the cache");
        call = attention(&shape, false);
        call.arguments[1].dims[1] = call.arguments[2].dims[1] = 0;
        memset(call.results[0].data, 1, bytes_of(&call.results[0]));
        expect_same(&call, true, "there is no cache");
        call = attention(&shape, false);
        call.arguments[0].dims[1] = call.arguments[3].dims[1] = call.results[0].dims[1] = 0;
        expect_same(&call, true, "no queries");
    }
}

/* ---- errors ---- */

static void wrong_shapes(void)
{
    XLA_FFI_Error_Code invalid = XLA_FFI_Error_Code_INVALID_ARGUMENT;
    struct call call = matmul(2, 64, 5, F32, F32);
    call.arguments[2].dims[1] = 3;
    expect_error(&call, invalid, "mxfp4_matmul: argument \"blocks\": expected shape [5, 3, 16]");
    call = matmul(2, 64, 5, F32, F32);
    call.arguments[0].dims[1] = 32;
    expect_error(&call, invalid, "argument \"x\": expected shape [2, 64], found [2, 32]");
    call = matmul(2, 64, 5, F32, F32);
    call.results[0].type = BF16;
    expect_error(&call, invalid, "result \"y\": expected float32, found bfloat16");
    call = dense(2, 8, 5, F32, F16, NO_BIAS);
    call.n_arguments = 1;
    expect_error(&call, invalid, "expected 2 to 3 arguments, found 1");
    call = moe(2, 1, 3, 32, 64, F32, F32);
    call.attributes[1] = NULL;
    expect_error(&call, invalid, "attribute \"limit\" is missing");
    call = moe(2, 1, 3, 32, 64, F32, F32);
    call.arguments[5].dims[0] = 2;
    expect_error(&call, invalid, "argument \"down\"");
    call = moe(1, 1025, 3, 32, 32, F32, F32);
    expect_error(&call, invalid, "expected at most 1024 for a token on a GPU");
    struct attention_shape shape = {1, 2, 4, 8, 5, 2, F32, F32, 0, true};
    call = attention(&shape, false);
    call.arguments[2].dims[2] = 1;
    expect_error(&call, invalid, "argument \"values\": expected shape [1, 5, 2, 8]");
    call = attention(&shape, false);
    call.floats[1] = -1;
    expect_error(&call, invalid, "attribute \"window\": expected 0 or more, found -1");
    shape.n_heads = 512;
    shape.n_kv = 1;
    call = attention(&shape, false);
    expect_error(&call, invalid, "of a GPU's shared memory");
}

static void no_memory(void)
{
    XLA_FFI_Error_Code exhausted = XLA_FFI_Error_Code_RESOURCE_EXHAUSTED;
    struct call call = matmul(2, 64, 5, F32, F32);
    call.scratch_left = 0;
    expect_error(&call, exhausted, "mxfp4_matmul: XLA cannot give memory: out of memory");
    call = moe(9, 1, 3, 32, 64, F32, BF16);
    call.scratch_left = 0;
    expect_error(&call, exhausted, "mxfp4_moe");
    struct attention_shape shape = {1, 2, 4, 8, 5, 2, F32, F32, 0, true};
    call = attention(&shape, false);
    call.scratch_left = 0;
    expect_error(&call, exhausted, "sink_attention");
}

/* A launch that fails is told, and what was lent is given back. */
static void failing_launches(void)
{
    static const char *const after[] = {"0", "1", "2", "3"};
    for (size_t i = 0; i < sizeof after / sizeof *after; i++) {
        setenv("TENSORPORT_HARNESS_FAIL", after[i], 1);
        struct call call = moe(i % 2 == 0 ? 2 : 9, 2, 3, 32, 64, F32, F32);
        expect_error(&call, XLA_FFI_Error_Code_INTERNAL,
                     "mxfp4_moe: harness: an error in a kernel");
    }
    unsetenv("TENSORPORT_HARNESS_FAIL");
}

/* What XLA asks when a handler is registered. */
static void metadata(void)
{
    static const struct {
        const char *name;
        uint32_t traits;
    } expected[] = {{"mxfp4_matmul", 0},
                    {"mxfp4_moe", 0},
                    {"mxfp4_quantize", XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE},
                    {"mxfp4_dequantize", XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        XLA_FFI_Metadata about = {.struct_size = XLA_FFI_Metadata_STRUCT_SIZE, .traits = 99};
        XLA_FFI_Metadata_Extension extension = {
            .extension_base = {.struct_size = XLA_FFI_Metadata_Extension_STRUCT_SIZE,
                               .type = XLA_FFI_Extension_Metadata},
            .metadata = &about};
        XLA_FFI_CallFrame frame = {.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE,
                                   .extension_start = &extension.extension_base,
                                   .api = &api};
        expect(handler_of(expected[i].name, true)(&frame) == NULL, "%s fails", expected[i].name);
        expect(about.traits == expected[i].traits &&
                   about.api_version.major_version == XLA_FFI_API_MAJOR,
               "%s: expected traits %u, found %u", expected[i].name, expected[i].traits,
               about.traits);
    }
}

/* The same where there are no tensor cores. */
static void without_tensor_cores(void)
{
    setenv("TENSORPORT_HARNESS_TILES", "0", 1);
    check_matmul(1, 96, 5, F32, F32);
    check_matmul(19, 96, 33, BF16, NO_BIAS);
    struct call call = dense(9, 16, 5, BF16, BF16, F32);
    expect_same(&call, false, "dense, without tensor cores");
    call = moe(11, 2, 3, 32, 64, F32, F32);
    expect_same(&call, false, "experts, without tensor cores");
    unsetenv("TENSORPORT_HARNESS_TILES");
}

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
    {"matmul_of_odd_shapes", matmul_of_odd_shapes},
    {"matmul_of_nothing", matmul_of_nothing},
    {"matmul_of_batches", matmul_of_batches},
    {"matmul_of_any_scale", matmul_of_any_scale},
    {"matmul_of_large_numbers", matmul_of_large_numbers},
    {"dense_products", dense_products},
    {"products_of_very_many_vectors", products_of_very_many_vectors},
    {"products_at_odd_addresses", products_at_odd_addresses},
    {"mixtures", mixtures},
    {"mixtures_of_all_kinds", mixtures_of_all_kinds},
    {"mixtures_of_nobody", mixtures_of_nobody},
    {"mixtures_with_nan", mixtures_with_nan},
    {"attention_of_few", attention_of_few},
    {"attention_of_many", attention_of_many},
    {"attention_of_large_numbers", attention_of_large_numbers},
    {"attention_without_batches", attention_without_batches},
    {"attention_to_nothing", attention_to_nothing},
    {"quantised_bits", quantised_bits},
    {"quantised_midpoints", quantised_midpoints},
    {"dequantised", dequantised},
    {"wrong_shapes", wrong_shapes},
    {"no_memory", no_memory},
    {"failing_launches", failing_launches},
    {"metadata", metadata},
    {"without_tensor_cores", without_tensor_cores},
};
enum { N_TESTS = sizeof tests / sizeof *tests };

int main(int argc, char **argv)
{
    struct tp_device_facts facts;
    struct tp_error error;
    int n_failed = 0;
    const char *build = getenv("TP_TEST_BUILDDIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/tensorport-xla.so", build != NULL ? build : ".");
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL || tp_device_open(&device, &facts, &error) < 0) {
        fprintf(stderr, "%s: %s\n", path, library == NULL ? dlerror() : error.text);
        return 1;
    }
    printf("1..%d\n", (int)N_TESTS);
    for (size_t i = 0; i < N_TESTS; i++) {
        fault = NULL;
        state = i + 1;
        if (argc > 1 && strcmp(argv[1], tests[i].name) != 0)
            continue;
        tests[i].run();
        printf("%sok %zu - %s\n", fault != NULL ? "not " : "", i + 1, tests[i].name);
        if (fault != NULL)
            printf("# %s\n", fault);
        n_failed += fault != NULL;
        fflush(stdout);
    }
    tp_device_close(device);
    return n_failed > 0;
}
