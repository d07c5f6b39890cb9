#include "infer/model/memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fs/base/workers.h"

enum {
    ALIGNMENT = 64, /* a cache line, and the longest vector */
    HUGE_PAGE_BYTES = 2 << 20,
    TILE = 32, /* rows and columns that are turned at a time: 4 KiB of float32 */
};

struct tp_model_memory {
    struct tp_model_memory *next;
    void *bytes;
    size_t length;
};

void *tp_model_memory_take(struct tp_model_memory **list, size_t length)
{
    size_t alignment = length < HUGE_PAGE_BYTES ? ALIGNMENT : HUGE_PAGE_BYTES;
    struct tp_model_memory *memory = malloc(sizeof *memory);
    if (memory == NULL || length > SIZE_MAX - alignment) {
        free(memory);
        return NULL;
    }
    memory->length = (length + alignment - 1) / alignment * alignment;
    memory->bytes = aligned_alloc(alignment, memory->length);
    if (memory->bytes == NULL) {
        free(memory);
        return NULL;
    }
    if (alignment == HUGE_PAGE_BYTES)
        madvise(memory->bytes, memory->length, MADV_HUGEPAGE); /* without, only slower */
    memory->next = *list;
    *list = memory;
    return memory->bytes;
}

void tp_model_memory_free(struct tp_model_memory *list)
{
    while (list != NULL) {
        struct tp_model_memory *next = list->next;
        free(list->bytes);
        free(list);
        list = next;
    }
}

uint64_t tp_model_memory_bytes(const struct tp_model_memory *list)
{
    uint64_t bytes = 0;
    for (; list != NULL; list = list->next)
        bytes += list->length;
    return bytes;
}

/* ---- turning ---- */

struct turning {
    const uint8_t *source;
    uint8_t *target;
    size_t n, rows, columns, width;
    atomic_size_t next; /* a strip of TILE rows of one matrix */
};

static void turn_tile(const struct turning *turning, const uint8_t *source, uint8_t *target,
                      size_t row, size_t column)
{
    size_t width = turning->width;
    size_t row_end = row + TILE < turning->rows ? row + TILE : turning->rows;
    size_t column_end = column + TILE < turning->columns ? column + TILE : turning->columns;
    for (size_t j = column; j < column_end; j++) {
        for (size_t i = row; i < row_end; i++) {
            const uint8_t *from = source + (i * turning->columns + j) * width;
            uint8_t *to = target + (j * turning->rows + i) * width;
            if (width == 2)
                memcpy(to, from, 2);
            else
                memcpy(to, from, 4);
        }
    }
}

static int turn(void *context, size_t worker)
{
    struct turning *turning = context;
    size_t strips = (turning->rows + TILE - 1) / TILE;
    size_t matrix_bytes = turning->rows * turning->columns * turning->width;
    (void)worker;
    for (;;) {
        size_t strip = atomic_fetch_add(&turning->next, 1);
        if (strip >= strips * turning->n)
            return 0;
        size_t offset = strip / strips * matrix_bytes;
        for (size_t column = 0; column < turning->columns; column += TILE)
            turn_tile(turning, turning->source + offset, turning->target + offset,
                      strip % strips * TILE, column);
    }
}

void tp_transpose(const void *source, void *target, size_t n, size_t rows, size_t columns,
                  size_t width, size_t n_workers)
{
    struct turning turning = {
        .source = source,
        .target = target,
        .n = n,
        .rows = rows,
        .columns = columns,
        .width = width,
    };
    tp_workers_run(n_workers, turn, &turning);
}
