/* Tests of the kernels, as TAP. Arguments: names of tests; without any all of them but those of a
 * real model's shapes, which come with --full. Exit status 1 when one fails, 2 when there is
 * none of that name, 77 without a device. */
#include "tests/cuda/kernel_test.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SKIPPED = 77, PIECES_MAX = 4096, MESSAGE_MAX = 512, STRIDE_MULTIPLE = 128 };

static struct {
    struct tp_device *device;
    struct tp_device_facts facts;
    void *host[PIECES_MAX], *memory[PIECES_MAX]; /* of the test */
    size_t n_host, n_memory;
    uint64_t random;
    char message[MESSAGE_MAX]; /* empty: the test has not failed */
} run;

/* ---- what a test says ---- */

void expect(bool holds, const char *format, ...)
{
    va_list arguments;
    if (holds || run.message[0] != '\0')
        return;
    va_start(arguments, format);
    vsnprintf(run.message, sizeof run.message, format, arguments);
    va_end(arguments);
}

void expect_near(double found, double expected, double size, double tolerance, const char *what,
                 size_t i, size_t j)
{
    bool same = found == expected || (isnan(found) && isnan(expected));
    expect(same || fabs(found - expected) <= tolerance * size,
           "%s [%zu][%zu]: found %.9g, expected %.9g", what, i, j, found, expected);
}

/* A failure of the device ends the program: nothing works after it. */
static void must(int rc, const struct tp_error *error)
{
    if (rc == 0)
        return;
    printf("# %s\nBail out! the device has failed\n", error->text);
    exit(1);
}

/* ---- memory ---- */

static void *keep(void *piece, void **list, size_t *n)
{
    if (piece == NULL || *n == PIECES_MAX) {
        printf("Bail out! no memory\n");
        exit(1);
    }
    return list[(*n)++] = piece;
}

void *on_host(size_t n, size_t bytes)
{
    return keep(calloc(n + 1, bytes), run.host, &run.n_host);
}

static void *new_on_device(size_t bytes)
{
    struct tp_error error;
    void *memory = NULL;
    must(tp_device_allocate(run.device, bytes > 0 ? bytes : 1, &memory, &error), &error);
    return keep(memory, run.memory, &run.n_memory);
}

void *on_device(const void *source, size_t bytes)
{
    struct tp_error error;
    void *memory = new_on_device(bytes);
    must(tp_device_upload(run.device, memory, source, bytes, &error), &error);
    return memory;
}

void *zeros_on_device(size_t bytes)
{
    struct tp_error error;
    void *memory = new_on_device(bytes);
    must(tp_device_zero(run.device, memory, bytes, &error), &error);
    return memory;
}

void *from_device(const void *source, size_t bytes)
{
    struct tp_error error;
    void *target = on_host(bytes, 1);
    must(tp_device_download(run.device, target, source, bytes, &error), &error);
    must(tp_device_wait(run.device, &error), &error);
    return target;
}

static void free_all(void)
{
    while (run.n_host > 0)
        free(run.host[--run.n_host]);
    while (run.n_memory > 0)
        tp_device_free(run.device, run.memory[--run.n_memory]);
}

const struct tp_device_facts *device_facts(void)
{
    return &run.facts;
}

unsigned blocks_at_once(void)
{
    enum { BLOCKS_PER_MULTIPROCESSOR = 4 };
    return (unsigned)run.facts.n_multiprocessors * BLOCKS_PER_MULTIPROCESSOR;
}

void launch(tp_kernel_fn *kernel, const void *arguments, size_t bytes, unsigned blocks,
            unsigned threads, size_t shared_bytes)
{
    launch_grid(kernel, arguments, bytes, (unsigned[]){blocks, 1, 1}, threads, shared_bytes);
}

void launch_grid(tp_kernel_fn *kernel, const void *arguments, size_t bytes, const unsigned grid[3],
                 unsigned threads, size_t shared_bytes)
{
    struct tp_error error;
    struct tp_launch l = {.kernel = kernel,
                          .arguments = arguments,
                          .argument_bytes = bytes,
                          .grid = {grid[0], grid[1], grid[2]},
                          .threads = threads,
                          .shared_bytes = shared_bytes,
                          .follows = true};
    must(tp_device_launch(run.device, &l, &error), &error);
    must(tp_device_wait(run.device, &error), &error);
}

/* ---- numbers ---- */

uint32_t random_below(uint32_t n)
{
    run.random = run.random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((run.random >> 32) * n >> 32);
}

