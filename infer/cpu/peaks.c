#include "infer/cpu/peaks.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fs/base/clock.h"

/* Enough chains for the latency of any instruction, and one register for a factor. */
enum { CHAINS = 12, STEPS = 100000 };

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx512f"))) static void read_avx512(const uint8_t *memory, size_t bytes)
{
    __m512i sums[8] = {{0}};
    for (size_t i = 0; i < bytes; i += 512) {
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; j++)
            sums[j] = _mm512_or_si512(sums[j], _mm512_loadu_si512(memory + i + j * 64));
    }
    for (size_t j = 0; j < 8; j++)
        __asm__ volatile("" : : "v"(sums[j]));
}

__attribute__((target("avx2"))) static void read_avx2(const uint8_t *memory, size_t bytes)
{
    __m256i sums[8] = {{0}};
    for (size_t i = 0; i < bytes; i += 256) {
#pragma GCC unroll 8
        for (size_t j = 0; j < 8; j++)
            sums[j] = _mm256_or_si256(sums[j],
                                      _mm256_loadu_si256((const __m256i *)(memory + i + j * 32)));
    }
    for (size_t j = 0; j < 8; j++)
        __asm__ volatile("" : : "x"(sums[j]));
}

__attribute__((target("avx512f"))) static double multiply_avx512(void)
{
    __m512 sums[CHAINS], x = _mm512_set1_ps(1);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++)
        sums[i] = _mm512_setzero_ps();
    for (int step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            sums[i] = _mm512_fmadd_ps(x, x, sums[i]);
            __asm__ volatile("" : "+v"(sums[i]));
        }
    }
    return 16.0 * CHAINS * STEPS;
}

__attribute__((target("avx512f,avx512bf16"))) static double multiply_avx512_bf16(void)
{
    __m512 sums[CHAINS];
    __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f80);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++)
        sums[i] = _mm512_setzero_ps();
    for (int step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            sums[i] = _mm512_dpbf16_ps(sums[i], x, x);
            __asm__ volatile("" : "+v"(sums[i]));
        }
    }
    return 32.0 * CHAINS * STEPS;
}

__attribute__((target("avx2,fma"))) static double multiply_avx2(void)
{
    __m256 sums[CHAINS], x = _mm256_set1_ps(1);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++)
        sums[i] = _mm256_setzero_ps();
    for (int step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            sums[i] = _mm256_fmadd_ps(x, x, sums[i]);
            __asm__ volatile("" : "+x"(sums[i]));
        }
    }
    return 8.0 * CHAINS * STEPS;
}
#endif

static void read_words(const uint8_t *memory, size_t bytes)
{
    uint64_t sums[8] = {0};
    for (size_t i = 0; i < bytes; i += sizeof sums) {
        for (size_t j = 0; j < 8; j++) {
            uint64_t word;
            memcpy(&word, memory + i + 8 * j, sizeof word);
            sums[j] |= word;
        }
    }
    for (size_t j = 0; j < 8; j++)
        __asm__ volatile("" : : "r"(sums[j]));
}

void tp_peak_read(const void *memory, size_t bytes)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
        read_avx512(memory, bytes);
        return;
    }
    if (__builtin_cpu_supports("avx2")) {
        read_avx2(memory, bytes);
        return;
    }
#endif
    read_words(memory, bytes);
}

double tp_peak_multiply(const struct tp_kernels *kernels, bool bf16_pairs)
{
#if defined(__x86_64__)
    if (bf16_pairs && kernels->bf16_pairs != NULL)
        return multiply_avx512_bf16();
    if (strcmp(kernels->name, "avx512") == 0)
        return multiply_avx512();
    if (strcmp(kernels->name, "avx2") == 0)
        return multiply_avx2();
#endif
    (void)kernels;
    (void)bf16_pairs;
    return 0;
}

/* ---- with all threads ---- */

