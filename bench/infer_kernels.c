/* bench/infer_kernels: how near the CPU backend's kernels come to what the machine can do. Prints
 * JSON, one object a line.
 *
 * What reads weights once (decoding) is measured against a plain loop that reads the same memory
 * with the same threads, in turns with it: the ratio of a pair holds on a noisy machine where the
 * rates do not. What computes (prefill) is measured against a loop of multiply-adds in registers.
 * `ratio` is the median over the pairs, `best` the best one.
 *
 * With one thread, time is that thread's processor time: others on the machine then take nothing
 * but their share of the memory's bandwidth.
 */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "infer/cpu/attention.h"
#include "infer/cpu/multiply.h"
#include "infer/cpu/peaks.h"

enum { MAX_RUNS = 99, HIDDEN = 2880 };

struct options {
    int runs;
    size_t n_threads; /* 0: 1 and all */
    const char *only; /* a case, or NULL */
    size_t mib;       /* of weights */
};

struct bench {
    const struct options *options;
    struct tp_workspace workspace;
    size_t n_threads;
    uint8_t *weights; /* random bytes */
    size_t weight_bytes;
    uint8_t *scales;
    bool huge_pages;
    float *x, *y; /* [MAX_VECTORS][X_STRIDE] */
    float *bias;
};

enum { MAX_VECTORS = 512, X_STRIDE = 8192, Y_BYTES = MAX_VECTORS * X_STRIDE * 4 };

static double now(const struct bench *bench)
{
    struct timespec time;
    clock_gettime(bench->n_threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return values[n / 2];
}

static const char *type_name(enum tp_matrix_type type)
{
    static const char *const names[] = {"F32", "F16", "BF16", "MXFP4", "INT8"};
    return names[type];
}

static void print_list(const char *name, const double *values, int n)
{
    printf(", \"%s\": [", name);
    for (int i = 0; i < n; i++)
        printf("%s%.3f", i > 0 ? ", " : "", values[i]);
    printf("]");
}

/* One line of output: rates of ours and, unless NULL, of what limits them, in pairs. */
static void print(const struct bench *bench, const char *name, const char *unit,
                  const double *rates, const char *other, const double *limits)
{
    int runs = bench->options->runs;
    double ratios[MAX_RUNS];
    printf("{\"case\": \"%s\", \"isa\": \"%s\", \"threads\": %zu, \"huge_pages\": %s, "
           "\"unit\": \"%s\"",
           name, bench->workspace.kernels->name, bench->n_threads,
           bench->huge_pages ? "true" : "false", unit);
    if (limits != NULL) {
        for (int i = 0; i < runs; i++)
            ratios[i] = rates[i] / limits[i];
        double ratio = median(ratios, runs);
        printf(", \"ratio\": %.3f, \"best\": %.3f, \"other\": \"%s\"", ratio, ratios[runs - 1],
               other);
        print_list("limits", limits, runs);
    }
    print_list("rates", rates, runs);
    printf("}\n");
    fflush(stdout);
}

static void *allocate(size_t bytes, bool huge)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        fprintf(stderr, "bench/infer_kernels: no memory for %zu bytes; try --mib\n", bytes);
        exit(1);
    }
    madvise(memory, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return memory;
}

static bool wanted(const struct bench *bench, const char *name)
{
    return bench->options->only == NULL || strstr(name, bench->options->only) != NULL;
}

/* ---- reading memory ---- */

enum { READ_PIECE = 128 << 10 };

static void read_piece(void *context, size_t item, size_t thread)
{
    const struct bench *bench = context;
    (void)thread;
    tp_peak_read(bench->weights + item * READ_PIECE, READ_PIECE);
}

static double read_seconds(struct bench *bench, size_t bytes)
{
    double start = now(bench);
    tp_pool_run(bench->workspace.pool, bytes / READ_PIECE, read_piece, bench);
    return now(bench) - start;
}

/* ---- decoding ---- */

struct shape {
    enum tp_matrix_type type;
    size_t rows, columns;
};