float random_float(void)
{
    enum { STEPS = 1 << 24 };
    return ((float)random_below(STEPS) + 0.5f) / (STEPS / 2) - 1;
}

float *random_floats(size_t n)
{
    float *x = on_host(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = random_float();
    return x;
}

float from_bf16(uint16_t bits)
{
    uint32_t word = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &word, sizeof x);
    return x;
}

uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return isnan(x) ? 0x7fc0 : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float rounded_to_bf16(float x)
{
    return from_bf16(to_bf16(x));
}

/* ---- matrices ---- */

static float from_f16(uint16_t bits)
{
    int exponent = bits >> 10 & 31, mantissa = bits & 0x3ff;
    double size = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    return (float)((bits & 0x8000) != 0 ? -size : size);
}

/* A number of that type, into `target`, and what it stands for. */
static float draw_number(enum tp_matrix_type type, void *target, size_t i)
{
    float x = random_float();
    uint16_t bits = 0;
    switch (type) {
    case TP_MATRIX_F32:
        ((float *)target)[i] = x;
        return x;
    case TP_MATRIX_F16:
        bits = (uint16_t)(random_below(2) << 15 | random_below(16) << 10 | random_below(1024));
        ((uint16_t *)target)[i] = bits;
        return from_f16(bits);
    default:
        bits = to_bf16(x);
        ((uint16_t *)target)[i] = bits;
        return from_bf16(bits);
    }
}

/* Blocks of 32 with a scale each. */
static void draw_mxfp4(size_t n_blocks, uint8_t *nibbles, uint8_t *scales, const uint8_t *of,
                       size_t n_of, float *values)
{
    static const float magnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    for (size_t block = 0; block < n_blocks; block++) {
        uint8_t scale =
            of != NULL ? of[random_below((uint32_t)n_of)] : (uint8_t)(118 + random_below(11));
        scales[block] = scale;
        for (size_t i = 0; i < 32; i++) {
            /* With the largest scales only what float32 has room for. */
            uint32_t nibble = random_below(2) << 3 | random_below(scale > 250 ? 4 : 8);
            double x = magnitudes[nibble & 7] * ldexp((nibble & 8) != 0 ? -1 : 1, scale - 127);
            nibbles[(block * 32 + i) / 2] |= (uint8_t)(nibble << (i % 2 * 4));
            values[block * 32 + i] = scale == 255 ? NAN : (float)x;
        }
    }
}

static bool are_large(const uint8_t *scales, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (scales[i] != 255 && scales[i] > TP_SCALE_MAX)
            return true;
    }
    return false;
}

struct weights make_weights(enum tp_matrix_type type, size_t n, size_t rows, size_t columns,
                            const uint8_t *scales, size_t n_scales)
{
    size_t total = n * rows * columns, width = type == TP_MATRIX_F32 ? 4 : 2;
    struct weights w = {.gpu = {.type = type, .rows = (uint32_t)rows, .columns = (uint32_t)columns},
                        .values = on_host(total, sizeof *w.values)};
    if (type == TP_MATRIX_MXFP4) {
        uint8_t *nibbles = on_host(total / 2, 1), *drawn = on_host(total / 32, 1);
        draw_mxfp4(total / 32, nibbles, drawn, scales, n_scales, w.values);
        w.gpu.values = on_device(nibbles, total / 2);
        w.gpu.scales = on_device(drawn, total / 32);
        w.gpu.has_large_scales = are_large(drawn, total / 32);
        return w;
    }
    void *numbers = on_host(total, width);
    for (size_t i = 0; i < total; i++)
        w.values[i] = draw_number(type, numbers, i);
    w.gpu.values = on_device(numbers, total * width);
    return w;
}

double multiply_row(const struct weights *w, size_t row, const float *x, double *ret_size)
{
    enum { SUMS = 8 }; /* so that no addition waits for the one before */
    const float *values = w->values + row * w->gpu.columns;
    double sums[SUMS] = {0}, sizes[SUMS] = {0};
    for (size_t i = 0; i < w->gpu.columns; i++) {
        double product = (double)values[i] * x[i];
        sums[i % SUMS] += product;
        sizes[i % SUMS] += fabs(product);
    }
    for (size_t j = 1; j < SUMS; j++) {
        sums[0] += sums[j];
        sizes[0] += sizes[j];
    }
    *ret_size = sizes[0];
    return sums[0];
}

/* ---- columns ---- */