enum {
    PIECE_BYTES = 1 << 17,
    BUFFER_BYTES = 512 << 20, /* unless caches are so large that it might stay there */
    CACHES_IN_BUFFER = 4,
    MEMORY_SHARE = 8, /* at most this part of the machine's memory */
    N_PASSES = 5,
    PIECES_A_THREAD = 16,
};

struct measuring {
    struct tp_workspace *workspace;
    bool bf16_pairs;
    uint8_t *memory;
    size_t bytes; /* a multiple of PIECE_BYTES */
};

static void fill_piece(void *context, size_t item, size_t thread)
{
    struct measuring *m = context;
    (void)thread;
    memset(m->memory + item * PIECE_BYTES, 1, PIECE_BYTES);
}

static void read_piece(void *context, size_t item, size_t thread)
{
    struct measuring *m = context;
    (void)thread;
    tp_peak_read(m->memory + item * PIECE_BYTES, PIECE_BYTES);
}

static void multiply_piece(void *context, size_t item, size_t thread)
{
    struct measuring *m = context;
    (void)item;
    (void)thread;
    tp_peak_multiply(m->workspace->kernels, m->bf16_pairs);
}

static size_t buffer_bytes(void)
{
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t bytes = BUFFER_BYTES;
    if (cache > 0 && bytes / CACHES_IN_BUFFER < (uint64_t)cache)
        bytes = (uint64_t)cache * CACHES_IN_BUFFER;
    if (bytes > memory / MEMORY_SHARE)
        bytes = memory / MEMORY_SHARE;
    return (size_t)bytes / PIECE_BYTES * PIECE_BYTES;
}

/* Bytes a second, the best of several passes. */
static int measure_reading(struct measuring *m, bool huge_pages, double *ret_bandwidth,
                           struct tp_error *error)
{
    size_t n = m->bytes / PIECE_BYTES;
    double best = 0;
    m->memory = mmap(NULL, m->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m->memory == MAP_FAILED)
        return tp_error_set(error, -ENOMEM, "no memory to measure reading with: %zu bytes",
                            m->bytes);
    madvise(m->memory, m->bytes, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    tp_pool_run(m->workspace->pool, n, fill_piece, m);
    for (int pass = 0; pass < N_PASSES; pass++) {
        double start = tp_clock_seconds();
        tp_pool_run(m->workspace->pool, n, read_piece, m);
        double bandwidth = (double)m->bytes / (tp_clock_seconds() - start);
        best = bandwidth > best ? bandwidth : best;
    }
    munmap(m->memory, m->bytes);
    *ret_bandwidth = best;
    return 0;
}

/* Multiply-adds a second, the best of several. */
static double measure_multiplying(struct measuring *m)
{
    size_t n = PIECES_A_THREAD * tp_pool_threads(m->workspace->pool);
    double piece = tp_peak_multiply(m->workspace->kernels, m->bf16_pairs), best = 0;
    for (int pass = 0; piece > 0 && pass < N_PASSES; pass++) {
        double start = tp_clock_seconds();
        tp_pool_run(m->workspace->pool, n, multiply_piece, m);
        double rate = piece * (double)n / (tp_clock_seconds() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

int tp_peaks_measure(struct tp_workspace *workspace, bool bf16_pairs, bool small_pages,
                     struct tp_backend_limits *ret_limits, struct tp_error *error)
{
    struct measuring m = {
        .workspace = workspace, .bf16_pairs = bf16_pairs, .bytes = buffer_bytes()};
    struct tp_backend_limits limits = {.instructions = workspace->kernels->name,
                                       .n_threads = tp_pool_threads(workspace->pool)};
    int rc = measure_reading(&m, true, &limits.read_bandwidth, error);
    if (rc == 0 && small_pages)
        rc = measure_reading(&m, false, &limits.read_bandwidth_small_pages, error);
    if (rc < 0)
        return rc;
    limits.multiply_adds = measure_multiplying(&m);
    *ret_limits = limits;
    return 0;
}
