/* Merging of a long row of symbols, in n log n: a linked list of what is left, and a heap of the
 * merges that were possible when they were put in. Those that no longer are fail a comparison when
 * they come out. */
#ifndef TENSORPORT_INFER_TOKENIZER_BPE_HEAP_H
#define TENSORPORT_INFER_TOKENIZER_BPE_HEAP_H

#include "infer/tokenizer/bpe.h"

/* Merges `n` symbols (below 2^31) in place; *ret_left is how many are left. -ENOMEM. */
int tp_bpe_heap_merge(const struct tp_merges *merges, struct tp_bpe_heap *heap, uint32_t *symbols,
                      size_t n, size_t *ret_left);

void tp_bpe_heap_clear(struct tp_bpe_heap *heap);

#endif
