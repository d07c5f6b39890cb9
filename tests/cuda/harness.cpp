#include "tests/cuda/harness.h"

#include <errno.h>
#include <setjmp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <vector>

#include "tests/cuda/grid.h"

tp_index threadIdx, blockIdx, blockDim, gridDim;
unsigned char *tp_harness_shared;

namespace
{

enum { LANES = 32, THREADS_MAX = 1024, STACK_BYTES = 64 << 10 };

enum state { READY, AT_BARRIER, AT_WARP, ENDED };

struct copy {
    void *shared;
    const void *global;
    unsigned bytes, group; /* groups that were committed before it */
};

struct fiber {
    bool has_stack; /* with thread_main() on it */
    ucontext_t context;
    jmp_buf place;
    state at;
    bool has_waited; /* for the kernel before */
    unsigned groups; /* of copies, committed */
    std::vector<copy> copies;
};

/* Values of two exchanges: a lane is at most one ahead of the others. */
struct warp {
    uint64_t values[2][LANES];
    unsigned arrived, generation;
};

struct harness {
    const struct tp_grid *grid;
    std::vector<fiber> fibers;
    std::vector<warp> warps;
    uint8_t *stacks;
    ucontext_t scheduler;
    jmp_buf scheduler_place;
    unsigned running; /* the thread */
    uint64_t random;
    const char *fault;
};

harness h;

/* splitmix64 */
uint64_t draw()
{
    uint64_t x = h.random += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

void shuffle(std::vector<unsigned> &order)
{
    for (size_t i = order.size(); i > 1; i--)
        std::swap(order[i - 1], order[draw() % i]);
}

/* ---- fibers ---- */

/* swapcontext() asks the kernel for the signal mask each time, a jump does not; the address
 * sanitizer wants to see the former. */
void pause(state at)
{
    fiber &self = h.fibers[h.running];
    self.at = at;
#ifdef __SANITIZE_ADDRESS__
    swapcontext(&self.context, &h.scheduler);
#else
    if (_setjmp(self.place) == 0)
        _longjmp(h.scheduler_place, 1);
#endif
}

void resume(unsigned thread)
{
    fiber &f = h.fibers[thread];
    h.running = thread;
    threadIdx = {thread, 0, 0};
#ifdef __SANITIZE_ADDRESS__
    swapcontext(&h.scheduler, &f.context);
#else
    if (_setjmp(h.scheduler_place) != 0)
        return;
    if (f.has_stack)
        _longjmp(f.place, 1);
    f.has_stack = true;
    setcontext(&f.context);
#endif
}

void fail(const char *fault)
{
    if (h.fault == NULL)
        h.fault = fault;
    pause(ENDED); /* and never comes back */
}

/* One thread after the other, block after block. */
void thread_main()
{
    for (;;) {
        h.grid->kernel(h.grid->arguments);
        fiber &self = h.fibers[h.running];
        if (h.grid->follows && !self.has_waited)
            fail("a thread has ended without waiting for the kernel before");
        if (!self.copies.empty())
            fail("a thread has ended before its copies have arrived");
        pause(ENDED);
    }
}

void make_stack(unsigned thread)
{
    fiber &f = h.fibers[thread];
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = h.stacks + (size_t)thread * STACK_BYTES;
    f.context.uc_stack.ss_size = STACK_BYTES;
    f.context.uc_link = NULL;
    makecontext(&f.context, thread_main, 0);
    f.has_stack = false;
}

void begin_block()
{
    for (unsigned i = 0; i < h.grid->threads; i++) {
        fiber &f = h.fibers[i];
        f.at = READY;
        f.has_waited = false;
        f.groups = 0;
        f.copies.clear();
    }
    for (warp &w : h.warps)
        w.arrived = w.generation = 0;
    memset(tp_harness_shared, 0xff, h.grid->shared_bytes); /* NaN */
}

size_t count(state at)
{
    size_t n = 0;
    for (unsigned i = 0; i < h.grid->threads; i++)
        n += h.fibers[i].at == at;
    return n;
}

/* Until all threads have ended. */
void run_block(std::vector<unsigned> &order)
{
    while (h.fault == NULL && count(ENDED) < h.grid->threads) {
        bool moved = false;
        shuffle(order);
        for (unsigned thread : order) {
            if (h.fibers[thread].at == READY && h.fault == NULL) {
                resume(thread);
                moved = true;
            }
        }
        if (!moved && count(AT_BARRIER) == h.grid->threads) {
            for (unsigned i = 0; i < h.grid->threads; i++)
                h.fibers[i].at = READY;
        } else if (!moved) {
            h.fault = count(AT_BARRIER) > 0 ? "some threads wait at a barrier, others do not come"
                                            : "some lanes wait for their warp, others do not come";
        }
    }
}

} // namespace

/* ---- what kernels call ---- */

void __syncthreads(void)
{
    pause(AT_BARRIER);
}

/* Waits for the other lanes. What the last one to come does before the others go on is `work`. */
template <class WORK> static const uint64_t *meet(uint64_t value, WORK work)
{
    warp &w = h.warps[h.running / LANES];
    unsigned first = h.running / LANES * LANES;
    uint64_t *values = w.values[w.generation % 2];
    values[h.running % LANES] = value;
    if (++w.arrived < LANES) {
        pause(AT_WARP);
        return values;
    }
    work(values);
    w.arrived = 0;
    w.generation++;
    for (unsigned i = first; i < first + LANES; i++)
        h.fibers[i].at = READY;
    return values;
}

const uint64_t *tp_harness_exchange(uint64_t value)
{
    return meet(value, [](const uint64_t *) {});
}

static float from_bf16(uint32_t bits)
{
    return __uint_as_float(bits << 16);
}

static uint32_t to_bf16(float x)
{
    uint32_t bits = __float_as_uint(x);
    if (x != x)
        return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

uint32_t tp_multiply_bf16_pairs(uint32_t x, uint32_t y)
{
    uint32_t low = to_bf16(from_bf16(x & 0xffff) * from_bf16(y & 0xffff));
    uint32_t high = to_bf16(from_bf16(x >> 16) * from_bf16(y >> 16));
    return low | high << 16;
}

namespace
{

/* Of a lane, which waits meanwhile. */
struct operands {
    float *c;
    const uint32_t *a, *b;
};

/* gpu.cuh has the places of the numbers. */
void multiply_tiles(const uint64_t *lanes)
{
    float a[16][16], b[16][8], c[16][8] = {};
    for (unsigned lane = 0; lane < LANES; lane++) {
        const operands *o = (const operands *)(uintptr_t)lanes[lane];
        unsigned g = lane / 4, k = 2 * (lane % 4);
        for (unsigned i = 0; i < 4; i++) {
            a[g + i % 2 * 8][k + i / 2 * 8] = from_bf16(o->a[i] & 0xffff);
            a[g + i % 2 * 8][k + i / 2 * 8 + 1] = from_bf16(o->a[i] >> 16);
        }
        for (unsigned i = 0; i < 2; i++) {
            b[k + i * 8][g] = from_bf16(o->b[i] & 0xffff);
            b[k + i * 8 + 1][g] = from_bf16(o->b[i] >> 16);
        }
    }
    for (unsigned row = 0; row < 16; row++)
        for (unsigned k = 0; k < 16; k++)
            for (unsigned column = 0; column < 8; column++)
                c[row][column] += a[row][k] * b[k][column];
    for (unsigned lane = 0; lane < LANES; lane++) {
        const operands *o = (const operands *)(uintptr_t)lanes[lane];
        for (unsigned i = 0; i < 4; i++)
            o->c[i] += c[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
    }
}

} // namespace

void tp_multiply_tiles(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    operands mine = {c, a, b};
    meet((uint64_t)(uintptr_t)&mine, multiply_tiles);
}

void tp_wait_for_previous(void)
{
    h.fibers[h.running].has_waited = true;
}

void tp_copy_async(void *shared, const void *global, unsigned bytes)
{
    fiber &self = h.fibers[h.running];
    memset(shared, 0xff, 16);
    self.copies.push_back({shared, global, bytes, self.groups});
}

void tp_copy_commit(void)
{
    h.fibers[h.running].groups++;
}

void tp_harness_copy_wait(unsigned n)
{
    fiber &self = h.fibers[h.running];
    size_t kept = 0;
    for (copy &c : self.copies) {
        if (c.group + n >= self.groups) {
            self.copies[kept++] = c;
            continue;
        }
        memset(c.shared, 0, 16);
        memcpy(c.shared, c.global, c.bytes);
    }
    self.copies.resize(kept);
}

/* ---- a grid ---- */

static int run_blocks(const struct tp_grid *grid, struct tp_error *error)
{
    unsigned n_blocks = grid->blocks[0] * grid->blocks[1] * grid->blocks[2];
    std::vector<unsigned> blocks(n_blocks), threads(grid->threads);
    for (unsigned i = 0; i < n_blocks; i++)
        blocks[i] = i;
    for (unsigned i = 0; i < grid->threads; i++)
        threads[i] = i;
    shuffle(blocks);
    for (unsigned block : blocks) {
        blockIdx = {block % grid->blocks[0], block / grid->blocks[0] % grid->blocks[1],
                    block / grid->blocks[0] / grid->blocks[1]};
        begin_block();
        run_block(threads);
        if (h.fault == NULL)
            continue;
        for (unsigned i = 0; i < grid->threads; i++)
            make_stack(i);
        return tp_error_set(error, -EPROTO, "block %u, %u, %u: %s", blockIdx.x, blockIdx.y,
                            blockIdx.z, h.fault);
    }
    return 0;
}

int tp_grid_run(const struct tp_grid *grid, struct tp_error *error)
{
    if (grid->threads == 0 || grid->threads > THREADS_MAX || grid->threads % LANES != 0)
        return tp_error_set(error, -EINVAL, "a block of %u threads", grid->threads);
    if (h.stacks == NULL) {
        void *stacks = mmap(NULL, (size_t)THREADS_MAX * STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED)
            return tp_error_set(error, -ENOMEM, "no memory for threads' stacks");
        h.stacks = (uint8_t *)stacks;
        h.fibers.resize(THREADS_MAX);
        h.warps.resize(THREADS_MAX / LANES);
        for (unsigned i = 0; i < THREADS_MAX; i++)
            make_stack(i);
    }
    void *shared = NULL;
    if (posix_memalign(&shared, 256, grid->shared_bytes + 16) != 0)
        return tp_error_set(error, -ENOMEM, "no memory for a block");
    h.grid = grid;
    h.random = grid->seed;
    h.fault = NULL;
    tp_harness_shared = (unsigned char *)shared;
    blockDim = {grid->threads, 1, 1};
    gridDim = {grid->blocks[0], grid->blocks[1], grid->blocks[2]};
    int rc = run_blocks(grid, error);
    free(shared);
    tp_harness_shared = NULL;
    return rc;
}
