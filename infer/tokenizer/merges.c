#include "infer/tokenizer/merges.h"

#include <errno.h>
#include <stdlib.h>

int tp_merges_init(struct tp_merges *merges, size_t n)
{
    size_t n_slots = 64;
    while (n_slots < 2 * n)
        n_slots *= 2;
    struct tp_merge *slots = aligned_alloc(64, n_slots * sizeof *slots);
    if (slots == NULL)
        return -ENOMEM;
    memset(slots, 0xFF, n_slots * sizeof *slots);
    *merges = (struct tp_merges){slots, n_slots - 1, tp_hash_seed()};
    return 0;
}

void tp_merges_clear(struct tp_merges *merges)
{
    free(merges->slots);
    *merges = (struct tp_merges){0};
}

void tp_merges_add(struct tp_merges *merges, uint32_t left, uint32_t right, uint32_t rank,
                   uint32_t result)
{
    const struct tp_merge *found = tp_merges_find(merges, left, right);
    merges->slots[found - merges->slots] =
        (struct tp_merge){(uint64_t)left << 32 | right, rank, result};
}
