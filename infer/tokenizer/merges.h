/* The merges of a BPE model: which pair of adjacent tokens becomes which token, and in what order.
 *
 * An open-addressing table, at most half full. A slot has 16 bytes and never straddles a cache
 * line, so a search nearly always costs one line.
 */
#ifndef TENSORPORT_INFER_TOKENIZER_MERGES_H
#define TENSORPORT_INFER_TOKENIZER_MERGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infer/tokenizer/hash.h"

#define TP_MERGE_NONE UINT32_MAX

struct tp_merge {
    uint64_t pair;   /* left << 32 | right; UINT64_MAX: empty */
    uint32_t rank;   /* lower comes first */
    uint32_t result; /* the token that the pair becomes */
};

struct tp_merges {
    struct tp_merge *slots; /* 16-byte aligned */
    size_t mask;            /* slots - 1 */
    uint64_t seed;
};

/* Room for `n` merges. -ENOMEM. */
int tp_merges_init(struct tp_merges *merges, size_t n);
void tp_merges_clear(struct tp_merges *merges);

/* Adds one; a pair that is there already gets the new rank. At most the `n` of init. */
void tp_merges_add(struct tp_merges *merges, uint32_t left, uint32_t right, uint32_t rank,
                   uint32_t result);

static inline size_t tp_merges_hash(const struct tp_merges *merges, uint64_t pair)
{
    return tp_hash_mix(pair ^ merges->seed, 0x9E3779B97F4A7C15u) & merges->mask;
}

/* The merge of a pair, or a slot whose rank is TP_MERGE_NONE. */
static inline const struct tp_merge *tp_merges_find(const struct tp_merges *merges, uint32_t left,
                                                    uint32_t right)
{
    uint64_t pair = (uint64_t)left << 32 | right;
    for (size_t i = tp_merges_hash(merges, pair);; i = (i + 1) & merges->mask) {
        const struct tp_merge *slot = &merges->slots[i];
        if (slot->pair == pair || slot->rank == TP_MERGE_NONE)
            return slot;
    }
}

#endif
