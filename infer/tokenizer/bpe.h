/* Byte-pair encoding of one piece of text: start from single bytes or characters, and merge, of
 * all adjacent pairs that have a merge, the one of the lowest rank, the leftmost of equals, until
 * none is left (Sennrich et al. 2016; the order is that of Hugging Face's tokenizers).
 *
 * Most pieces are words. A short piece is merged in place, looking for the lowest rank each time;
 * a long one with a heap over a linked list, so that a megabyte of one letter takes n log n. Before
 * that a long piece is cut wherever no merge of the whole model could ever cross: what a merge
 * joins is, at its seam, a pair of single symbols, and the model's seams are few. For models that
 * have no word splitting (Llama 2: a whole text is one piece) this finds the words again.
 */
#ifndef TENSORPORT_INFER_TOKENIZER_BPE_H
#define TENSORPORT_INFER_TOKENIZER_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infer/tokenizer/buffer.h"
#include "infer/tokenizer/merges.h"
#include "infer/tokenizer/vocabulary.h"

struct tp_bpe {
    struct tp_vocabulary vocabulary; /* the model's tokens, and the added ones by id */
    struct tp_merges merges;
    bool byte_level;       /* symbols are bytes and the vocabulary holds bytes; else characters */
    bool ignore_merges;    /* a piece that is a token is that token */
    bool fuse_unknown;     /* a row of unknown symbols is one unknown token */
    bool byte_fallback;    /* an unknown character becomes the tokens <0xNN> of its bytes */
    uint32_t unknown;      /* TP_TOKEN_NONE: unknown symbols vanish */
    uint32_t of_byte[256]; /* token of each byte, or TP_TOKEN_NONE; byte_level or byte_fallback */
    uint64_t *seams;       /* a bit for the hash of each pair of symbols that a merge can join
                              at; NULL: cut nowhere */
};

/* What encoding needs for itself; one for each thread that encodes. Starts as zeros. */
struct tp_bpe_scratch {
    struct tp_ids symbols;
    struct tp_bpe_heap {
        struct tp_bpe_node *nodes;
        struct tp_bpe_candidate *candidates;
        size_t capacity; /* of nodes; candidates have three times as many */
    } heap;
};

/* To be called once vocabulary, merges and of_byte are there. -ENOMEM. */
int tp_bpe_find_seams(struct tp_bpe *bpe, const struct tp_merge *list, size_t n);

void tp_bpe_clear(struct tp_bpe *bpe);
void tp_bpe_scratch_clear(struct tp_bpe_scratch *scratch);

/* Appends the ids of `piece`, which is valid UTF-8 unless the model is byte_level, and shorter than
 * 2 GiB. -ENOMEM. Thread-safe. */
int tp_bpe_encode(const struct tp_bpe *bpe, struct tp_bpe_scratch *scratch, const char *piece,
                  size_t length, struct tp_ids *ids);

#endif
