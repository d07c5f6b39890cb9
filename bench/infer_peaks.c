#include "bench/infer_peaks.h"

#include <stdint.h>
#include <string.h>

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

void bench_read(const void *memory, size_t bytes)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
        read_avx512(memory, bytes);
        return;
    }
#endif
    read_words(memory, bytes);
}

double bench_multiply_f32(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return multiply_avx512();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return multiply_avx2();
#endif
    return 0;
}

double bench_multiply_bf16(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bf16"))
        return multiply_avx512_bf16();
#endif
    return 0;
}
