/* What the harness and watch.h notice: small kernels that break a rule each, beside some that look
 * like it and do not. A plain program that prints TAP. */
#include "tests/cuda/harness.h"

#include <stdio.h>
#include <stdlib.h>

#include "tests/cuda/grid.h"
#include "tests/cuda/watch.h"

struct memory {
    uint32_t *numbers; /* [N], the device's */
    uint32_t *host;    /* [N], not the device's */
};

enum { N = 256, THREADS = 64, BLOCKS = 3, SHARED_BYTES = 512 };

static uint32_t *shared()
{
    return (uint32_t *)(void *)TP_SHARED();
}

/* ---- waiting for others ---- */

TP_KERNEL(half_at_a_barrier, memory, THREADS)
{
    (void)a;
    if (threadIdx.x < 32)
        __syncthreads();
}

TP_KERNEL(half_a_warp, memory, THREADS)
{
    (void)a;
    if (threadIdx.x % 32 < 16)
        __syncwarp();
}

TP_KERNEL(two_functions_of_a_warp, memory, THREADS)
{
    (void)a;
    if (threadIdx.x % 2 == 0)
        __syncwarp();
    else
        __any_sync(TP_ALL_LANES, true);
}

TP_KERNEL(all_at_barriers, memory, THREADS)
{
    (void)a;
    for (uint32_t i = 0; i < 3 + blockIdx.x; i++) {
        __syncthreads();
        __syncwarp();
    }
}

TP_KERNEL(another_size, memory, 2 * THREADS)
{
    (void)a;
}

/* ---- places ---- */

TP_KERNEL(reads_behind, memory, THREADS)
{
    a->numbers[0] = a->numbers[N];
}

TP_KERNEL(writes_before, memory, THREADS)
{
    a->numbers[-1] = 0;
}

TP_KERNEL(reads_the_host, memory, THREADS)
{
    if (a->host[1] == 12345)
        a->numbers[0] = 0;
}

TP_KERNEL(writes_its_arguments, memory, THREADS)
{
    ((memory *)(uintptr_t)a)->host = NULL;
}

TP_KERNEL(reads_more_shared, memory, THREADS)
{
    if (shared()[SHARED_BYTES / 4] == 0)
        a->numbers[0] = 0;
}

TP_KERNEL(writes_more_shared, memory, THREADS)
{
    (void)a;
    if (threadIdx.x == 0)
        shared()[SHARED_BYTES / 4] = 0;
}

TP_KERNEL(writes_before_shared, memory, THREADS)
{
    (void)a;
    if (threadIdx.x == 0)
        shared()[-1] = 0;
}

TP_KERNEL(reads_unwritten_shared, memory, THREADS)
{
    if (threadIdx.x == 0)
        a->numbers[blockIdx.x] = shared()[7];
}

TP_KERNEL(reads_at_an_odd_place, memory, THREADS)
{
    uint32_t *odd = (uint32_t *)(void *)((uint8_t *)a->numbers + 2);
    if (*odd == 0)
        a->numbers[blockIdx.x] = 0;
}

TP_KERNEL(loads_16_bytes_at_8, memory, THREADS)
{
    if (tp_load_once(a->numbers + 2).x == 5)
        a->numbers[0] = 0;
}

TP_KERNEL(copies_16_bytes_to_4, memory, THREADS)
{
    tp_copy_async(shared() + 1, a->numbers, 16);
    tp_copy_commit();
    tp_copy_wait<0>();
}

TP_KERNEL(reads_vectors_at_8, memory, THREADS)
{
    uint4 v = *(const uint4 *)(const void *)(a->numbers + 2);
    if (v.x == 5 && v.w == 6)
        a->numbers[0] = 0;
}

/* ---- order in a block ---- */

TP_KERNEL(exchanges_without_a_barrier, memory, THREADS)
{
    shared()[threadIdx.x] = threadIdx.x;
    a->numbers[blockIdx.x * THREADS + threadIdx.x] = shared()[THREADS - 1 - threadIdx.x];
}

TP_KERNEL(overwrites_without_a_barrier, memory, THREADS)
{
    shared()[threadIdx.x] = 0;
    __syncthreads();
    a->numbers[blockIdx.x * THREADS + threadIdx.x] = shared()[(threadIdx.x + 1) % THREADS];
    shared()[threadIdx.x] = 1;
}

TP_KERNEL(exchanges_in_a_warp_by_a_shuffle, memory, THREADS)
{
    shared()[threadIdx.x] = threadIdx.x;
    __any_sync(TP_ALL_LANES, true);
    a->numbers[blockIdx.x * THREADS + threadIdx.x] = shared()[threadIdx.x ^ 1];
}

