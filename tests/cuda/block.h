/* A grid in progress, as grid.cpp runs it and watch.cpp looks at it. */
#ifndef TENSORPORT_TESTS_CUDA_BLOCK_H
#define TENSORPORT_TESTS_CUDA_BLOCK_H

#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "tests/cuda/fiber.h"
#include "tests/cuda/grid.h"
#include "tests/cuda/harness.h"

enum { TP_LANES = 32, TP_THREADS_MAX = 1024, TP_WARPS_MAX = 32, TP_BLOCKS_ALIVE = 4 };

/* An asynchronous copy that has not arrived. */
struct tp_copy {
    void *shared;
    const void *global;
    unsigned bytes, group; /* groups that were committed before it */
};

struct tp_block;

struct alignas(64) tp_thread {
    tp_fiber fiber;
    tp_block *block;
    unsigned index;  /* in the block */
    bool has_waited; /* for the kernel before */
    unsigned groups; /* of copies, committed */
    std::vector<tp_copy> copies;
    unsigned fences;         /* how many it has called */
    unsigned fenced_at;      /* barriers of the block that were before the last of them */
    unsigned fences_settled; /* before that barrier */
    size_t heard;            /* of block->heard, what it has fenced since */
};

/* c = a b */
struct alignas(64) tp_tiles {
    float a[16][16], b[16][8], c[16][8];
};

/* Lanes that wait for each other. What they give is there for two meetings: a lane is at most one
 * ahead of the others. */
struct tp_warp {
    tp_tiles tiles[2];
    uint64_t values[2][TP_LANES];
    unsigned arrived, meetings;
    unsigned syncs; /* meetings that order memory */
    int kind;       /* of the meeting that some have come to */
};

/* What a block had fenced when it told others, with an atomic: of each thread how many fences. */
struct tp_release {
    uint32_t block;
    std::vector<unsigned> fences;
};

/* A block that has begun; there are few at a time. */
struct tp_block {
    uint32_t serial; /* never used again */
    tp_index index;
    unsigned char *shared; /* aligned to 256 */
    unsigned at_barrier, ended;
    unsigned barriers; /* that all have passed */
    tp_warp *warps;
    tp_thread *threads;
    std::vector<tp_release> heard; /* by its atomics */
    size_t heard_settled;          /* of them, before the last barrier */
    unsigned heard_by;             /* the thread that heard the last */
};

struct tp_harness {
    const struct tp_grid *grid;
    tp_thread *running;       /* NULL: no grid runs */
    uint32_t first_serial;    /* of the grid's blocks */
    uint32_t next_serial = 1; /* of the next block to begin */
    tp_block blocks[TP_BLOCKS_ALIVE];
    const char *fault; /* of `running` */
};

extern tp_harness tp_the_harness;

/* Arithmetic: a lane puts its operands, the product is made, each lane adds its share to c. */
void tp_tiles_put(tp_tiles *tiles, unsigned lane, const uint32_t a[4], const uint32_t b[2]);
void tp_tiles_multiply(tp_tiles *tiles);
void tp_tiles_add(const tp_tiles *tiles, unsigned lane, float c[4]);

#endif