/* Multiplies by as many different matrices as there is memory for, `at_once` in one call. */
static double multiply_seconds(struct bench *bench, const struct shape *shape, size_t n_vectors,
                               enum tp_activations activations, size_t at_once, size_t *ret_bytes)
{
    struct tp_vectors vectors = {.x = bench->x,
                                 .n_x = n_vectors,
                                 .columns = shape->columns,
                                 .stride = X_STRIDE,
                                 .n = n_vectors};
    struct tp_product products[8];
    size_t bytes = 0, done = 0;
    double start = now(bench);
    while (true) {
        size_t n = 0;
        for (; n < at_once; n++) {
            struct tp_matrix w = {shape->type, shape->rows, shape->columns, bench->weights + done,
                                  bench->scales + done / 16};
            if (done + tp_matrix_bytes(&w) > bench->weight_bytes)
                break;
            products[n] = (struct tp_product){.w = w,
                                              .bias = bench->bias,
                                              .n = n_vectors,
                                              .y = bench->y,
                                              .y_stride = shape->rows};
            done += tp_matrix_bytes(&w);
            bytes += tp_matrix_bytes(&w) * (shape->type == TP_MATRIX_MXFP4 ? 17 : 16) / 16;
        }
        if (n == 0)
            break;
        if (tp_multiply(&bench->workspace, &vectors, activations, products, n) < 0)
            abort();
    }
    *ret_bytes = bytes;
    return now(bench) - start;
}

static void bench_decode(struct bench *bench, const struct shape *shape, size_t n_vectors,
                         enum tp_activations activations, size_t at_once)
{
    double ours[MAX_RUNS], other[MAX_RUNS];
    char name[128];
    size_t bytes;
    snprintf(name, sizeof name, "decode %s%s %zux%zu, %zu at once, batch %zu",
             type_name(shape->type), activations == TP_ACTIVATIONS_BF16 ? " times BF16" : "",
             shape->rows, shape->columns, at_once, n_vectors);
    struct tp_matrix one = {shape->type, shape->rows, shape->columns, NULL, NULL};
    if (!wanted(bench, name) || tp_matrix_bytes(&one) > bench->weight_bytes)
        return;
    for (int i = -1; i < bench->options->runs; i++) {
        double seconds = multiply_seconds(bench, shape, n_vectors, activations, at_once, &bytes);
        double read = read_seconds(bench, bench->weight_bytes);
        if (i >= 0) {
            ours[i] = 1e-9 * (double)bytes / seconds;
            other[i] = 1e-9 * (double)bench->weight_bytes / read;
        }
    }
    print(bench, name, "GB/s", ours, "read loop", other);
}

static bool has_pairs(enum tp_matrix_type type)
{
    return type != TP_MATRIX_F32 && type != TP_MATRIX_F16;
}

static void bench_decoding(struct bench *bench)
{
    static const struct shape shapes[] = {
        {TP_MATRIX_BF16, 2880, HIDDEN},   {TP_MATRIX_BF16, 4096, HIDDEN},
        {TP_MATRIX_BF16, 2880, 4096},     {TP_MATRIX_BF16, 201088, HIDDEN},
        {TP_MATRIX_MXFP4, 5760, HIDDEN},  {TP_MATRIX_MXFP4, 2880, HIDDEN},
        {TP_MATRIX_F32, 2880, HIDDEN},    {TP_MATRIX_F16, 2880, HIDDEN},
        {TP_MATRIX_INT8, 4096, HIDDEN},   {TP_MATRIX_INT8, 2880, 4096},
        {TP_MATRIX_INT8, 201088, HIDDEN},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        size_t at_once = shapes[i].type == TP_MATRIX_MXFP4 ? 4 : 1;
        bench_decode(bench, &shapes[i], 1, TP_ACTIVATIONS_F32, at_once);
        if (has_pairs(shapes[i].type))
            bench_decode(bench, &shapes[i], 1, TP_ACTIVATIONS_BF16, at_once);
    }
    for (size_t n = 2; n <= 8; n *= 2) {
        bench_decode(bench, &shapes[1], n, TP_ACTIVATIONS_F32, 1);
        bench_decode(bench, &shapes[1], n, TP_ACTIVATIONS_BF16, 1);
        bench_decode(bench, &shapes[4], n, TP_ACTIVATIONS_F32, 4);
        bench_decode(bench, &shapes[4], n, TP_ACTIVATIONS_BF16, 4);
        bench_decode(bench, &shapes[8], n, TP_ACTIVATIONS_F32, 1);
    }
}

/* ---- prefill ---- */

static void compute_piece(void *context, size_t item, size_t thread)
{
    (void)item;
    (void)thread;
    tp_peak_multiply(tp_kernels(), *(bool *)context);
}

static double peak(struct bench *bench, bool bf16)
{
    enum { PIECES = 64 };
    double start = now(bench);
    tp_pool_run(bench->workspace.pool, PIECES, compute_piece, &bf16);
    double seconds = now(bench) - start;
    return 1e-9 * PIECES * tp_peak_multiply(bench->workspace.kernels, bf16) / seconds;
}

