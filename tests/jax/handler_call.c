#include "tests/jax/handler_call.h"

#include <dlfcn.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/device.h"

/* CUDA's cudaStreamLegacy; to the harness any address is a stream. */
static void *const stream = (void *)(uintptr_t)1;

static struct tp_device *device;
static struct tp_device_facts facts;
static const char *fault; /* of the running test: the first one */
static char fault_text[512];

void expect(bool holds, const char *format, ...)
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
    args->stream = stream;
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

const XLA_FFI_Api api = {
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

uint32_t random_below(uint32_t n)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((state >> 32) * n >> 32);
}

float random_float(void)
{
    return (float)random_below(1 << 24) * 0x1p-23f - 1;
}

uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float float_of(uint32_t bits)
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

size_t type_bytes(enum type type)
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

size_t elements_of(const struct array *array)
{
    size_t n = 1;
    for (size_t i = 0; i < array->rank; i++)
        n *= (size_t)array->dims[i];
    return n;
}

size_t bytes_of(const struct array *array)
{
    return elements_of(array) * type_bytes(array->type);
}

struct array make(enum type type, ...)
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

void set(struct array *array, size_t i, float x)
{
    if (array->type == F32)
        ((float *)(void *)array->data)[i] = x;
    else if (array->type == F16)
        ((uint16_t *)(void *)array->data)[i] = (uint16_t)((to_bf16(x) >> 1 & 0x3fff) | 0x400);
    else
        ((uint16_t *)(void *)array->data)[i] = to_bf16(x);
}

float get(const struct array *array, size_t i)
{
    if (array->type == F32)
        return ((const float *)(const void *)array->data)[i];
    return float_of((uint32_t)((const uint16_t *)(const void *)array->data)[i] << 16);
}

struct array filled(struct array array)
{
    for (size_t i = 0; i < elements_of(&array); i++)
        set(&array, i, random_float());
    return array;
}

struct array bytes(struct array array, uint32_t least, uint32_t most)
{
    for (size_t i = 0; i < bytes_of(&array); i++)
        array.data[i] = (uint8_t)(least + random_below(most - least + 1));
    return array;
}

bool is_harness(void)
{
    return strcmp(facts.name, "harness") == 0;
}

/* ---- calls ---- */

static void *library; /* the CPU's */

tp_xla_handler *handler_of(const char *name, bool cuda)
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
    uint8_t *lent = (uint8_t *)memory + array->offset;
    if (tp_device_upload(device, lent, array->data, bytes_of(array), &error) < 0 ||
        tp_device_wait(device, &error) < 0)
        abort();
    return lent;
}

/* Until the handler's work is done. */
static void wait_for_stream(void)
{
    const struct tp_device_facts *ignored;
    struct tp_device *adopted;
    struct tp_error error;
    if (tp_device_adopt(stream, &adopted, &ignored, &error) < 0)
        abort();
    expect(tp_device_wait(adopted, &error) == 0, "%s", error.text);
    tp_device_release(adopted);
}

/* Takes a result back, or sees that an argument is what it was. */
static void take_back(const struct call *call, const struct array *array, void *lent,
                      bool is_result)
{
    struct tp_error error;
    uint8_t *found = checked(malloc(bytes_of(array) + 1));
    if (lent != NULL) {
        expect(tp_device_download(device, found, lent, bytes_of(array), &error) == 0, "%s",
               error.text);
        expect(is_result || memcmp(array->data, found, bytes_of(array)) == 0,
               "%s: an argument was changed", call->name);
        memcpy(array->data, found, bytes_of(array));
        tp_device_free(device, (uint8_t *)lent - array->offset);
    }
    free(found);
}

XLA_FFI_Error *run(const struct call *call, bool cuda)
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
    if (cuda)
        wait_for_stream();
    for (size_t i = 0; cuda && i < call->n_arguments + call->n_results; i++) {
        bool is_result = i >= call->n_arguments;
        take_back(call, is_result ? &call->results[i - call->n_arguments] : &call->arguments[i],
                  buffers[i].data, is_result);
    }
    return error;
}

void free_call(struct call *call)
{
    for (size_t i = 0; i < call->n_arguments; i++)
        free(call->arguments[i].data);
    for (size_t i = 0; i < call->n_results; i++)
        free(call->results[i].data);
}

struct call begin(const char *name)
{
    return (struct call){.name = name, .scratch_left = SIZE_MAX};
}

void add(struct call *call, struct array array)
{
    call->arguments[call->n_arguments++] = array;
}

void add_result(struct call *call, struct array array)
{
    call->results[call->n_results++] = array;
}

bool is_near(float found, float expected, float largest, enum type type)
{
    float step = type == BF16 ? fabsf(expected) * 0x1p-7f : 0;
    if (isnan(found) || isnan(expected))
        return isnan(found) && isnan(expected);
    if (isinf(found) || isinf(expected))
        return found == expected;
    return fabsf(found - expected) <= step + 1e-5f * largest;
}

const char *describe(const char *format, ...)
{
    static char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return text;
}

void expect_same(struct call *call, bool exactly, const char *what)
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

void expect_error(struct call *call, XLA_FFI_Error_Code code, const char *text)
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

/* ---- running ---- */

int run_handler_tests(const struct handler_test *tests, int argc, char **argv)
{
    enum { SKIPPED = 77 };
    struct tp_error error;
    int n_failed = 0;
    const char *build = getenv("TP_TEST_BUILDDIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/tensorport-xla.so", build != NULL ? build : ".");
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    if (tp_device_open(&device, &facts, &error) < 0) {
        printf("1..0 # skipped: %s\n", error.text);
        return SKIPPED;
    }
    size_t n_tests = 0;
    while (tests[n_tests].name != NULL)
        n_tests++;
    printf("1..%zu\n", n_tests);
    for (size_t i = 0; i < n_tests; i++) {
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