/* Within 8 columns MXFP4 wants 0 4 1 5 2 6 3 7. */
static size_t place_of(const struct tp_columns *columns, size_t i)
{
    static const size_t places[] = {0, 2, 4, 6, 1, 3, 5, 7};
    return columns->shuffled ? i / 8 * 8 + places[i % 8] : i;
}

static struct tp_columns shape_columns(size_t size, uint32_t n_parts, bool shuffled)
{
    return (struct tp_columns){
        .n_parts = n_parts,
        .size = (uint32_t)size,
        .stride = (uint32_t)((size + STRIDE_MULTIPLE - 1) / STRIDE_MULTIPLE * STRIDE_MULTIPLE),
        .shuffled = shuffled};
}

struct tp_columns empty_columns(size_t n, size_t size, uint32_t n_parts, bool shuffled)
{
    struct tp_columns columns = shape_columns(size, n_parts, shuffled);
    columns.parts = zeros_on_device(n * n_parts * columns.stride * sizeof *columns.parts);
    return columns;
}

struct tp_columns make_columns(float *x, size_t n, size_t size, uint32_t n_parts, bool shuffled)
{
    struct tp_columns columns = shape_columns(size, n_parts, shuffled);
    size_t total = n * n_parts * columns.stride;
    uint16_t *parts = on_host(total, sizeof *parts);
    for (size_t i = 0; i < n * size; i++) {
        float rest = x[i];
        size_t at = i / size * n_parts * columns.stride + place_of(&columns, i % size);
        for (uint32_t part = 0; part < n_parts; part++) {
            parts[at + part * columns.stride] = to_bf16(rest);
            rest -= rounded_to_bf16(rest);
        }
        x[i] -= n_parts == 1 ? rest : 0;
    }
    columns.parts = on_device(parts, total * sizeof *parts);
    return columns;
}

float *read_columns(const struct tp_columns *columns, size_t n)
{
    size_t total = n * columns->n_parts * columns->stride;
    float *x = on_host(n * columns->size, sizeof *x);
    const uint16_t *parts = from_device(columns->parts, total * sizeof *parts);
    for (size_t vector = 0; vector < n * columns->n_parts; vector++) {
        float *target = x + vector / columns->n_parts * columns->size;
        const uint16_t *part = parts + vector * columns->stride;
        for (size_t i = 0; i < columns->size; i++)
            target[i] += from_bf16(part[place_of(columns, i)]);
        size_t padding = columns->shuffled ? (columns->size + 7) / 8 * 8 : columns->size;
        for (size_t i = padding; i < columns->stride; i++)
            expect(part[i] == 0, "padding of vector %zu is written at %zu", vector, i);
    }
    return x;
}

double column_tolerance(const struct tp_columns *columns)
{
    return columns->n_parts == 1 ? 0x1p-8 : 0x1p-22;
}

struct tp_squares make_squares(const float *x, size_t n, size_t size, double *ret_scales)
{
    enum { N_SUMS = 35 }; /* more than a warp adds at once */
    struct tp_squares squares = {.n_sums = N_SUMS, .size = (uint32_t)size, .epsilon = 0.03125f};
    float *sums = on_host(N_SUMS * TP_FEW, sizeof *sums);
    for (size_t token = 0; token < n; token++) {
        double sum = 0;
        for (size_t i = 0; i < size; i++) {
            double square = (double)x[token * size + i] * x[token * size + i];
            sums[i % N_SUMS * TP_FEW + token] += (float)square;
            sum += square;
        }
        ret_scales[token] = 1 / sqrt(sum / (double)size + squares.epsilon);
    }
    squares.sums = on_device(sums, N_SUMS * TP_FEW * sizeof *sums);
    return squares;
}

struct tp_squares make_token_squares(const float *x, size_t n, size_t size, double *ret_scales)
{
    struct tp_squares squares = {.n_sums = 1, .size = (uint32_t)size, .epsilon = 0.03125f};
    float *sums = on_host(n, sizeof *sums);
    for (size_t token = 0; token < n; token++) {
        double sum = 0;
        for (size_t i = 0; i < size; i++)
            sum += (double)x[token * size + i] * x[token * size + i];
        sums[token] = (float)sum;
        ret_scales[token] = 1 / sqrt(sum / (double)size + squares.epsilon);
    }
    squares.sums = on_device(sums, n * sizeof *sums);
    return squares;
}

/* ---- experts ---- */