static void bench_prefill(struct bench *bench, const struct shape *shape, size_t n_vectors,
                          enum tp_activations activations)
{
    double ours[MAX_RUNS], other[MAX_RUNS];
    char name[128];
    bool bf16 = activations == TP_ACTIVATIONS_BF16 && bench->workspace.kernels->bf16_pairs != NULL;
    snprintf(name, sizeof name, "prefill %s%s %zux%zu, %zu vectors", type_name(shape->type),
             activations == TP_ACTIVATIONS_BF16 ? " times BF16" : "", shape->rows, shape->columns,
             n_vectors);
    if (!wanted(bench, name))
        return;
    struct tp_vectors vectors = {.x = bench->x,
                                 .n_x = n_vectors,
                                 .columns = shape->columns,
                                 .stride = X_STRIDE,
                                 .n = n_vectors};
    for (int i = -1; i < bench->options->runs; i++) {
        struct tp_matrix w = {shape->type, shape->rows, shape->columns, bench->weights,
                              bench->scales};
        struct tp_product product = {
            .w = w, .bias = bench->bias, .n = n_vectors, .y = bench->y, .y_stride = shape->rows};
        double start = now(bench);
        if (tp_multiply(&bench->workspace, &vectors, activations, &product, 1) < 0)
            abort();
        double seconds = now(bench) - start;
        if (i >= 0) {
            ours[i] = 1e-9 * (double)(shape->rows * shape->columns * n_vectors) / seconds;
            other[i] = peak(bench, bf16);
        }
    }
    print(bench, name, "GMAC/s", ours, "registers only", other);
}

static void bench_prefills(struct bench *bench)
{
    static const struct shape shapes[] = {
        {TP_MATRIX_BF16, 4096, HIDDEN},  {TP_MATRIX_BF16, 2880, 4096},
        {TP_MATRIX_MXFP4, 5760, HIDDEN}, {TP_MATRIX_MXFP4, 2880, HIDDEN},
        {TP_MATRIX_F32, 2880, HIDDEN},   {TP_MATRIX_F16, 2880, HIDDEN},
        {TP_MATRIX_INT8, 4096, HIDDEN},
    };
    static const size_t counts[] = {16, 64, 128, 512};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (size_t n = 0; n < sizeof counts / sizeof counts[0]; n++) {
            bench_prefill(bench, &shapes[i], counts[n], TP_ACTIVATIONS_F32);
            if (has_pairs(shapes[i].type))
                bench_prefill(bench, &shapes[i], counts[n], TP_ACTIVATIONS_BF16);
        }
    }
}

/* ---- the pool ---- */

static void nothing(void *context, size_t item, size_t thread)
{
    (void)context;
    (void)item;
    (void)thread;
}

static void bench_pool(struct bench *bench)
{
    enum { TIMES = 20000 };
    double us[MAX_RUNS];
    if (!wanted(bench, "pool, empty run"))
        return;
    for (int i = 0; i < bench->options->runs; i++) {
        double start = now(bench);
        for (int j = 0; j < TIMES; j++)
            tp_pool_run(bench->workspace.pool, bench->n_threads, nothing, NULL);
        us[i] = 1e6 * (now(bench) - start) / TIMES;
    }
    print(bench, "pool, empty run", "us", us, NULL, NULL);
}

/* ---- attention ---- */

/* The full layers of gpt-oss-20b: `n` positions that see `context` keys before them. */
static void bench_attention(struct bench *bench, size_t context, size_t n, bool bf16)
{
    enum { HEADS = 64, KV_HEADS = 8, SIZE = 64 };
    struct tp_kv_cache cache = {.bf16 = bf16,
                                .capacity = (context + n + 15) / 16 * 16,
                                .n_heads = KV_HEADS,
                                .head_size = SIZE};
    double ours[MAX_RUNS], other[MAX_RUNS];
    size_t keys, values;
    char name[128];
    snprintf(name, sizeof name, "attention %s, %zu positions after %zu", bf16 ? "BF16" : "F32", n,
             context);
    if (!wanted(bench, name) || tp_kv_cache_bytes(&cache, &keys, &values) < 0)
        return;
    cache.keys = allocate(keys, true);
    cache.values = allocate(values, true);
    for (size_t i = 0; i < context + n; i++)
        tp_kv_cache_store(&cache, i, bench->x, bench->x + i % 100);
    struct tp_attention attention = {.cache = &cache,
                                     .n_heads = HEADS,
                                     .first = context,
                                     .n = n,
                                     .scale = 0.001f,
                                     .sinks = bench->bias,
                                     .queries = bench->x,
                                     .mixed = bench->y};
    double seen = (double)n * (double)context + (double)n * ((double)n + 1) / 2;
    for (int i = -1; i < bench->options->runs; i++) {
        double start = now(bench);
        if (tp_attend(&bench->workspace, &attention, 1) < 0)
            abort();
        double seconds = now(bench) - start;
        if (i >= 0) {
            ours[i] = 1e-9 * 2 * HEADS * SIZE * seen / seconds;
            other[i] = peak(bench, false);
        }
    }
    print(bench, name, "GMAC/s", ours, "registers only", other);
    munmap(cache.keys, keys);
    munmap(cache.values, values);
}

