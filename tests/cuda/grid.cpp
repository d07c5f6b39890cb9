/* Blocks of threads as fibers. Some blocks are alive at the same time; of all their threads that
 * wait for nobody, the seed draws the one that goes on, each time one stops. */
#include "tests/cuda/grid.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <utility>

#include "tests/cuda/block.h"
#include "tests/cuda/watch.h"

tp_index threadIdx, blockIdx, blockDim, gridDim;
unsigned char *tp_harness_shared;
tp_harness tp_the_harness;

namespace
{

enum {
    GUARD_BYTES = 1024, /* on either side of a block's shared memory */
    GUARD = 0xa5,
    NOT_A_NUMBER = 0xff,
    SHARED_STRIDE = TP_GRID_SHARED_MAX + 2 * GUARD_BYTES,
    /* Not all stacks at the same place of a cache. */
    STACK_BYTES = (64 << 10) + 16 * 68,
};

enum { ANY_ONE_IN = 16 }; /* draws is among all */

/* What a warp does when its lanes meet. */
enum { EXCHANGES = 1, SYNCHRONIZES, MULTIPLIES };

tp_harness &h = tp_the_harness;
tp_thread threads[TP_BLOCKS_ALIVE * TP_THREADS_MAX];
tp_warp warps[TP_BLOCKS_ALIVE * TP_WARPS_MAX];
tp_thread *ready[TP_BLOCKS_ALIVE * TP_THREADS_MAX]; /* those that wait for nobody */
unsigned n_ready;
uint8_t *stacks;        /* of all threads, and behind them the shared memory of all blocks */
tp_thread *next_thread; /* drawn already, and not in `ready`; or NULL */
tp_block *running_block;
tp_fiber scheduler;
uint64_t state_of_draws;

/* 32 bits */
uint64_t draw()
{
    state_of_draws = state_of_draws * 6364136223846793005u + 1442695040888963407u;
    return state_of_draws >> 32;
}

unsigned draw_one_of(unsigned n)
{
    return (unsigned)(draw() * n >> 32);
}

/* ---- who goes on ---- */

void let_go_on(tp_thread &thread)
{
    ready[n_ready++] = &thread;
}

/* A return after a change of stacks is one that the processor did not foresee: so there is only
 * one of them. */
#define INLINE inline __attribute__((always_inline))

/* A thread that can go on, drawn; NULL when there is none. Mostly it is one of those that were let
 * go last: so a warp or a block comes far ahead of others, as it does where all have the same
 * chance only rarely. */
INLINE tp_thread *take()
{
    if (n_ready == 0)
        return NULL;
    uint64_t number = draw();
    unsigned n = n_ready <= TP_LANES || number % ANY_ONE_IN == 0 ? n_ready : (unsigned)TP_LANES;
    tp_thread **place = &ready[n_ready - 1 - (number * n >> 32)], *thread = *place;
    *place = ready[--n_ready];
    return thread;
}

/* Leaves `from` for the next thread, or for the scheduler when there is none. Threads are drawn one
 * ahead, so that their stacks are in the cache when it is their turn. */
INLINE void leave(tp_fiber &from)
{
    tp_thread *thread = next_thread != NULL ? next_thread : take();
    if (thread == NULL || h.fault != NULL) {
        from.go_to(scheduler);
        return;
    }
    next_thread = take();
    if (next_thread != NULL)
        next_thread->fiber.prefetch();
    h.running = thread;
    threadIdx.x = thread->index;
    if (thread->block != running_block) {
        running_block = thread->block;
        blockIdx = running_block->index;
        tp_harness_shared = running_block->shared;
    }
    from.go_to(thread->fiber);
}

/* The scheduler's turn comes when a block has ended as well. */
void end_thread(tp_thread &self)
{
    if (h.grid->follows && !self.has_waited)
        tp_harness_fail("ends without waiting for the kernel before");
    if (!self.copies.empty())
        tp_harness_fail("ends before its copies have arrived");
    if (++self.block->ended == h.grid->threads)
        self.fiber.go_to(scheduler);
    else
        leave(self.fiber);
}

/* One block's after the other's. */
void run_thread()
{
    for (;;) {
        tp_thread &self = *h.running;
        h.grid->kernel(h.grid->arguments);
        end_thread(self);
    }
}

void prepare_threads()
{
    for (unsigned i = 0; i < TP_BLOCKS_ALIVE * TP_THREADS_MAX; i++)
        threads[i].fiber.prepare(stacks + (size_t)i * STACK_BYTES, STACK_BYTES, run_thread);
}

} // namespace