struct tp_routing empty_routing(size_t n_experts, size_t k)
{
    return (struct tp_routing){
        .scales = zeros_on_device(TP_FEW * sizeof(float)),
        .weights = zeros_on_device(TP_FEW * k * sizeof(float)),
        .chosen = zeros_on_device(TP_FEW * k * sizeof(uint32_t)),
        .n_active = zeros_on_device(sizeof(uint32_t)),
        .active = zeros_on_device(TP_FEW * k * sizeof(uint32_t)),
        .slots = zeros_on_device(TP_FEW * k * TP_FEW * sizeof(uint16_t)),
        .n_experts = (uint32_t)n_experts,
        .n_per_token = (uint32_t)k,
    };
}

static bool is_among(uint32_t x, const uint32_t *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (list[i] == x)
            return true;
    }
    return false;
}

struct choice choose(size_t n, size_t n_experts, size_t k, float norm)
{
    struct choice c = {.chosen = on_host(n * k, sizeof *c.chosen),
                       .weights = random_floats(n * k),
                       .scales = random_floats(TP_FEW)};
    for (size_t i = 0; i < TP_FEW; i++)
        c.scales[i] *= norm;
    uint32_t *active = on_host(TP_FEW * k, sizeof *active);
    uint16_t *slots = on_host(TP_FEW * k * TP_FEW, sizeof *slots);
    for (size_t i = 0; i < n * k; i++) {
        do
            c.chosen[i] = random_below((uint32_t)n_experts);
        while (is_among(c.chosen[i], c.chosen + i / k * k, i % k));
    }
    memset(slots, 0xff, TP_FEW * k * TP_FEW * sizeof *slots); /* TP_NO_SLOT */
    for (uint32_t expert = 0; expert < n_experts; expert++) {
        if (!is_among(expert, c.chosen, n * k))
            continue;
        for (size_t i = 0; i < n * k; i++) {
            if (c.chosen[i] == expert)
                slots[c.n_active * TP_FEW + i / k] = (uint16_t)(i % k);
        }
        active[c.n_active++] = expert;
    }
    c.routing = (struct tp_routing){
        .scales = on_device(c.scales, TP_FEW * sizeof *c.scales),
        .weights = on_device(c.weights, n * k * sizeof *c.weights),
        .chosen = on_device(c.chosen, n * k * sizeof *c.chosen),
        .n_active = on_device(&c.n_active, sizeof c.n_active),
        .active = on_device(active, TP_FEW * k * sizeof *active),
        .slots = on_device(slots, TP_FEW * k * TP_FEW * sizeof *slots),
        .n_experts = (uint32_t)n_experts,
        .n_per_token = (uint32_t)k,
    };
    return c;
}

static void draw_experts(size_t n_experts, size_t k, size_t token, uint32_t *chosen)
{
    uint32_t n = (uint32_t)(n_experts > k ? n_experts - 1 : n_experts);
    for (size_t i = 0; i < k; i++) {
        do
            chosen[i] = random_below(n);
        while (is_among(chosen[i], chosen, i));
    }
    if (k > 1 && !is_among(0, chosen, k))
        chosen[token % k] = 0;
}

/* One for each token, in any order. */
static void deal_experts(size_t n, size_t n_experts, const uint32_t *counts, uint32_t *chosen)
{
    size_t at = 0;
    for (uint32_t expert = 0; expert < n_experts; expert++) {
        for (uint32_t i = 0; i < counts[expert] && at < n; i++)
            chosen[at++] = expert;
    }
    for (size_t i = n; i > 1; i--) {
        size_t j = random_below((uint32_t)i);
        uint32_t expert = chosen[i - 1];
        chosen[i - 1] = chosen[j];
        chosen[j] = expert;
    }
}

struct sorted sort_tokens(size_t n, size_t n_experts, size_t k, const uint32_t *counts)
{
    struct sorted s = {.chosen = on_host(n * k, sizeof *s.chosen),
                       .weights = random_floats(n * k),
                       .first = on_host(n_experts + 1, sizeof *s.first),
                       .tokens = on_host(n * k, sizeof *s.tokens),
                       .of_token = on_host(n * k, sizeof *s.of_token)};
    uint32_t slot = 0;
    if (counts != NULL)
        deal_experts(n, n_experts, counts, s.chosen);
    for (size_t token = 0; token < n && counts == NULL; token++)
        draw_experts(n_experts, k, token, s.chosen + token * k);
    for (uint32_t expert = 0; expert < n_experts; expert++) {
        s.first[expert] = slot;
        for (size_t i = 0; i < n * k; i++) {
            if (s.chosen[i] == expert) {
                s.of_token[i] = slot;
                s.tokens[slot++] = (uint32_t)(i / k);
            }
        }
    }
    s.first[n_experts] = slot;
    s.slots = (struct tp_slots){
        .first = on_device(s.first, (n_experts + 1) * sizeof *s.first),
        .tokens = on_device(s.tokens, n * k * sizeof *s.tokens),
        .of_token = on_device(s.of_token, n * k * sizeof *s.of_token),
        .chosen = on_device(s.chosen, n * k * sizeof *s.chosen),
        .weights = on_device(s.weights, n * k * sizeof *s.weights),
        .n_experts = (uint32_t)n_experts,
        .n_per_token = (uint32_t)k,
    };
    return s;
}

