/* What the tests of the CPU backend share. */
#ifndef TENSORPORT_TESTS_UNIT_TEST_INFER_H
#define TENSORPORT_TESTS_UNIT_TEST_INFER_H

#include <criterion/criterion.h>
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "infer/cpu/workspace.h"

static inline uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

/* About normal, standard deviation 1. */
static inline float random_float(uint64_t *state)
{
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += next_random(state) * 0x1p-32;
    return (float)(sum - 6);
}

static inline float *random_floats(size_t n, uint64_t seed)
{
    float *x = malloc((n + 1) * sizeof *x);
    cr_assert_not_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = random_float(&seed);
    return x;
}

/* Memory that ends where a page begins that cannot be touched; never freed. */
static inline void *guarded(size_t bytes)
{
    size_t pages = bytes / 4096 + 1;
    uint8_t *memory =
        mmap(NULL, (pages + 1) * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(memory, MAP_FAILED);
    cr_assert_eq(mprotect(memory + pages * 4096, 4096, PROT_NONE), 0);
    return memory + pages * 4096 - bytes;
}

/* Calls `check` with every table that this machine can run, and 1 and 3 threads. */
static inline void for_each_workspace(void (*check)(struct tp_workspace *workspace))
{
    static const size_t threads[] = {1, 3};
    for (const char *const *name = tp_kernels_names(); *name != NULL; name++) {
        const struct tp_kernels *kernels = tp_kernels_by_name(*name);
        for (size_t i = 0; kernels != NULL && i < 2; i++) {
            struct tp_workspace workspace;
            cr_assert_eq(tp_workspace_init(&workspace, kernels, threads[i], false, NULL), 0);
            check(&workspace);
            tp_workspace_fini(&workspace);
        }
    }
}

static inline void for_each_table(void (*check)(const struct tp_kernels *kernels))
{
    for (const char *const *name = tp_kernels_names(); *name != NULL; name++) {
        const struct tp_kernels *kernels = tp_kernels_by_name(*name);
        if (kernels != NULL)
            check(kernels);
    }
}

#endif
