#include "infer/tokenizer/bpe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "infer/tokenizer/bpe_heap.h"
#include "infer/tokenizer/utf8.h"

enum {
    SCAN_MAX = 48, /* symbols up to which looking at all pairs beats a heap */
    CUT_MIN = 16,  /* symbols from which looking for seams pays */
    SEAM_BITS = 1 << 20,
};

void tp_bpe_clear(struct tp_bpe *bpe)
{
    tp_vocabulary_clear(&bpe->vocabulary);
    tp_merges_clear(&bpe->merges);
    free(bpe->seams);
    bpe->seams = NULL;
}

void tp_bpe_scratch_clear(struct tp_bpe_scratch *scratch)
{
    tp_ids_clear(&scratch->symbols);
    tp_bpe_heap_clear(&scratch->heap);
}

/* ---- seams */

static size_t seam_bit(uint32_t left, uint32_t right)
{
    return tp_hash_mix((uint64_t)left << 32 | right, 0x9E3779B97F4A7C15u) & (SEAM_BITS - 1);
}

static bool may_join(const struct tp_bpe *bpe, uint32_t left, uint32_t right)
{
    size_t bit = seam_bit(left, right);
    return (bpe->seams[bit / 64] >> (bit % 64) & 1) != 0;
}

/* The symbol that a token ends or begins with; TP_TOKEN_NONE if no text has that symbol. */
static uint32_t edge_symbol(const struct tp_bpe *bpe, uint32_t id, bool last)
{
    size_t length, start = 0;
    const char *bytes = tp_vocabulary_bytes(&bpe->vocabulary, id, &length);
    if (bytes == NULL || length == 0)
        return TP_TOKEN_NONE;
    if (bpe->byte_level)
        return bpe->of_byte[(unsigned char)bytes[last ? length - 1 : 0]];
    if (last) {
        start = length - 1;
        while (start > 0 && ((unsigned char)bytes[start] & 0xC0) == 0x80)
            start--;
    }
    return tp_vocabulary_find(&bpe->vocabulary, bytes + start, tp_utf8_step(bytes[start]));
}

/* Tokens that stand for something else than their own bytes: their seams are not in their text. */
static bool is_stand_in(const struct tp_bpe *bpe, uint32_t id)
{
    if (id == bpe->unknown)
        return true;
    for (size_t i = 0; !bpe->byte_level && bpe->byte_fallback && i < 256; i++) {
        if (bpe->of_byte[i] == id)
            return true;
    }
    return false;
}

/* Tokens of one symbol are the only ones that can stand in; most tokens are longer. */
static bool may_stand_in(const struct tp_bpe *bpe, uint32_t id)
{
    size_t length;
    const char *bytes = tp_vocabulary_bytes(&bpe->vocabulary, id, &length);
    return id == bpe->unknown || (bytes != NULL && length == 6 && bytes[0] == '<');
}

int tp_bpe_find_seams(struct tp_bpe *bpe, const struct tp_merge *list, size_t n)
{
    uint64_t *seams = calloc(SEAM_BITS / 64, sizeof *seams);
    if (seams == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        uint32_t left = (uint32_t)(list[i].pair >> 32), right = (uint32_t)list[i].pair;
        if ((may_stand_in(bpe, left) && is_stand_in(bpe, left)) ||
            (may_stand_in(bpe, right) && is_stand_in(bpe, right))) {
            free(seams);
            return 0;
        }
        size_t bit = seam_bit(edge_symbol(bpe, left, true), edge_symbol(bpe, right, false));
        seams[bit / 64] |= (uint64_t)1 << (bit % 64);
    }
    bpe->seams = seams;
    return 0;
}

/* ---- symbols */

static int add_unknown(const struct tp_bpe *bpe, struct tp_ids *symbols, bool *after_unknown)
{
    bool fused = *after_unknown && bpe->fuse_unknown;
    *after_unknown = true;
    return bpe->unknown == TP_TOKEN_NONE || fused ? 0 : tp_ids_append(symbols, bpe->unknown);
}

static int start_from_bytes(const struct tp_bpe *bpe, const char *piece, size_t length,
                            struct tp_ids *symbols)
{
    bool after_unknown = false;
    int rc = tp_ids_reserve(symbols, length);
    for (size_t i = 0; rc == 0 && i < length; i++) {
        uint32_t id = bpe->of_byte[(unsigned char)piece[i]];
        if (id == TP_TOKEN_NONE) {
            rc = add_unknown(bpe, symbols, &after_unknown);
        } else {
            symbols->items[symbols->n++] = id;
            after_unknown = false;
        }
    }
    return rc;
}

