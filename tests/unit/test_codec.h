/* What the tests of the codecs share: random bits, and buffers with a fence around them. */
#ifndef TENSORPORT_TESTS_UNIT_TEST_CODEC_H
#define TENSORPORT_TESTS_UNIT_TEST_CODEC_H

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* splitmix64: any state will do, and tests repeat. */
static inline uint64_t random_bits(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline void fill_random(void *memory, size_t size, uint64_t *state)
{
    uint8_t *bytes = memory;
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)random_bits(state);
}

static inline void *allocate(size_t size)
{
    void *memory = malloc(size > 0 ? size : 1);
    cr_assert_not_null(memory);
    return memory;
}

#if defined(__x86_64__)
/* Flushing of subnormals, and rounding up, down and to zero. */
static const unsigned int float_modes[] = {0x8040, 0x4000, 0x2000, 0x6000, 0xe040};

static inline unsigned int enter_float_mode(unsigned int mode)
{
    unsigned int before = _mm_getcsr();
    _mm_setcsr(before | mode);
    return before;
}

static inline void leave_float_mode(unsigned int before)
{
    _mm_setcsr(before);
}
#elif defined(__aarch64__)
/* Flushing only: the conversions to F16 follow the rounding mode of FPCR. */
static const unsigned int float_modes[] = {1 << 24};

static inline void leave_float_mode(unsigned int before)
{
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)before));
}

static inline unsigned int enter_float_mode(unsigned int mode)
{
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    leave_float_mode((unsigned int)before | mode);
    return (unsigned int)before;
}
#endif

#define N_FLOAT_MODES ((int)(sizeof float_modes / sizeof float_modes[0]))

/* Memory between two pages that cannot be touched. */
struct fence {
    uint8_t *start;
    uint8_t *end;
};

static inline struct fence make_fence(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t inside = (size + page - 1) / page * page;
    uint8_t *all = mmap(NULL, inside + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq((void *)all, MAP_FAILED);
    cr_assert_eq(mprotect(all + page, inside, PROT_READ | PROT_WRITE), 0);
    return (struct fence){all + page, all + page + inside};
}

static inline void drop_fence(struct fence fence)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    munmap(fence.start - page, (size_t)(fence.end - fence.start) + 2 * page);
}

/* `size` bytes at distance `gap` from the first or the last byte inside the fence. */
static inline uint8_t *place(struct fence fence, bool at_end, size_t gap, size_t size)
{
    return at_end ? fence.end - gap - size : fence.start + gap;
}

/* Whether every byte of the fence outside [kept, kept + size) still is `canary`. */
static inline bool untouched_around(struct fence fence, const uint8_t *kept, size_t size,
                                    uint8_t canary)
{
    for (const uint8_t *byte = fence.start; byte < fence.end; byte++) {
        if ((byte < kept || byte >= kept + size) && *byte != canary)
            return false;
    }
    return true;
}

#endif
