#include "tests/cuda/watch.h"

#include <sys/mman.h>

#include <map>
#include <memory>

#include "tests/cuda/block.h"

/* The linker's: where the plugin, or the program, lies. */
extern "C" __attribute__((visibility("hidden"))) const uint8_t __ehdr_start, _end;

namespace
{

const tp_harness &h = tp_the_harness;

enum : uint16_t { FEW_READERS = TP_THREADS_MAX, MANY_READERS = 0xffff };

/* Who touched a byte last, and when: which block, thread, after how many barriers of the block,
 * synchronizations of the warp and fences of the thread. Of readers that have no order among each
 * other only what they have in common: the warp (FEW_READERS + its number), or the block. */
struct stamp {
    uint32_t serial; /* of the block; 0: nobody */
    uint16_t thread, barriers, syncs, fences;
};

struct cell {
    stamp written, read;
};

/* A piece of memory, with a cell for each byte. */
struct memory {
    const uint8_t *begin;
    size_t bytes;
    cell *cells; /* NULL until something is touched */
};

enum { BYTES_OF_CELL = 1 };

std::map<const uint8_t *, memory> &memories()
{
    static std::map<const uint8_t *, memory> all; /* by where they begin */
    return all;
}

bool is_watched; /* kernels tell */
memory *last_touched;
memory shared_memories[TP_BLOCKS_ALIVE];
const uint8_t *stacks, *all_shared;
size_t all_stack_bytes, shared_bytes;
uint32_t settled; /* blocks before this one have ended before anything that goes on now */

std::map<const void *, std::vector<tp_release>> told; /* with atomics, by the blocks of the grid */
uint32_t told_in;                                     /* the grid, by its first block */

/* ---- order ---- */

stamp stamp_of(const tp_thread &thread)
{
    const tp_block &block = *thread.block;
    return {block.serial, (uint16_t)thread.index, (uint16_t)block.barriers,
            (uint16_t)block.warps[thread.index / TP_LANES].syncs, (uint16_t)thread.fences};
}

unsigned warp_of(const stamp &s)
{
    return s.thread < FEW_READERS ? s.thread / TP_LANES : s.thread - FEW_READERS;
}

/* Whether all threads that the stamp stands for had fenced behind it. */
bool have_fenced(const stamp &before, const std::vector<unsigned> &fences)
{
    size_t first = before.thread, end = first + 1;
    if (before.thread >= FEW_READERS) {
        first = before.thread == MANY_READERS ? 0 : warp_of(before) * TP_LANES;
        end = before.thread == MANY_READERS ? fences.size() : first + TP_LANES;
    }
    for (size_t i = first; i < end; i++) {
        if (i >= fences.size() || fences[i] <= before.fences)
            return false;
    }
    return true;
}

/* Whether what `before` says has come to pass for this thread, which is of another block of the
 * grid: its block has fenced behind it, told an atomic, and this thread has heard and fenced. */
bool is_told(const stamp &before, const tp_thread &thread)
{
    for (size_t i = 0; i < thread.heard; i++) {
        const tp_release &release = thread.block->heard[i];
        if (release.block == before.serial && have_fenced(before, release.fences))
            return true;
    }
    return false;
}

/* Whether nothing orders the thread behind `before`. */
bool races(const stamp &before, const tp_thread &thread)
{
    if (before.serial < h.first_serial)
        return false; /* see touch() */
    stamp now = stamp_of(thread);
    if (before.serial != now.serial)
        return !is_told(before, thread);
    if (before.thread == now.thread || before.barriers != now.barriers)
        return false;
    return before.thread == MANY_READERS || warp_of(before) != warp_of(now) ||
           before.syncs == now.syncs;
}

/* The readers of a place, with one more. */
stamp with_reader(const stamp &readers, const stamp &now)
{
    stamp all = now;
    bool together = readers.serial == now.serial && readers.barriers == now.barriers;
    if (!together || readers.thread == now.thread)
        return now;
    all.fences = readers.fences > now.fences ? readers.fences : now.fences;
    if (readers.thread == MANY_READERS || warp_of(readers) != warp_of(now))
        all.thread = MANY_READERS;
    else if (readers.syncs == now.syncs)
        all.thread = (uint16_t)(FEW_READERS + warp_of(now));
    return all;
}

/* ---- where ---- */

memory *find(const uint8_t *address)
{
    size_t offset = (size_t)(address - all_shared);
    if (offset < TP_BLOCKS_ALIVE * shared_bytes)
        return &shared_memories[offset / shared_bytes];
    if (last_touched != NULL && (size_t)(address - last_touched->begin) < last_touched->bytes)
        return last_touched;
    auto next = memories().upper_bound(address);
    if (next == memories().begin())
        return NULL;
    memory &found = std::prev(next)->second;
    if ((size_t)(address - found.begin) >= found.bytes)
        return NULL;
    return last_touched = &found;
}

cell *cells_of(memory &m)
{
    if (m.cells == NULL) {
        void *cells =
            mmap(NULL, m.bytes / BYTES_OF_CELL * sizeof(cell) + sizeof(cell),
                 PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (cells == MAP_FAILED)
            abort();
        m.cells = (cell *)cells;
    }
    return m.cells;
}

/* What no kernel is warned of: its variables, its arguments, the harness and constants. */
bool is_private(const uint8_t *address, bool writes)
{
    if ((size_t)(address - stacks) < all_stack_bytes)
        return true;
    if ((size_t)(address - (const uint8_t *)h.grid->arguments) < h.grid->argument_bytes)
        return !writes;
    return address >= &__ehdr_start && address < &_end;
}

/* ---- an access ---- */

void touch_cell(cell &c, bool is_shared, bool writes)
{
    const tp_thread &thread = *h.running;
    if (is_shared && c.written.serial != thread.block->serial)
        c = {}; /* of a block that was there before */
    if (is_shared && !writes && c.written.serial == 0)
        tp_harness_fail("reads shared memory that its block has not written");
    if (!is_shared && !thread.has_waited && writes)
        tp_harness_fail("writes before it has waited for the kernel before");
    if (!is_shared && !thread.has_waited && c.written.serial >= settled &&
        c.written.serial < h.first_serial)
        tp_harness_fail("reads what the kernel before writes, and has not waited for it");
    if (races(c.written, thread))
        tp_harness_fail(writes ? "writes where another thread writes, in no order"
                               : "reads what another thread writes, in no order");
    if (writes && races(c.read, thread))
        tp_harness_fail("writes where another thread reads, in no order");
    if (writes)
        c.written = stamp_of(thread);
    else
        c.read = with_reader(c.read, stamp_of(thread));
}

/* `alignment`: of its type. */
void touch(const void *at, size_t bytes, size_t alignment, bool writes)
{
    const uint8_t *address = (const uint8_t *)at;
    if (h.running == NULL || is_private(address, writes))
        return;
    if ((uintptr_t)at % alignment != 0)
        tp_harness_fail("touches a number at an address that is no multiple of its size");
    memory *m = find(address);
    if (m == NULL)
        tp_harness_fail("touches memory that is not the device's");
    size_t offset = (size_t)(address - m->begin);
    bool is_shared = m >= shared_memories && m < shared_memories + TP_BLOCKS_ALIVE;
    size_t end = is_shared ? h.grid->shared_bytes : m->bytes;
    if (is_shared && m != &shared_memories[h.running->block - h.blocks])
        tp_harness_fail("touches another block's shared memory");
    if (offset > end || bytes > end - offset)
        tp_harness_fail(is_shared ? "touches more shared memory than the launch asked for"
                                  : "touches more memory than was allocated");
    cell *cells = cells_of(*m);
    for (size_t i = offset / BYTES_OF_CELL; i * BYTES_OF_CELL < offset + bytes; i++)
        touch_cell(cells[i], is_shared, writes);
}

} // namespace

void tp_watch_read(const void *address, size_t bytes)
{
    if (is_watched)
        touch(address, bytes, 1, false);
}

void tp_watch_write(const void *address, size_t bytes)
{
    if (is_watched)
        touch(address, bytes, 1, true);
}

void tp_watch_atomic(const void *address)
{
    tp_thread &self = *h.running;
    tp_block &block = *self.block;
    if (told_in != h.first_serial)
        told.clear();
    told_in = h.first_serial;
    std::vector<tp_release> &others = told[address];
    block.heard.insert(block.heard.end(), others.begin(), others.end());
    block.heard_by = self.index;
    tp_release mine = {block.serial, {}};
    for (unsigned i = 0; i < h.grid->threads; i++) {
        const tp_thread &thread = block.threads[i];
        bool settled_since = thread.fenced_at < block.barriers || i == self.index;
        mine.fences.push_back(settled_since ? thread.fences : thread.fences_settled);
    }
    others.push_back(mine);
}

void tp_watch_add(const void *address, size_t bytes)
{
    const uint8_t *begin = (const uint8_t *)address;
    memories()[begin] = {begin, bytes, NULL};
}

void tp_watch_remove(const void *address)
{
    auto found = memories().find((const uint8_t *)address);
    if (found->second.cells != NULL)
        munmap(found->second.cells,
               found->second.bytes / BYTES_OF_CELL * sizeof(cell) + sizeof(cell));
    memories().erase(found);
    last_touched = NULL;
}

void tp_watch_settle(void)
{
    settled = h.next_serial;
}

void tp_watch_set_places(const void *new_stacks, size_t stack_bytes, const unsigned char *shared,
                         size_t shared_stride)
{
    stacks = (const uint8_t *)new_stacks;
    all_stack_bytes = stack_bytes;
    all_shared = shared;
    shared_bytes = shared_stride;
    for (unsigned i = 0; i < TP_BLOCKS_ALIVE; i++)
        shared_memories[i] = {shared + i * shared_stride, shared_stride, NULL};
}

/* ---- what the compiler calls: gcc's and clang's thread sanitizer, without its library ---- */

#define ACCESS(name, bytes, alignment, writes)                                                     \
    extern "C" void name(const void *address);                                                     \
    extern "C" void name(const void *address)                                                      \
    {                                                                                              \
        touch(address, bytes, alignment, writes);                                                  \
    }
#define ACCESSES(bytes)                                                                            \
    ACCESS(__tsan_read##bytes, bytes, bytes, false)                                                \
    ACCESS(__tsan_write##bytes, bytes, bytes, true)                                                \
    ACCESS(__tsan_unaligned_read##bytes, bytes, 1, false)                                          \
    ACCESS(__tsan_unaligned_write##bytes, bytes, 1, true)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

extern "C" {
void __tsan_read_range(const void *address, size_t bytes);
void __tsan_write_range(const void *address, size_t bytes);
void __tsan_init(void);
void __tsan_func_entry(const void *caller);
void __tsan_func_exit(void);

void __tsan_read_range(const void *address, size_t bytes)
{
    touch(address, bytes, 1, false);
}

void __tsan_write_range(const void *address, size_t bytes)
{
    touch(address, bytes, 1, true);
}

/* Of whoever is compiled so. */
void __tsan_init(void)
{
    is_watched = true;
}

void __tsan_func_entry(const void *)
{
}

void __tsan_func_exit(void)
{
}
}
