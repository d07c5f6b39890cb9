/* Which kernels to use: the tables of this build, and which of them this machine can run. */
#include "infer/cpu/kernels.h"

#include <stdlib.h>
#include <string.h>

#include "decode/codec.h"
#include "infer/cpu/kernel_tables.h"

static bool always(void)
{
    return true;
}

#if defined(__x86_64__)

/* What the codecs need is what these need, but for the products of BF16 pairs. */
static bool has_avx2(void)
{
    return tp_codecs_by_name("avx2") != NULL;
}

static bool has_avx512(void)
{
    return tp_codecs_by_name("avx512") != NULL;
}

static bool has_avx512_bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

#endif

/* Best first; the last one runs everywhere. */
static const struct {
    const struct tp_kernels *kernels;
    bool (*supported)(void);
} tables[] = {
#if defined(__x86_64__)
    {&tp_kernels_avx512_bf16, has_avx512_bf16},
    {&tp_kernels_avx512, has_avx512},
    {&tp_kernels_avx2, has_avx2},
#endif
    {&tp_kernels_scalar, always},
};

static const char *const names[] = {
#if defined(__x86_64__)
    "avx512",
    "avx2",
#endif
    "scalar",
    NULL,
};

const struct tp_kernels *tp_kernels(void)
{
    const char *wanted = getenv("TENSORPORT_ISA");
    const struct tp_kernels *kernels = wanted != NULL ? tp_kernels_by_name(wanted) : NULL;
    for (size_t i = 0; kernels == NULL; i++) {
        if (tables[i].supported())
            kernels = tables[i].kernels;
    }
    return kernels;
}

const struct tp_kernels *tp_kernels_by_name(const char *name)
{
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        if (strcmp(tables[i].kernels->name, name) == 0 && tables[i].supported())
            return tables[i].kernels;
    }
    return NULL;
}

const char *const *tp_kernels_names(void)
{
    return names;
}
