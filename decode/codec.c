/* Which codecs to use: the tables of this build, and which of them this machine can run. */
#include "decode/codec.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "decode/codec_tables.h"

#if defined(__x86_64__)

#include <cpuid.h>

/* __builtin_cpu_supports() looks at the operating system's support as well; clang 14 does not
 * know F16C by name, which has a bit of its own beside that of AVX. */
static bool has_avx2(void)
{
    unsigned int eax, ebx, ecx, edx;

    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
           (ecx & bit_F16C) != 0;
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

#endif

static bool always(void)
{
    return true;
}

/* Best first; the last one runs everywhere. */
static const struct {
    const struct tp_codecs *codecs;
    bool (*supported)(void);
} tables[] = {
#if defined(__x86_64__)
    {&tp_codecs_avx512, has_avx512},
    {&tp_codecs_avx2, has_avx2},
#elif defined(__aarch64__)
    {&tp_codecs_neon, always},
#endif
    {&tp_codecs_scalar, always},
};

/* The names of these tables, in the same order. */
static const char *const names[] = {
#if defined(__x86_64__)
    "avx512",
    "avx2",
#elif defined(__aarch64__)
    "neon",
#endif
    "scalar",
    NULL,
};

static pthread_once_t chosen_once = PTHREAD_ONCE_INIT;
static const struct tp_codecs *chosen; /* written by choose() only */

static void choose(void)
{
    const char *wanted = getenv("TENSORPORT_ISA");

    if (wanted != NULL)
        chosen = tp_codecs_by_name(wanted);
    for (size_t i = 0; chosen == NULL; i++) {
        if (tables[i].supported())
            chosen = tables[i].codecs;
    }
}

const struct tp_codecs *tp_codecs(void)
{
    pthread_once(&chosen_once, choose);
    return chosen;
}

const struct tp_codecs *tp_codecs_by_name(const char *name)
{
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        if (strcmp(tables[i].codecs->name, name) == 0 && tables[i].supported())
            return tables[i].codecs;
    }
    return NULL;
}

const char *const *tp_codecs_names(void)
{
    return names;
}

enum tp_dtype tp_target_dtype(enum tp_target target)
{
    static const enum tp_dtype dtypes[TP_N_TARGETS] = {
        [TP_TARGET_F32] = TP_F32,
        [TP_TARGET_F16] = TP_F16,
        [TP_TARGET_BF16] = TP_BF16,
    };
    return dtypes[target];
}