TP_KERNEL(exchanges_in_a_warp, memory, THREADS)
{
    shared()[threadIdx.x] = threadIdx.x;
    __syncwarp();
    a->numbers[blockIdx.x * THREADS + threadIdx.x] = shared()[threadIdx.x ^ 1];
    __syncwarp();
    shared()[threadIdx.x] = 1;
}

TP_KERNEL(exchanges_between_warps_by_a_warp, memory, THREADS)
{
    shared()[threadIdx.x] = threadIdx.x;
    __syncwarp();
    a->numbers[blockIdx.x * THREADS + threadIdx.x] = shared()[threadIdx.x ^ 32];
}

TP_KERNEL(exchanges_at_barriers, memory, THREADS)
{
    for (uint32_t i = 0; i < 3; i++) {
        shared()[threadIdx.x] = threadIdx.x;
        __syncthreads();
        a->numbers[blockIdx.x * THREADS + threadIdx.x] = shared()[(threadIdx.x + i) % THREADS];
        __syncthreads();
    }
}

TP_KERNEL(halves_of_a_word, memory, THREADS)
{
    uint16_t *halves = (uint16_t *)(void *)a->numbers;
    halves[blockIdx.x * THREADS + threadIdx.x] = 1;
}

/* ---- asynchronous copies ---- */

TP_KERNEL(does_not_wait_for_copies, memory, THREADS)
{
    tp_copy_async(shared() + threadIdx.x % 32 * 4, a->numbers, 16);
    tp_copy_commit();
}

/* Each warp has a place. */
TP_KERNEL(reads_others_copies_at_once, memory, THREADS)
{
    if (threadIdx.x < 32)
        tp_copy_async(shared() + threadIdx.x * 4, a->numbers + 4 * threadIdx.x, 16);
    tp_copy_commit();
    tp_copy_wait<0>();
    a->numbers[N / 2 + threadIdx.x] = shared()[(threadIdx.x * 4 + 4) % 128];
}

TP_KERNEL(reads_others_copies, memory, THREADS)
{
    if (threadIdx.x < 32)
        tp_copy_async(shared() + threadIdx.x * 4, a->numbers + 4 * threadIdx.x,
                      threadIdx.x % 2 * 16);
    tp_copy_commit();
    tp_copy_wait<0>();
    __syncthreads();
    if (shared()[(threadIdx.x * 4 + 4) % 128] == 12345)
        a->numbers[N / 2] = 0;
}

/* ---- order between blocks ---- */

TP_KERNEL(blocks_at_one_place, memory, THREADS)
{
    if (threadIdx.x == 0)
        a->numbers[0] = blockIdx.x;
}

/* Adds up what each block has written, in the block that comes last. */
template <bool FENCE, bool BARRIER, bool FENCE_BEHIND> static void add_up(const memory *a)
{
    a->numbers[1 + blockIdx.x * THREADS + threadIdx.x] = threadIdx.x;
    if (FENCE)
        __threadfence();
    if (BARRIER)
        __syncthreads();
    if (threadIdx.x == 0)
        shared()[0] = atomicAdd(a->numbers, 1);
    __syncthreads();
    if (shared()[0] != BLOCKS - 1)
        return;
    if (FENCE_BEHIND)
        __threadfence();
    if (threadIdx.x == 0) {
        uint32_t sum = 0;
        for (uint32_t i = 0; i < BLOCKS * THREADS; i++)
            sum += a->numbers[1 + i];
        a->numbers[0] = sum != BLOCKS * THREADS * (THREADS - 1) / 2;
    }
}

TP_KERNEL(adds_up, memory, THREADS)
{
    add_up<true, true, true>(a);
}

TP_KERNEL(adds_up_without_a_fence, memory, THREADS)
{
    add_up<false, true, true>(a);
}

TP_KERNEL(adds_up_without_a_barrier, memory, THREADS)
{
    add_up<true, false, true>(a);
}

TP_KERNEL(adds_up_without_a_fence_behind, memory, THREADS)
{
    add_up<true, true, false>(a);
}

/* ---- order between kernels ---- */

TP_KERNEL(waits_and_counts, memory, THREADS)
{
    tp_wait_for_previous();
    if (threadIdx.x == 0 && blockIdx.x == 0)
        a->numbers[0]++;
}

TP_KERNEL(reads_before_it_waits, memory, THREADS)
{
    uint32_t before = a->numbers[0];
    tp_wait_for_previous();
    if (before == 12345)
        a->numbers[0] = 0;
}

TP_KERNEL(writes_before_it_waits, memory, THREADS)
{
    if (threadIdx.x == 0)
        a->numbers[1 + blockIdx.x] = 0;
    tp_wait_for_previous();
}

TP_KERNEL(reads_other_things_before_it_waits, memory, THREADS)
{
    uint32_t before = a->numbers[200];
    tp_wait_for_previous();
    if (before == 12345)
        a->numbers[0] = 0;
}

TP_KERNEL(one_does_not_wait, memory, THREADS)
{
    (void)a;
    if (threadIdx.x != 3)
        tp_wait_for_previous();
}