void tp_harness_fail(const char *fault)
{
    if (h.fault == NULL)
        h.fault = fault;
    h.running->fiber.go_to(scheduler); /* for good */
}

/* ---- what kernels call ---- */

void tp_harness_begin_kernel(unsigned n)
{
    if (blockDim.x != n)
        tp_harness_fail("belongs to a block of another size than the kernel is made for");
}

void __syncthreads(void)
{
    tp_thread &self = *h.running;
    tp_block &block = *self.block;
    if (++block.at_barrier == h.grid->threads) {
        block.at_barrier = 0;
        block.barriers++;
        block.heard_settled = block.heard.size();
        for (unsigned i = 0; i < h.grid->threads; i++)
            let_go_on(block.threads[i]);
    }
    leave(self.fiber);
}

static INLINE tp_warp &warp_of(const tp_thread &thread)
{
    return thread.block->warps[thread.index / TP_LANES];
}

/* Waits for the other lanes; the last one to come does the work of all. */
static INLINE void meet(tp_thread &self, tp_warp &warp, int kind)
{
    unsigned first = self.index / TP_LANES * TP_LANES;
    if (warp.arrived > 0 && warp.kind != kind)
        tp_harness_fail("calls another function of a warp than other lanes");
    warp.kind = kind;
    if (++warp.arrived == TP_LANES) {
        if (kind == MULTIPLIES)
            tp_tiles_multiply(&warp.tiles[warp.meetings % 2]);
        warp.syncs += kind == SYNCHRONIZES;
        warp.arrived = 0;
        warp.meetings++;
        for (unsigned i = first; i < first + TP_LANES; i++)
            let_go_on(self.block->threads[i]);
    }
    leave(self.fiber);
}

const uint64_t *tp_harness_exchange(uint64_t value)
{
    tp_thread &self = *h.running;
    tp_warp &warp = warp_of(self);
    uint64_t *values = warp.values[warp.meetings % 2];
    values[self.index % TP_LANES] = value;
    meet(self, warp, EXCHANGES);
    return values;
}

void __syncwarp(unsigned)
{
    tp_thread &self = *h.running;
    meet(self, warp_of(self), SYNCHRONIZES);
}

void tp_multiply_tiles(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    tp_thread &self = *h.running;
    tp_warp &warp = warp_of(self);
    tp_tiles *tiles = &warp.tiles[warp.meetings % 2];
    tp_tiles_put(tiles, self.index % TP_LANES, a, b);
    meet(self, warp, MULTIPLIES);
    tp_tiles_add(tiles, self.index % TP_LANES, c);
}

void __threadfence(void)
{
    tp_thread &self = *h.running;
    tp_block &block = *self.block;
    if (self.fenced_at != block.barriers)
        self.fences_settled = self.fences;
    self.fenced_at = block.barriers;
    self.fences++;
    self.heard = block.heard_by == self.index ? block.heard.size() : block.heard_settled;
}

uint32_t atomicAdd(uint32_t *target, uint32_t value)
{
    tp_watch_atomic(target);
    uint32_t before = *target;
    *target = before + value;
    return before;
}

void tp_add_unordered(uint32_t *target, uint32_t value)
{
    tp_watch_read(target, sizeof *target);
    *target += value;
}

void tp_add_unordered(uint64_t *target, uint64_t value)
{
    tp_watch_read(target, sizeof *target);
    *target += value;
}

void tp_wait_for_previous(void)
{
    h.running->has_waited = true;
}

void tp_harness_check_alignment(const void *address)
{
    if ((uintptr_t)address % 16 != 0)
        tp_harness_fail("loads or stores 16 bytes at an address that is no multiple of 16");
}

