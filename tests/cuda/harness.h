/* What kernels are written in (cuda/gpu.cuh), as plain C++: a grid runs on the CPU, some blocks at
 * a time, each thread a fiber. A fiber runs until it waits for others, at a barrier or in a
 * function of a warp; which one goes on then is drawn by a seed. So what depends on an order that
 * nothing enforces comes out differently, or waits for ever, which is told. watch.h finds the rest
 * of it.
 *
 * Strict where a device is not: shared memory holds NaN at first, and ends where the launch said;
 * all 32 lanes must call the same function of a warp, and all threads a barrier; asynchronous
 * copies arrive no sooner than they are waited for; every thread of a launch that follows waits for
 * the kernel before. What a device punishes is told: 16 bytes at an odd address, blocks of another
 * size than the kernel is made for, grids and shared memory beyond its limits.
 */
#ifndef TENSORPORT_TESTS_CUDA_HARNESS_H
#define TENSORPORT_TESTS_CUDA_HARNESS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* ---- words of CUDA ---- */

struct tp_index {
    unsigned x, y, z;
};
extern tp_index threadIdx, blockIdx, blockDim, gridDim;

/* Fails the running thread where that is no address of 16 bytes. Nothing that a compiler could look
 * into: it knows what alignment the type has. */
void tp_harness_check_alignment(const void *address);

struct alignas(16) uint4 {
    uint32_t x, y, z, w;

    uint4() = default;
    uint4(uint32_t a, uint32_t b, uint32_t c, uint32_t d) : x(a), y(b), z(c), w(d)
    {
    }
    uint4(const uint4 &v)
    {
        tp_harness_check_alignment(&v);
        x = v.x, y = v.y, z = v.z, w = v.w;
    }
    uint4 &operator=(const uint4 &v)
    {
        tp_harness_check_alignment(this);
        tp_harness_check_alignment(&v);
        x = v.x, y = v.y, z = v.z, w = v.w;
        return *this;
    }
};

static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return uint4(x, y, z, w);
}

#define TP_DEVICE        [[maybe_unused]] static inline
#define TP_DEVICE_MEMBER inline
#define TP_DEVICE_FIELD  inline
#define TP_KERNEL(name, type, threads)                                                             \
    static void name##_body(const type *a);                                                        \
    extern "C" void name(const void *a);                                                           \
    extern "C" void name(const void *a)                                                            \
    {                                                                                              \
        tp_harness_begin_kernel(threads);                                                          \
        name##_body((const type *)a);                                                              \
    }                                                                                              \
    static void name##_body(const type *a)

/* The running thread breaks a rule: it does not go on, and the grid ends with that message, which
 * must stay. */
void tp_harness_fail(const char *fault);

void tp_harness_begin_kernel(unsigned threads);

#define TP_SHARED() tp_harness_shared
extern unsigned char *tp_harness_shared; /* of the block that runs */

static const unsigned TP_ALL_LANES = 0xffffffffu;

void __syncthreads(void);

/* A value of each lane for all of them: `values` [32] is valid until this lane's next call. */
const uint64_t *tp_harness_exchange(uint64_t value);

template <class T> static inline T tp_harness_lane(T value, unsigned lane)
{
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = tp_harness_exchange(bits)[lane & 31];
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T> static inline T __shfl_sync(unsigned, T value, unsigned lane)
{
    return tp_harness_lane(value, lane);
}

template <class T> static inline T __shfl_xor_sync(unsigned, T value, unsigned distance)
{
    return tp_harness_lane(value, threadIdx.x ^ distance);
}

void __syncwarp(unsigned = TP_ALL_LANES);

static inline unsigned __ballot_sync(unsigned, bool vote)
{
    const uint64_t *votes = tp_harness_exchange(vote);
    unsigned all = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        all |= (unsigned)(votes[lane] != 0) << lane;
    return all;
}

static inline bool __any_sync(unsigned mask, bool vote)
{
    return __ballot_sync(mask, vote) != 0;
}

uint32_t atomicAdd(uint32_t *target, uint32_t value);
void __threadfence(void);

static inline uint32_t __float_as_uint(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float __uint_as_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline int __popc(uint32_t x)
{
    return __builtin_popcount(x);
}

/* ---- functions of gpu.cuh ---- */

static inline uint4 tp_load_once(const void *address)
{
    return *(const uint4 *)address;
}

static inline void tp_prefetch(const void *)
{
}

template <class T> static inline T tp_load_shared_by_blocks(const T *address)
{
    return *address;
}

/* Watched as if they read, which they may at once with others. */
void tp_add_unordered(uint32_t *target, uint32_t value);
void tp_add_unordered(uint64_t *target, uint64_t value);

static inline uint64_t tp_multiply_high(uint64_t x, uint64_t y)
{
    return (uint64_t)((unsigned __int128)x * y >> 64);
}

void tp_copy_async(void *shared, const void *global, unsigned bytes);
void tp_copy_commit(void);
void tp_harness_copy_wait(unsigned n);

template <int N> static inline void tp_copy_wait(void)
{
    tp_harness_copy_wait(N);
}

void tp_wait_for_previous(void);
static inline void tp_let_next_begin(void)
{
}

static inline uint32_t tp_harness_round_to_bf16(float x)
{
    uint32_t bits = __float_as_uint(x);
    return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline uint32_t tp_multiply_bf16_pairs(uint32_t x, uint32_t y)
{
    float low = __uint_as_float(x << 16) * __uint_as_float(y << 16);
    float high = __uint_as_float(x & 0xffff0000u) * __uint_as_float(y & 0xffff0000u);
    return tp_harness_round_to_bf16(low) | tp_harness_round_to_bf16(high) << 16;
}

static inline bool tp_has_tiles(void)
{
    return true;
}

void tp_multiply_tiles(float c[4], const uint32_t a[4], const uint32_t b[2]);

#endif