/* ---- running them ---- */

#define WAITS "others do not come"
static const struct {
    const char *name;
    tp_grid_kernel_fn *kernel;
    const char *fault; /* a part of what is told; NULL: nothing */
    bool follows;      /* waits_and_counts */
} cases[] = {
#define CASE(kernel, fault)                                                                        \
    {                                                                                              \
#kernel, kernel, fault, false                                                              \
    }
#define FOLLOWS(kernel, fault)                                                                     \
    {                                                                                              \
#kernel, kernel, fault, true                                                               \
    }
    CASE(half_at_a_barrier, WAITS),
    CASE(half_a_warp, WAITS),
    CASE(two_functions_of_a_warp, "another function of a warp"),
    CASE(all_at_barriers, NULL),
    CASE(another_size, "another size"),
    CASE(reads_behind, "that is not the device's"),
    CASE(writes_before, "that is not the device's"),
    CASE(reads_the_host, "that is not the device's"),
    CASE(writes_its_arguments, "that is not the device's"),
    CASE(reads_more_shared, "more shared memory"),
    CASE(writes_more_shared, "more shared memory"),
    CASE(writes_before_shared, ""),
    CASE(reads_unwritten_shared, "has not written"),
    CASE(reads_at_an_odd_place, "no multiple of its size"),
    CASE(loads_16_bytes_at_8, "no multiple of 16"),
    CASE(copies_16_bytes_to_4, "no multiple of 16"),
    CASE(reads_vectors_at_8, "no multiple of 16"),
    CASE(exchanges_without_a_barrier, "shared memory that its block has not written"),
    CASE(overwrites_without_a_barrier, "in no order"),
    CASE(exchanges_in_a_warp_by_a_shuffle, "in no order"),
    CASE(exchanges_in_a_warp, NULL),
    CASE(exchanges_between_warps_by_a_warp, ""),
    CASE(exchanges_at_barriers, NULL),
    CASE(halves_of_a_word, NULL),
    CASE(does_not_wait_for_copies, "before its copies have arrived"),
    CASE(reads_others_copies_at_once, ""),
    CASE(reads_others_copies, NULL),
    CASE(blocks_at_one_place, "in no order"),
    CASE(adds_up, NULL),
    CASE(adds_up_without_a_fence, "in no order"),
    CASE(adds_up_without_a_barrier, "in no order"),
    CASE(adds_up_without_a_fence_behind, "in no order"),
    FOLLOWS(waits_and_counts, NULL),
    FOLLOWS(reads_before_it_waits, "has not waited for it"),
    FOLLOWS(writes_before_it_waits, "writes before it has waited"),
    FOLLOWS(reads_other_things_before_it_waits, NULL),
    FOLLOWS(one_does_not_wait, "without waiting"),
};

static int run(tp_grid_kernel_fn *kernel, const memory *arguments, bool follows, uint64_t seed,
               tp_error *error)
{
    tp_grid grid = {kernel,  arguments,    sizeof *arguments, {BLOCKS, 1, 1},
                    THREADS, SHARED_BYTES, follows,           seed};
    return tp_grid_run(&grid, error);
}

/* The same under every seed. */
static bool is_right(size_t i, const memory *arguments, tp_error *error)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        memset(arguments->numbers, 0, N * sizeof(uint32_t));
        error->text[0] = '\0';
        int rc = cases[i].follows ? run(waits_and_counts, arguments, true, seed, error) : 0;
        if (rc == 0)
            rc = run(cases[i].kernel, arguments, cases[i].follows, seed, error);
        bool told = rc < 0 && cases[i].fault != NULL && strstr(error->text, cases[i].fault) != NULL;
        if (cases[i].fault == NULL ? rc < 0 : !told)
            return false;
        if (cases[i].fault == NULL && cases[i].kernel == adds_up && arguments->numbers[0] != 0)
            return false;
        tp_watch_settle();
    }
    return true;
}

int main()
{
    enum { N_CASES = sizeof cases / sizeof *cases };
    unsigned n_failed = 0;
    memory arguments = {(uint32_t *)aligned_alloc(256, N * sizeof(uint32_t)),
                        (uint32_t *)calloc(N, sizeof(uint32_t))};
    tp_watch_add(arguments.numbers, N * sizeof(uint32_t));
    for (size_t i = 0; i < N_CASES; i++) {
        tp_error error;
        bool right = is_right(i, &arguments, &error);
        n_failed += !right;
        printf("%sok %zu - %s\n", right ? "" : "not ", i + 1, cases[i].name);
        if (!right)
            printf("# %s\n", error.text);
    }
    printf("1..%d\n", N_CASES);
    tp_watch_remove(arguments.numbers);
    free(arguments.numbers);
    free(arguments.host);
    return n_failed > 0;
}