void tp_copy_async(void *shared, const void *global, unsigned bytes)
{
    enum { SIZE = 16 };
    tp_thread &self = *h.running;
    tp_harness_check_alignment(shared);
    tp_harness_check_alignment(global);
    if (bytes != 0 && bytes != SIZE)
        tp_harness_fail("copies another number of bytes than 0 or 16");
    tp_watch_write(shared, SIZE);
    tp_watch_read(global, bytes);
    memset(shared, NOT_A_NUMBER, SIZE);
    self.copies.push_back({shared, global, bytes, self.groups});
}

void tp_copy_commit(void)
{
    h.running->groups++;
}

void tp_harness_copy_wait(unsigned n)
{
    enum { SIZE = 16 };
    tp_thread &self = *h.running;
    size_t kept = 0;
    for (tp_copy &copy : self.copies) {
        if (copy.group + n >= self.groups) {
            self.copies[kept++] = copy;
            continue;
        }
        tp_watch_write(copy.shared, SIZE);
        memset(copy.shared, 0, SIZE);
        memcpy(copy.shared, copy.global, copy.bytes);
    }
    self.copies.resize(kept);
}

/* ---- blocks ---- */

static unsigned char *shared_of(unsigned slot)
{
    return stacks + (size_t)TP_BLOCKS_ALIVE * TP_THREADS_MAX * STACK_BYTES +
           (size_t)slot * SHARED_STRIDE + GUARD_BYTES;
}

static void begin_block(unsigned slot, unsigned number)
{
    const tp_grid &grid = *h.grid;
    tp_block &block = h.blocks[slot];
    running_block = NULL;
    block.serial = h.next_serial++;
    block.index = {number % grid.blocks[0], number / grid.blocks[0] % grid.blocks[1],
                   number / grid.blocks[0] / grid.blocks[1]};
    block.shared = shared_of(slot);
    block.at_barrier = block.ended = block.barriers = 0;
    block.warps = warps + (size_t)slot * TP_WARPS_MAX;
    block.threads = threads + (size_t)slot * TP_THREADS_MAX;
    block.heard.clear();
    block.heard_settled = 0;
    block.heard_by = 0;
    for (unsigned i = 0; i < grid.threads; i++) {
        tp_thread &thread = block.threads[i];
        thread.block = &block;
        thread.index = i;
        thread.has_waited = !grid.follows;
        thread.groups = thread.fences = thread.fences_settled = thread.fenced_at = 0;
        thread.heard = 0;
        thread.copies.clear();
        let_go_on(thread);
    }
    for (unsigned i = 0; i < grid.threads / TP_LANES; i++)
        block.warps[i].arrived = block.warps[i].meetings = block.warps[i].syncs = 0;
    memset(block.shared, NOT_A_NUMBER, grid.shared_bytes);
}

/* Nobody has written beside the shared memory. */
static bool guards_hold(const tp_block &block)
{
    for (const unsigned char *guard :
         {block.shared - GUARD_BYTES, block.shared + h.grid->shared_bytes}) {
        if (guard[0] != GUARD || memcmp(guard, guard + 1, GUARD_BYTES - 1) != 0)
            return false;
    }
    return true;
}

static void place_guards(void)
{
    for (unsigned slot = 0; slot < TP_BLOCKS_ALIVE; slot++) {
        memset(shared_of(slot) - GUARD_BYTES, GUARD, GUARD_BYTES);
        memset(shared_of(slot) + h.grid->shared_bytes, GUARD, GUARD_BYTES);
    }
}

/* Nobody can go on. */
static const char *why_all_wait(const std::vector<unsigned> &alive)
{
    for (unsigned slot : alive) {
        if (h.blocks[slot].at_barrier > 0) {
            h.running = h.blocks[slot].threads;
            return "is in a block of which some wait at a barrier where others do not come";
        }
    }
    h.running = h.blocks[alive[0]].threads;
    return "is in a block of which some lanes wait for their warp, where others do not come";
}