/* The bytes of a character that has no token, if each of them has one. */
static bool fall_back(const struct tp_bpe *bpe, const char *character, size_t n,
                      struct tp_ids *symbols)
{
    for (size_t i = 0; i < n; i++) {
        if (!bpe->byte_fallback || bpe->of_byte[(unsigned char)character[i]] == TP_TOKEN_NONE)
            return false;
    }
    for (size_t i = 0; i < n; i++)
        symbols->items[symbols->n++] = bpe->of_byte[(unsigned char)character[i]];
    return true;
}

static int start_from_characters(const struct tp_bpe *bpe, const char *piece, size_t length,
                                 struct tp_ids *symbols)
{
    bool after_unknown = false;
    int rc = tp_ids_reserve(symbols, length);
    for (size_t i = 0, n; rc == 0 && i < length; i += n) {
        n = tp_utf8_step(piece[i]);
        uint32_t id = tp_vocabulary_find(&bpe->vocabulary, piece + i, n);
        if (id != TP_TOKEN_NONE)
            symbols->items[symbols->n++] = id;
        else if (!fall_back(bpe, piece + i, n, symbols)) {
            rc = add_unknown(bpe, symbols, &after_unknown);
            continue;
        }
        after_unknown = false;
    }
    return rc;
}

/* ---- merging */

/* Merges a few symbols in place; how many are left. */
static size_t merge_scanning(const struct tp_bpe *bpe, uint32_t *symbols, size_t n)
{
    uint32_t ranks[SCAN_MAX], results[SCAN_MAX];
    for (size_t i = 0; i + 1 < n; i++) {
        const struct tp_merge *merge = tp_merges_find(&bpe->merges, symbols[i], symbols[i + 1]);
        ranks[i] = merge->rank;
        results[i] = merge->result;
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            best = ranks[i] < ranks[best] ? i : best;
        if (ranks[best] == TP_MERGE_NONE)
            break;
        symbols[best] = results[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            symbols[i] = symbols[i + 1];
            ranks[i - 1] = ranks[i];
            results[i - 1] = results[i];
        }
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const struct tp_merge *merge = tp_merges_find(&bpe->merges, symbols[i], symbols[i + 1]);
            ranks[i] = merge->rank;
            results[i] = merge->result;
        }
    }
    return n;
}

static int merge_run(const struct tp_bpe *bpe, struct tp_bpe_scratch *scratch, uint32_t *symbols,
                     size_t n, struct tp_ids *ids)
{
    size_t left = n;
    int rc = tp_ids_reserve(ids, n);
    if (rc == 0 && n > SCAN_MAX)
        rc = tp_bpe_heap_merge(&bpe->merges, &scratch->heap, symbols, n, &left);
    else if (n > 1)
        left = merge_scanning(bpe, symbols, n);
    if (rc < 0)
        return rc;
    memcpy(ids->items + ids->n, symbols, left * sizeof *symbols);
    ids->n += left;
    return 0;
}

/* Symbols up to the next seam that no merge crosses. */
static size_t run_length(const struct tp_bpe *bpe, const uint32_t *symbols, size_t n)
{
    if (bpe->seams == NULL || n < CUT_MIN)
        return n;
    size_t i = 1;
    while (i < n && may_join(bpe, symbols[i - 1], symbols[i]))
        i++;
    return i;
}

int tp_bpe_encode(const struct tp_bpe *bpe, struct tp_bpe_scratch *scratch, const char *piece,
                  size_t length, struct tp_ids *ids)
{
    struct tp_ids *symbols = &scratch->symbols;
    if (bpe->ignore_merges) {
        uint32_t id = tp_vocabulary_find(&bpe->vocabulary, piece, length);
        if (id != TP_TOKEN_NONE)
            return tp_ids_append(ids, id);
    }
    symbols->n = 0;
    int rc = bpe->byte_level ? start_from_bytes(bpe, piece, length, symbols)
                             : start_from_characters(bpe, piece, length, symbols);
    for (size_t at = 0, n; rc == 0 && at < symbols->n; at += n) {
        n = run_length(bpe, symbols->items + at, symbols->n - at);
        rc = merge_run(bpe, scratch, symbols->items + at, n, ids);
    }
    return rc;
}
