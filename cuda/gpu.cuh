/* What kernels are written in: CUDA, and the few instructions beyond its language that they use,
 * each behind a function.
 *
 * The same source compiles as plain C++ against a harness (tests/cuda/harness.h) that runs a grid
 * on the CPU: threads as fibers, with CUDA's names for what both have (threadIdx, __syncthreads,
 * __shfl_xor_sync, atomicAdd, uint4, ...) and a portable definition of every function below. So
 *
 *   - shared memory is dynamic, one block of it: TP_SHARED(). There is no static __shared__;
 *   - all 32 lanes of a warp call a warp's function together, with the full mask;
 *   - a kernel has one argument, a struct of kernels.h;
 *   - arithmetic means what it says: products and sums fuse where fmaf() is written (nvcc gets
 *     --fmad=false), denormals are kept, divisions and roots are correctly rounded.
 */
#ifndef TENSORPORT_CUDA_GPU_H
#define TENSORPORT_CUDA_GPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__

#include <cuda_runtime.h>
#include <math_constants.h>

#define TP_DEVICE        static __device__ __forceinline__
#define TP_DEVICE_MEMBER __device__ __forceinline__ /* behind `static`, in a class */
#define TP_DEVICE_FIELD  __device__ __forceinline__ /* of an object */

/* TP_KERNEL(name, struct arguments, threads of a block) { ... a->field ... } */
#define TP_KERNEL(name, type, threads)                                                             \
    static __device__ __forceinline__ void name##_body(const type *a);                             \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ type a)     \
    {                                                                                              \
        name##_body(&a);                                                                           \
    }                                                                                              \
    static __device__ __forceinline__ void name##_body(const type *a)

extern __shared__ __align__(16) unsigned char tp_shared_memory[];
#define TP_SHARED() tp_shared_memory

static const unsigned TP_ALL_LANES = 0xffffffffu;

/* ---- memory ---- */

/* 16 bytes that no kernel of this launch writes and that are read once: past the first cache. */
TP_DEVICE uint4 tp_load_once(const void *address)
{
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(address));
    return v;
}

/* The line at `address` is wanted soon: into the second cache. */
TP_DEVICE void tp_prefetch(const void *address)
{
    asm volatile("prefetch.global.L2 [%0];" : : "l"(address));
}

/* What other blocks of this launch wrote before their atomic that this thread has seen. */
template <class T> TP_DEVICE T tp_load_shared_by_blocks(const T *address)
{
    return __ldcg(address);
}

/* Additions that nobody's other accesses are ordered by. */
TP_DEVICE void tp_add_unordered(uint32_t *target, uint32_t value)
{
    atomicAdd(target, value);
}

TP_DEVICE void tp_add_unordered(uint64_t *target, uint64_t value)
{
    atomicAdd((unsigned long long *)target, (unsigned long long)value);
}

/* 16 bytes from global to shared memory, both aligned to 16, without waiting; zeros where `bytes`
 * is 0 instead of 16. What a thread has copied is there for it after tp_copy_wait(n) where it has
 * called tp_copy_commit() at most n times since; for others after a barrier behind that. */
TP_DEVICE void tp_copy_async(void *shared, const void *global, unsigned bytes)
{
#if __CUDA_ARCH__ >= 800
    unsigned target = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(target), "l"(global), "r"(bytes)
                 : "memory");
#else
    *(uint4 *)shared = bytes != 0 ? *(const uint4 *)global : make_uint4(0, 0, 0, 0);
#endif
}

TP_DEVICE void tp_copy_commit(void)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}

template <int N> TP_DEVICE void tp_copy_wait(void)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
#endif
}

/* ---- one kernel after another ---- */

/* Until all that was launched before has ended and can be read. Before that a kernel may read
 * weights only. */
TP_DEVICE void tp_wait_for_previous(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" : : : "memory");
#endif
}

/* The next kernel's blocks may come where there is room. */
TP_DEVICE void tp_let_next_begin(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" : : : "memory");
#endif
}

/* ---- numbers ---- */

/* The upper 64 bits of a product. */
TP_DEVICE uint64_t tp_multiply_high(uint64_t x, uint64_t y)
{
    return __umul64hi(x, y);
}

/* ---- pairs of BF16, the first in the low half ---- */

/* Both halves multiplied, rounded to nearest even, denormals kept. */
TP_DEVICE uint32_t tp_multiply_bf16_pairs(uint32_t x, uint32_t y)
{
#if __CUDA_ARCH__ >= 800
    uint32_t product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(x), "r"(y), "r"(0x80008000u));
    return product;
#else
    float low = __uint_as_float(x << 16) * __uint_as_float(y << 16);
    float high = __uint_as_float(x & 0xffff0000u) * __uint_as_float(y & 0xffff0000u);
    /* Exact in all uses here but for what a BF16 has no room for. */
    uint32_t l = __float_as_uint(low), h = __float_as_uint(high);
    l += 0x7fffu + (l >> 16 & 1);
    h += 0x7fffu + (h >> 16 & 1);
    return l >> 16 | (h & 0xffff0000u);
#endif
}

/* Whether the machine code in use has tp_multiply_tiles(). */
TP_DEVICE constexpr bool tp_has_tiles(void)
{
#if __CUDA_ARCH__ >= 800
    return true;
#else
    return false;
#endif
}

/* c[16][8] += a[16][16] b[16][8], by a warp. Lane l = 4 g + t holds pairs of neighbours in k:
 *
 *     a[0]: row g,     k = 2 t;        a[1]: row g + 8, k = 2 t
 *     a[2]: row g,     k = 2 t + 8;    a[3]: row g + 8, k = 2 t + 8
 *     b[0]: k = 2 t, column g;         b[1]: k = 2 t + 8, column g
 *     c[0], c[1]: row g,     columns 2 t, 2 t + 1
 *     c[2], c[3]: row g + 8, columns 2 t, 2 t + 1
 *
 * PTX ISA, mma.sync.aligned.m16n8k16. Products are exact, sums float32. */
TP_DEVICE void tp_multiply_tiles(float c[4], const uint32_t a[4], const uint32_t b[2])
{
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    (void)c, (void)a, (void)b;
    __trap();
#endif
}

#else
#include TP_GPU_HARNESS
#endif

#endif