/* ---- variants ---- */

static bool on_tiles(const struct tp_gpu_matrix *w, bool tiles)
{
    return tiles && run.facts.has_tiles && !w->has_large_scales &&
           (w->type == TP_MATRIX_MXFP4 || (w->type == TP_MATRIX_BF16 && w->columns % 8 == 0));
}

bool is_shuffled(const struct tp_gpu_matrix *w, bool tiles)
{
    return w->type == TP_MATRIX_MXFP4 && on_tiles(w, tiles);
}

tp_kernel_fn *variant_for(const struct variants *variants, const struct tp_gpu_matrix *w,
                          uint32_t n_parts, size_t n, bool tiles, uint32_t *ret_groups)
{
    bool one = n_parts * n <= TP_FEW;
    *ret_groups = 1;
    if (!on_tiles(w, tiles))
        return variants->any;
    *ret_groups = one ? 1 : n_parts;
    if (w->type == TP_MATRIX_BF16)
        return one ? variants->bf16_1 : variants->bf16_3;
    return one ? variants->mxfp4_1 : variants->mxfp4_3;
}

/* ---- running ---- */

static const struct kernel_test *const files[] = {
    product_tests,  mlp_tests,          output_tests,         attention_tests, choosing_tests,
    many_row_tests, many_product_tests, many_attention_tests, array_tests};
enum { N_FILES = sizeof files / sizeof *files };

static const struct kernel_test *find(const char *name)
{
    for (size_t i = 0; i < N_FILES; i++) {
        for (const struct kernel_test *test = files[i]; test->name != NULL; test++) {
            if (strcmp(test->name, name) == 0)
                return test;
        }
    }
    return NULL;
}

static bool run_test(const struct kernel_test *test, unsigned number)
{
    if ((test->flags & NEEDS_TILES) != 0 && !run.facts.has_tiles) {
        printf("ok %u - %s # SKIP the device has no tensor cores for BF16\n", number, test->name);
        return true;
    }
    run.random = 1;
    run.message[0] = '\0';
    test->run();
    free_all();
    bool passed = run.message[0] == '\0';
    printf("%sok %u - %s\n", passed ? "" : "not ", number, test->name);
    if (!passed)
        printf("# %s\n", run.message);
    fflush(stdout);
    return passed;
}

static bool run_all(bool with_large)
{
    unsigned n = 0, n_failed = 0;
    for (size_t i = 0; i < N_FILES; i++) {
        for (const struct kernel_test *test = files[i]; test->name != NULL; test++) {
            if (with_large || (test->flags & IS_LARGE) == 0)
                n_failed += !run_test(test, ++n);
        }
    }
    printf("1..%u\n", n);
    return n_failed == 0;
}

static bool run_named(int n, char **names)
{
    int n_failed = 0;
    for (int i = 0; i < n; i++)
        n_failed += !run_test(find(names[i]), (unsigned)i + 1);
    printf("1..%d\n", n);
    return n_failed == 0;
}

int main(int argc, char **argv)
{
    enum { WRONG_USAGE = 2 };
    struct tp_error error = {{0}};
    bool with_large = argc == 2 && strcmp(argv[1], "--full") == 0;
    for (int i = 1; i < argc && !with_large; i++) {
        if (find(argv[i]) == NULL) {
            fprintf(stderr, "%s: no test of that name\n", argv[i]);
            return WRONG_USAGE;
        }
    }
    int rc = tp_device_open(&run.device, &run.facts, &error);
    if (rc == -ENODEV) {
        printf("1..0 # skipped: %s\n", error.text);
        return SKIPPED;
    }
    must(rc, &error);
    printf("# %s, sm_%u\n", run.facts.name, run.facts.architecture);
    bool passed = argc == 1 || with_large ? run_all(with_large) : run_named(argc - 1, argv + 1);
    tp_device_close(run.device);
    return !passed;
}
