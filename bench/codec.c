/* bench/codec: how fast the codecs are, beside memcpy.
 *
 * Two figures for each conversion and instruction set, in GB/s of output, or of what is quantised:
 *  - streaming: source and target far larger than the caches, on one thread. memcpy of as many
 *    output bytes, in turns with the codec, tells what the memory can do at that moment; the
 *    ratio of the two medians holds on a noisy machine where the rates do not.
 *  - in cache: a source of 256 KiB again and again, as the file system decodes.
 */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "decode/codec.h"

enum { MAX_RUNS = 99, IN_CACHE_SOURCE_BYTES = 256 << 10, IN_CACHE_REPEATS = 64 };

struct options {
    bool json;
    int runs;
    size_t output_bytes;
    const char *isa; /* NULL: all */
};

struct buffers {
    uint8_t *source;
    uint8_t *scales;
    uint8_t *target;
    uint8_t *copy_source;
};

/* One conversion: `convert`, `mxfp4` or `encode`, the others being NULL. Widths are bytes of a
 * unit: of an element or an MXFP4 block. When quantising, the target's is taken to be the source's:
 * that is the larger side, and what is counted. */
struct conversion {
    const char *isa;
    const char *source_name;
    const char *target_name;
    tp_convert_fn *convert;
    tp_mxfp4_fn *mxfp4;
    tp_mxfp4_encode_fn *encode;
    size_t source_width;
    size_t target_width;
};

struct result {
    double streaming;
    double memcpy_streaming;
    double in_cache;
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return values[n / 2];
}

static void run(const struct conversion *conversion, const struct buffers *buffers, size_t units)
{
    if (conversion->convert != NULL)
        conversion->convert(buffers->source, buffers->target, units);
    else if (conversion->mxfp4 != NULL)
        conversion->mxfp4(buffers->source, buffers->scales, buffers->target, units);
    else
        conversion->encode(buffers->source, buffers->target, buffers->scales, units);
}

static double in_cache_seconds(const struct conversion *conversion, const struct buffers *buffers,
                               size_t units)
{
    double start = now();
    for (int i = 0; i < IN_CACHE_REPEATS; i++)
        run(conversion, buffers, units);
    return (now() - start) / IN_CACHE_REPEATS;
}

static struct result measure(const struct conversion *conversion, const struct buffers *buffers,
                             const struct options *options)
{
    size_t units = options->output_bytes / conversion->target_width;
    size_t cached_units = IN_CACHE_SOURCE_BYTES / conversion->source_width;
    double codec[MAX_RUNS], copy[MAX_RUNS], cached[MAX_RUNS];

    for (int i = 0; i < options->runs; i++) {
        double start = now();
        memcpy(buffers->target, buffers->copy_source, options->output_bytes);
        double middle = now();
        run(conversion, buffers, units);
        codec[i] = now() - middle;
        copy[i] = middle - start;
        cached[i] = in_cache_seconds(conversion, buffers, cached_units);
    }
    double gigabytes = 1e-9 * (double)options->output_bytes;
    return (struct result){
        .streaming = gigabytes / median(codec, options->runs),
        .memcpy_streaming = gigabytes / median(copy, options->runs),
        .in_cache = 1e-9 * (double)(cached_units * conversion->target_width) /
                    median(cached, options->runs),
    };
}

static void print(const struct conversion *conversion, const struct result *result,
                  const struct options *options)
{
    static bool first = true;
    double ratio = result->streaming / result->memcpy_streaming;

    if (options->json)
        printf("%s\n  {\"isa\": \"%s\", \"source\": \"%s\", \"target\": \"%s\", "
               "\"streaming_gb_s\": %.2f, \"memcpy_gb_s\": %.2f, \"ratio\": %.3f, "
               "\"in_cache_gb_s\": %.2f}",
               first ? "" : ",", conversion->isa, conversion->source_name, conversion->target_name,
               result->streaming, result->memcpy_streaming, ratio, result->in_cache);
    else
        printf("%-7s %-8s %-5s %9.2f %9.2f %7.2f %9.2f\n", conversion->isa, conversion->source_name,
               conversion->target_name, result->streaming, result->memcpy_streaming, ratio,
               result->in_cache);
    fflush(stdout);
    first = false;
}

/* An ordinary weight, in one of the types that are told apart below; its width is returned. */
static size_t put_weight(uint8_t *target, double weight, enum tp_dtype dtype)
{
    float single = (float)weight;

    if (dtype == TP_F64)
        memcpy(target, &weight, sizeof weight);
    else if (dtype == TP_F32)
        memcpy(target, &single, sizeof single);
    else
        tp_codecs()->convert[TP_F32][dtype == TP_F16 ? TP_TARGET_F16 : TP_TARGET_BF16](&single,
                                                                                       target, 1);
    return tp_dtype_size(dtype);
}

/* Random bytes are any number of the small types. Where `weights` is a type (F64, or what is
 * quantised) there are ordinary weights, because codecs take longer over rare ones: random bytes
 * would be 2^1000 and 2^-1000, or NaN in every block. */
static void fill_source(uint8_t *source, size_t bytes, enum tp_dtype weights)
{
    enum { PATTERN_BYTES = 1 << 16 };
    uint64_t state = 1;

    for (size_t i = 0; i < PATTERN_BYTES;) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        double weight = 0.1 * ((double)(state >> 11) * 0x1p-52 - 1.0);
        if (weights != TP_N_DTYPES) {
            i += put_weight(source + i, weight, weights);
        } else {
            memcpy(source + i, &state, sizeof state);
            i += sizeof state;
        }
    }
    for (size_t i = PATTERN_BYTES; i < bytes; i += PATTERN_BYTES)
        memcpy(source + i, source, bytes - i < PATTERN_BYTES ? bytes - i : PATTERN_BYTES);
}

