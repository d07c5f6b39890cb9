#include "infer/tokenizer/bpe_heap.h"

#include <errno.h>
#include <stdlib.h>

#define NOWHERE UINT32_MAX

struct tp_bpe_node {
    uint32_t id;             /* TP_TOKEN_NONE: merged into the one before */
    uint32_t previous, next; /* NOWHERE at the ends */
};

struct tp_bpe_candidate {
    uint32_t rank, at; /* the order: by rank, then from the left */
    uint32_t result;
};

void tp_bpe_heap_clear(struct tp_bpe_heap *heap)
{
    free(heap->nodes);
    free(heap->candidates);
    *heap = (struct tp_bpe_heap){0};
}

/* Each merge takes a node away and adds at most two candidates, so 3 n are enough. */
static int reserve(struct tp_bpe_heap *heap, size_t n)
{
    if (heap->capacity >= n)
        return 0;
    tp_bpe_heap_clear(heap);
    heap->nodes = malloc(n * sizeof *heap->nodes);
    heap->candidates = malloc(3 * n * sizeof *heap->candidates);
    if (heap->nodes == NULL || heap->candidates == NULL) {
        tp_bpe_heap_clear(heap);
        return -ENOMEM;
    }
    heap->capacity = n;
    return 0;
}

static bool is_before(const struct tp_bpe_candidate *a, const struct tp_bpe_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void sift_up(struct tp_bpe_candidate *heap, size_t at)
{
    struct tp_bpe_candidate moving = heap[at];
    for (; at > 0 && is_before(&moving, &heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = moving;
}

static void sift_down(struct tp_bpe_candidate *heap, size_t n, size_t at)
{
    struct tp_bpe_candidate moving = heap[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && is_before(&heap[child + 1], &heap[child]))
            child++;
        if (!is_before(&heap[child], &moving))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

/* The merge of a node with the next one, if there is one. */
static bool find_candidate(const struct tp_merges *merges, const struct tp_bpe_node *nodes,
                           uint32_t at, struct tp_bpe_candidate *ret_candidate)
{
    if (at == NOWHERE || nodes[at].next == NOWHERE)
        return false;
    const struct tp_merge *merge = tp_merges_find(merges, nodes[at].id, nodes[nodes[at].next].id);
    *ret_candidate = (struct tp_bpe_candidate){merge->rank, at, merge->result};
    return merge->rank != TP_MERGE_NONE;
}

static size_t fill(const struct tp_merges *merges, struct tp_bpe_heap *heap,
                   const uint32_t *symbols, size_t n)
{
    size_t n_candidates = 0;
    for (size_t i = 0; i < n; i++)
        heap->nodes[i] = (struct tp_bpe_node){symbols[i], i == 0 ? NOWHERE : (uint32_t)i - 1,
                                              i + 1 == n ? NOWHERE : (uint32_t)i + 1};
    for (size_t i = 0; i < n; i++)
        n_candidates +=
            find_candidate(merges, heap->nodes, (uint32_t)i, &heap->candidates[n_candidates]);
    for (size_t i = n_candidates / 2; i-- > 0;)
        sift_down(heap->candidates, n_candidates, i);
    return n_candidates;
}

static void join(struct tp_bpe_node *nodes, uint32_t at, uint32_t result)
{
    uint32_t gone = nodes[at].next;
    nodes[at].id = result;
    nodes[at].next = nodes[gone].next;
    nodes[gone].id = TP_TOKEN_NONE;
    nodes[gone].next = NOWHERE;
    if (nodes[at].next != NOWHERE)
        nodes[nodes[at].next].previous = at;
}

int tp_bpe_heap_merge(const struct tp_merges *merges, struct tp_bpe_heap *heap, uint32_t *symbols,
                      size_t n, size_t *ret_left)
{
    int rc = reserve(heap, n);
    if (rc < 0)
        return rc;
    struct tp_bpe_node *nodes = heap->nodes;
    struct tp_bpe_candidate *candidates = heap->candidates, now;
    size_t n_candidates = fill(merges, heap, symbols, n);
    while (n_candidates > 0) {
        struct tp_bpe_candidate best = candidates[0];
        candidates[0] = candidates[--n_candidates];
        sift_down(candidates, n_candidates, 0);
        if (!find_candidate(merges, nodes, best.at, &now) || now.rank != best.rank)
            continue; /* another merge took one of the two */
        join(nodes, best.at, best.result);
        uint32_t around[] = {best.at, nodes[best.at].previous};
        for (size_t i = 0; i < 2; i++) {
            if (find_candidate(merges, nodes, around[i], &candidates[n_candidates]))
                sift_up(candidates, n_candidates++);
        }
    }
    *ret_left = 0;
    for (uint32_t at = 0; at != NOWHERE; at = nodes[at].next)
        symbols[(*ret_left)++] = nodes[at].id;
    return 0;
}
