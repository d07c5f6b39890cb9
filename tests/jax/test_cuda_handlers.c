/* The handlers for CUDA, held to those for the CPU. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/jax/handler_call.h"

/* ---- products ---- */

enum { NO_BIAS = -1 };

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

/* A launch that fails is told, and what was lent is given back. Only the harness does on demand. */
static void failing_launches(void)
{
    static const char *const after[] = {"0", "1", "2", "3"};
    for (size_t i = 0; is_harness() && i < sizeof after / sizeof *after; i++) {
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

static const struct handler_test tests[] = {
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
    {NULL, NULL},
};

int main(int argc, char **argv)
{
    return run_handler_tests(tests, argc, argv);
}