static void bench_target(const struct tp_codecs *codecs, enum tp_target target,
                         const struct buffers *buffers, const struct options *options)
{
    enum tp_dtype target_dtype = tp_target_dtype(target);
    struct conversion conversion = {
        .isa = codecs->name,
        .target_name = tp_dtype_name(target_dtype),
    };

    for (enum tp_dtype source = 0; source < TP_N_DTYPES; source++) {
        conversion.source_name = tp_dtype_name(source);
        conversion.convert = codecs->convert[source][target];
        conversion.source_width = tp_dtype_size(source);
        conversion.target_width = tp_dtype_size(target_dtype);
        if (conversion.convert == NULL)
            continue;
        size_t units = options->output_bytes / conversion.target_width;
        fill_source(buffers->source, units * conversion.source_width,
                    source == TP_F64 ? TP_F64 : TP_N_DTYPES);
        struct result result = measure(&conversion, buffers, options);
        print(&conversion, &result, options);
    }

    conversion.source_name = "MXFP4";
    conversion.convert = NULL;
    conversion.mxfp4 = codecs->mxfp4[target];
    conversion.source_width = TP_MXFP4_BLOCK_BYTES;
    conversion.target_width = TP_MXFP4_BLOCK_ELEMENTS * tp_dtype_size(target_dtype);
    size_t blocks = options->output_bytes / conversion.target_width;
    fill_source(buffers->source, blocks * TP_MXFP4_BLOCK_BYTES, TP_N_DTYPES);
    for (size_t b = 0; b < blocks; b++)
        buffers->scales[b] = (uint8_t)(115 + b % 13);
    struct result result = measure(&conversion, buffers, options);
    print(&conversion, &result, options);
}

static void bench_encoder(const struct tp_codecs *codecs, enum tp_target source,
                          const struct buffers *buffers, const struct options *options)
{
    enum tp_dtype dtype = tp_target_dtype(source);
    struct conversion conversion = {
        .isa = codecs->name,
        .source_name = tp_dtype_name(dtype),
        .target_name = "MXFP4",
        .encode = codecs->mxfp4_encode[source],
        .source_width = TP_MXFP4_BLOCK_ELEMENTS * tp_dtype_size(dtype),
        .target_width = TP_MXFP4_BLOCK_ELEMENTS * tp_dtype_size(dtype),
    };

    fill_source(buffers->source, options->output_bytes, dtype);
    struct result result = measure(&conversion, buffers, options);
    print(&conversion, &result, options);
}

/* Touches every page, so that no run pays for the first use of one. */
static uint8_t *allocate(size_t bytes)
{
    uint8_t *memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (memory == NULL) {
        fprintf(stderr, "bench/codec: no memory for a buffer of %zu bytes; try --mib\n", bytes);
        exit(1);
    }
    memset(memory, 1, bytes);
    return memory;
}

static struct options parse(int argc, char **argv)
{
    static const struct option names[] = {
        {"json", no_argument, NULL, 'j'},      {"runs", required_argument, NULL, 'r'},
        {"mib", required_argument, NULL, 'm'}, {"isa", required_argument, NULL, 'i'},
        {"help", no_argument, NULL, 'h'},      {NULL, 0, NULL, 0},
    };
    struct options options = {.runs = 7, .output_bytes = (size_t)256 << 20};

    for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (option == 'j') {
            options.json = true;
        } else if (option == 'r') {
            options.runs = atoi(optarg);
        } else if (option == 'm') {
            options.output_bytes = (size_t)atoi(optarg) << 20;
        } else if (option == 'i') {
            options.isa = optarg;
        } else {
            fprintf(option == 'h' ? stdout : stderr,
                    "usage: bench/codec [--json] [--runs N] [--mib OUTPUT] [--isa NAME]\n");
            exit(option == 'h' ? 0 : 2);
        }
    }
    if (options.runs < 1 || options.runs > MAX_RUNS || options.output_bytes < 8 << 20) {
        fprintf(stderr, "bench/codec: --runs is 1 to %d, --mib at least 8\n", MAX_RUNS);
        exit(2);
    }
    return options;
}

int main(int argc, char **argv)
{
    struct options options = parse(argc, argv);
    struct buffers buffers = {
        .source = allocate(options.output_bytes * 4), /* F64 to 16 bits */
        .scales = allocate(options.output_bytes / 64),
        .target = allocate(options.output_bytes),
        .copy_source = allocate(options.output_bytes),
    };

    if (options.json)
        printf("[");
    else
        printf("%-7s %-8s %-5s %9s %9s %7s %9s\n", "isa", "source", "to", "GB/s", "memcpy", "ratio",
               "in cache");
    for (const char *const *name = tp_codecs_names(); *name != NULL; name++) {
        const struct tp_codecs *codecs = tp_codecs_by_name(*name);
        bool wanted = options.isa == NULL || strcmp(options.isa, *name) == 0;
        if (codecs == NULL && wanted)
            fprintf(stderr, "bench/codec: this machine cannot run %s\n", *name);
        for (enum tp_target target = 0; codecs != NULL && wanted && target < TP_N_TARGETS; target++)
            bench_target(codecs, target, &buffers, &options);
        for (enum tp_target source = 0; codecs != NULL && wanted && source < TP_N_TARGETS; source++)
            bench_encoder(codecs, source, &buffers, &options);
    }
    if (options.json)
        printf("\n]\n");
    free(buffers.source);
    free(buffers.scales);
    free(buffers.target);
    free(buffers.copy_source);
    return 0;
}
