#include "cuda/arena.h"

enum { ALIGNMENT = 256, STRIDE_MULTIPLE = 128 };

static size_t round_up(size_t value, size_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

void *tp_arena_take(struct tp_arena *arena, size_t n, size_t bytes)
{
    uint8_t *piece = arena->memory != NULL ? arena->memory + arena->bytes : NULL;
    arena->bytes += round_up(n * bytes, ALIGNMENT);
    return piece;
}

struct tp_columns tp_arena_columns(struct tp_arena *arena, size_t n, size_t size, size_t n_parts)
{
    struct tp_columns columns = {.n_parts = (uint32_t)n_parts,
                                 .size = (uint32_t)size,
                                 .stride = (uint32_t)round_up(size, STRIDE_MULTIPLE)};
    columns.parts = tp_arena_take(arena, n * n_parts, columns.stride * sizeof *columns.parts);
    return columns;
}