static void bench_attentions(struct bench *bench)
{
    bench_attention(bench, 2047, 1, false);
    bench_attention(bench, 32767, 1, false);
    bench_attention(bench, 32767, 1, true);
    bench_attention(bench, 0, MAX_VECTORS, false);
    bench_attention(bench, 4096, MAX_VECTORS, false);
}

/* ---- setting up ---- */

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005U + 1442695040888963407U;
    return *state;
}

/* Numbers near 0.01 in BF16, whatever type reads them. */
static void fill(uint8_t *weights, size_t bytes)
{
    uint64_t state = 1;
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = (next_random(&state) >> 8 & 0x807f807f807f807f) | 0x3c003c003c003c00;
        memcpy(weights + i, &word, 8);
    }
}

static void measure(const struct options *options, size_t n_threads, bool huge_pages)
{
    struct bench bench = {.options = options, .huge_pages = huge_pages};
    struct tp_error error;
    if (tp_workspace_init(&bench.workspace, tp_kernels(), n_threads, false, &error) < 0) {
        fprintf(stderr, "bench/infer_kernels: %s\n", error.text);
        exit(1);
    }
    bench.n_threads = tp_pool_threads(bench.workspace.pool);
    bench.weight_bytes = options->mib << 20;
    bench.weights = allocate(bench.weight_bytes, huge_pages);
    bench.scales = allocate(bench.weight_bytes / 16, huge_pages);
    size_t x_bytes = (size_t)MAX_VECTORS * X_STRIDE * sizeof(float);
    bench.x = allocate(x_bytes, true);
    bench.y = allocate(Y_BYTES, true);
    bench.bias = allocate(201088 * sizeof(float), true);
    fill(bench.weights, bench.weight_bytes);
    memset(bench.scales, 120, bench.weight_bytes / 16);
    for (size_t i = 0; i < (size_t)MAX_VECTORS * X_STRIDE; i++)
        bench.x[i] = (float)(i % 37) - 18;

    bench_pool(&bench);
    bench_decoding(&bench);
    bench_prefills(&bench);
    if (!huge_pages)
        bench_attentions(&bench);
    munmap(bench.weights, bench.weight_bytes);
    munmap(bench.scales, bench.weight_bytes / 16);
    munmap(bench.x, x_bytes);
    munmap(bench.y, Y_BYTES);
    munmap(bench.bias, 201088 * sizeof(float));
    tp_workspace_fini(&bench.workspace);
}

static struct options parse(int argc, char **argv)
{
    static const struct option names[] = {
        {"runs", required_argument, NULL, 'r'},    {"mib", required_argument, NULL, 'm'},
        {"threads", required_argument, NULL, 't'}, {"only", required_argument, NULL, 'o'},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0},
    };
    struct options options = {.runs = 7, .mib = 1200};
    for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (option == 'r') {
            options.runs = atoi(optarg);
        } else if (option == 'm') {
            options.mib = (size_t)atoi(optarg);
        } else if (option == 't') {
            options.n_threads = (size_t)atoi(optarg);
        } else if (option == 'o') {
            options.only = optarg;
        } else {
            fprintf(option == 'h' ? stdout : stderr,
                    "usage: bench/infer_kernels [--runs N] [--mib WEIGHTS] [--threads N] [--only "
                    "TEXT]\n");
            exit(option == 'h' ? 0 : 2);
        }
    }
    if (options.runs < 1 || options.runs > MAX_RUNS || options.mib < 64) {
        fprintf(stderr, "bench/infer_kernels: --runs is 1 to %d, --mib at least 64\n", MAX_RUNS);
        exit(2);
    }
    return options;
}

int main(int argc, char **argv)
{
    struct options options = parse(argc, argv);
    if (options.n_threads != 1)
        measure(&options, options.n_threads, false);
    if (options.n_threads != 1)
        measure(&options, options.n_threads, true);
    if (options.n_threads <= 1)
        measure(&options, 1, false);
    return 0;
}