/* The blocks in a drawn order, `n_alive` of them at a time. */
static void run_blocks(unsigned n_blocks, unsigned n_alive)
{
    std::vector<unsigned> to_come(n_blocks), alive, free_slots;
    for (unsigned i = 0; i < n_blocks; i++)
        to_come[i] = i;
    for (unsigned i = n_blocks; i > 1; i--)
        std::swap(to_come[i - 1], to_come[draw_one_of(i)]);
    for (unsigned slot = 0; slot < n_alive; slot++)
        free_slots.push_back(slot);
    while (h.fault == NULL && (!alive.empty() || !to_come.empty())) {
        for (; !free_slots.empty() && !to_come.empty(); free_slots.pop_back(), to_come.pop_back()) {
            begin_block(free_slots.back(), to_come.back());
            alive.push_back(free_slots.back());
        }
        if (n_ready > 0 || next_thread != NULL)
            leave(scheduler);
        else
            h.fault = why_all_wait(alive);
        for (size_t i = 0; h.fault == NULL && i < alive.size(); i++) {
            const tp_block &block = h.blocks[alive[i]];
            if (block.ended < h.grid->threads)
                continue;
            if (!guards_hold(block))
                h.fault = "is in a block that has written beside its shared memory";
            free_slots.push_back(alive[i]);
            alive.erase(alive.begin() + (ptrdiff_t)i--);
        }
    }
}

/* ---- a grid ---- */

static int make_places(struct tp_error *error)
{
    size_t stack_bytes = (size_t)TP_BLOCKS_ALIVE * TP_THREADS_MAX * STACK_BYTES;
    void *places = mmap(NULL, stack_bytes + (size_t)TP_BLOCKS_ALIVE * SHARED_STRIDE + GUARD_BYTES,
                        PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (places == MAP_FAILED)
        return tp_error_set(error, -ENOMEM, "no memory for threads' stacks");
    stacks = (uint8_t *)places;
    tp_watch_set_places(stacks, stack_bytes, shared_of(0), SHARED_STRIDE);
    prepare_threads();
    return 0;
}

static int check_grid(const struct tp_grid *grid, struct tp_error *error)
{
    enum { Y_MAX = 65535 };
    if (grid->threads == 0 || grid->threads > TP_THREADS_MAX || grid->threads % TP_LANES != 0)
        return tp_error_set(error, -EINVAL, "a block of %u threads", grid->threads);
    if (grid->blocks[0] == 0 || grid->blocks[1] == 0 || grid->blocks[2] == 0 ||
        grid->blocks[0] > INT32_MAX || grid->blocks[1] > Y_MAX || grid->blocks[2] > Y_MAX)
        return tp_error_set(error, -EINVAL, "a grid of %u x %u x %u blocks", grid->blocks[0],
                            grid->blocks[1], grid->blocks[2]);
    if (grid->shared_bytes > TP_GRID_SHARED_MAX)
        return tp_error_set(error, -EINVAL, "%zu bytes of shared memory", grid->shared_bytes);
    return stacks == NULL ? make_places(error) : 0;
}

int tp_grid_run(const struct tp_grid *grid, struct tp_error *error)
{
    int rc = check_grid(grid, error);
    if (rc < 0)
        return rc;
    h.grid = grid;
    h.fault = NULL;
    if (!grid->follows)
        tp_watch_settle();
    h.first_serial = h.next_serial;
    state_of_draws = grid->seed;
    n_ready = 0;
    next_thread = NULL;
    blockDim = {grid->threads, 1, 1};
    gridDim = {grid->blocks[0], grid->blocks[1], grid->blocks[2]};
    place_guards();
    run_blocks(grid->blocks[0] * grid->blocks[1] * grid->blocks[2],
               1 + draw_one_of(TP_BLOCKS_ALIVE));
    const tp_thread &thread = *std::exchange(h.running, nullptr);
    if (h.fault == NULL)
        return 0;
    const tp_index &block = thread.block->index;
    prepare_threads();
    return tp_error_set(error, -EPROTO, "thread %u of block %u, %u, %u %s", thread.index, block.x,
                        block.y, block.z, h.fault);
}
