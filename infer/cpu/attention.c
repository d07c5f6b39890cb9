#include "infer/cpu/attention.h"

#include <errno.h>
#include <math.h>
#include <string.h>

/* Positions that one thread takes through the same splits, whose keys then stay in its cache. */
enum { POSITIONS_PER_ITEM = 16 };

/* What a thread works with. */
struct desk {
    float *weights;                 /* [heads of a group][TP_KEY_SPLIT] */
    float *part_mixed;              /* [heads of a group][padded head size] */
    float *mixed;                   /* [POSITIONS_PER_ITEM][heads of a group][padded head size] */
    struct tp_attention_sums *part; /* [heads of a group] */
    struct tp_attention_sums *sums; /* [POSITIONS_PER_ITEM][heads of a group] */
    float *keys, *values;           /* of a plain cache, a split laid out; either in BF16, too */
};

/* Some positions of a sequence and the query heads of one KV head. */
struct item {
    const struct tp_attention *attention;
    size_t kv_head;
    size_t first, n;                /* positions */
    size_t split;                   /* if splits are done apart */
    float *mixed;                   /* of that split: [n_heads][padded head size] */
    struct tp_attention_sums *sums; /* of that split: [n_heads] */
};

struct attending {
    const struct tp_kernels *kernels;
    struct item *items;
    uint8_t *desks;
    size_t desk_bytes;
    size_t group, padded; /* the largest of all */
    bool plain;           /* any of the caches */
};

static size_t group_of(const struct tp_attention *a)
{
    return a->n_heads / a->cache->n_heads;
}

static size_t first_key(const struct tp_attention *a, size_t position)
{
    return a->window == 0 || position < a->window ? 0 : position - a->window + 1;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

static struct desk desk_of(const struct attending *attending, size_t thread)
{
    struct desk desk;
    size_t heads = attending->group, mixed = heads * attending->padded;
    desk.weights = (float *)(void *)(attending->desks + thread * attending->desk_bytes);
    desk.part_mixed = desk.weights + heads * TP_KEY_SPLIT;
    desk.mixed = desk.part_mixed + mixed;
    desk.part = (struct tp_attention_sums *)(void *)(desk.mixed + POSITIONS_PER_ITEM * mixed);
    desk.sums = desk.part + heads;
    size_t split = TP_KEY_SPLIT * attending->padded;
    desk.values =
        (float *)(void *)(attending->desks + (thread + 1) * attending->desk_bytes) - split;
    desk.keys = desk.values - split;
    return desk;
}

static size_t desk_bytes(const struct attending *attending)
{
    size_t heads = attending->group, mixed = heads * attending->padded;
    size_t floats = heads * TP_KEY_SPLIT + (1 + POSITIONS_PER_ITEM) * mixed;
    if (attending->plain)
        floats += 2 * TP_KEY_SPLIT * attending->padded;
    size_t bytes = floats * sizeof(float) +
                   (1 + POSITIONS_PER_ITEM) * heads * sizeof(struct tp_attention_sums);
    return (bytes + 63) / 64 * 64;
}

/* Where the keys and values of a KV head are to be found. */
struct place {
    const void *keys, *values;
    size_t capacity;
};

/* Of what the item's positions see of a split. */
static struct place find(const struct item *item, size_t split, const struct desk *desk)
{
    const struct tp_attention *a = item->attention;
    const struct tp_kv_cache *cache = a->cache;
    if (!cache->plain)
        return (struct place){tp_kv_cache_keys(cache, item->kv_head),
                              tp_kv_cache_values(cache, item->kv_head), cache->capacity};
    size_t first = most(first_key(a, item->first), split * TP_KEY_SPLIT);
    size_t end = least(item->first + item->n, (split + 1) * TP_KEY_SPLIT);
    if (first < end)
        tp_kv_cache_lay_out(cache, item->kv_head, first, end - first, desk->keys, desk->values);
    return (struct place){desk->keys, desk->values, TP_KEY_SPLIT};
}

/* Attends from `position` to what it sees of a split, if anything. */
static bool attend_to_split(const struct attending *attending, const struct item *item,
                            const struct place *place, size_t position, size_t split,
                            float *weights, struct tp_attention_sums *sums, float *mixed)
{
    const struct tp_attention *a = item->attention;
    const struct tp_kv_cache *cache = a->cache;
    size_t head = item->kv_head * group_of(a);
    struct tp_attention_part part = {
        .queries = a->queries + ((position - a->first) * a->n_heads + head) * cache->head_size,
        .n_heads = group_of(a),
        .head_size = cache->head_size,
        .scale = a->scale,
        .bf16 = cache->bf16,
        .keys = place->keys,
        .values = place->values,
        .capacity = place->capacity,
        .first = most(first_key(a, position), split * TP_KEY_SPLIT),
        .last = least(position + 1, (split + 1) * TP_KEY_SPLIT),
        .weights = weights,
    };
    if (part.first >= part.last)
        return false;
    attending->kernels->attend(&part, sums, mixed);
    return true;
}

/* The softmax before any key: the sink alone. */
static void begin(const struct item *item, struct tp_attention_sums *sums, float *mixed)
{
    const struct tp_attention *a = item->attention;
    size_t group = group_of(a);
    for (size_t h = 0; h < group; h++) {
        bool sink = a->sinks != NULL;
        sums[h].largest = sink ? a->sinks[item->kv_head * group + h] : -INFINITY;
        sums[h].total = sink ? 1 : 0;
    }
    memset(mixed, 0, group * tp_padded_head(a->cache->head_size) * sizeof *mixed);
}

static void merge_group(const struct attending *attending, const struct item *item,
                        struct tp_attention_sums *sums, float *mixed,
                        const struct tp_attention_sums *part, const float *part_mixed)
{
    size_t padded = tp_padded_head(item->attention->cache->head_size);
    for (size_t h = 0; h < group_of(item->attention); h++)
        attending->kernels->merge(&sums[h], mixed + h * padded, &part[h], part_mixed + h * padded,
                                  padded);
}

static void finish(const struct attending *attending, const struct item *item, size_t position,
                   const struct tp_attention_sums *sums, float *mixed)
{
    const struct tp_attention *a = item->attention;
    size_t size = a->cache->head_size, padded = tp_padded_head(size), group = group_of(a);
    float *target = a->mixed + ((position - a->first) * a->n_heads + item->kv_head * group) * size;
    for (size_t h = 0; h < group; h++) {
        attending->kernels->divide(mixed + h * padded, size, sums[h].total);
        memcpy(target + h * size, mixed + h * padded, size * sizeof *target);
    }
}

/* ---- each thread goes through the splits in order ---- */

static void attend_in_order(void *context, size_t index, size_t thread)
{
    const struct attending *attending = context;
    const struct item *item = &attending->items[index];
    const struct tp_attention *a = item->attention;
    struct desk desk = desk_of(attending, thread);
    size_t group = group_of(a), mixed_size = group * tp_padded_head(a->cache->head_size);

    for (size_t i = 0; i < item->n; i++)
        begin(item, desk.sums + i * group, desk.mixed + i * mixed_size);
    size_t split = first_key(a, item->first) / TP_KEY_SPLIT;
    for (; split * TP_KEY_SPLIT < item->first + item->n; split++) {
        struct place place = find(item, split, &desk);
        for (size_t i = 0; i < item->n; i++) {
            if (attend_to_split(attending, item, &place, item->first + i, split, desk.weights,
                                desk.part, desk.part_mixed))
                merge_group(attending, item, desk.sums + i * group, desk.mixed + i * mixed_size,
                            desk.part, desk.part_mixed);
        }
    }
    for (size_t i = 0; i < item->n; i++)
        finish(attending, item, item->first + i, desk.sums + i * group,
               desk.mixed + i * mixed_size);
}

static size_t list_in_order(const struct tp_attention *attentions, size_t n, struct item *items)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        const struct tp_attention *a = &attentions[i];
        /* The late positions, which see most, come first. */
        for (size_t left = a->n; left > 0;) {
            size_t here = (left - 1) % POSITIONS_PER_ITEM + 1;
            left -= here;
            for (size_t head = 0; head < a->cache->n_heads; head++, count++) {
                if (items != NULL)
                    items[count] = (struct item){
                        .attention = a, .kv_head = head, .first = a->first + left, .n = here};
            }
        }
    }
    return count;
}

/* ---- splits at the same time, joined afterwards ---- */

static void attend_apart(void *context, size_t index, size_t thread)
{
    const struct attending *attending = context;
    const struct item *item = &attending->items[index];
    struct desk desk = desk_of(attending, thread);
    struct place place = find(item, item->split, &desk);
    attend_to_split(attending, item, &place, item->first, item->split, desk.weights, item->sums,
                    item->mixed);
}

/* One item for each split that a position sees, next to each other. */
static size_t list_apart(const struct tp_attention *attentions, size_t n, struct item *items)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        const struct tp_attention *a = &attentions[i];
        for (size_t at = 0; at < a->n * a->cache->n_heads; at++) {
            size_t position = a->first + at / a->cache->n_heads;
            size_t split = first_key(a, position) / TP_KEY_SPLIT;
            for (; split * TP_KEY_SPLIT <= position; split++, count++) {
                if (items != NULL)
                    items[count] = (struct item){.attention = a,
                                                 .kv_head = at % a->cache->n_heads,
                                                 .first = position,
                                                 .n = 1,
                                                 .split = split};
            }
        }
    }
    return count;
}

static void join(const struct attending *attending, size_t n_items)
{
    struct desk desk = desk_of(attending, 0);
    for (size_t i = 0; i < n_items;) {
        const struct item *first = &attending->items[i];
        begin(first, desk.sums, desk.mixed);
        for (; i < n_items && attending->items[i].attention == first->attention &&
               attending->items[i].kv_head == first->kv_head &&
               attending->items[i].first == first->first;
             i++)
            merge_group(attending, first, desk.sums, desk.mixed, attending->items[i].sums,
                        attending->items[i].mixed);
        finish(attending, first, first->first, desk.sums, desk.mixed);
    }
}

/* Room for what the items give. */
static bool reserve_parts(struct tp_workspace *workspace, struct attending *attending, size_t n)
{
    size_t heads = attending->group;
    size_t bytes = heads * (attending->padded * sizeof(float) + sizeof(struct tp_attention_sums));
    float *mixed = tp_scratch_reserve(&workspace->vectors, n, bytes);
    if (mixed == NULL)
        return false;
    struct tp_attention_sums *sums =
        (struct tp_attention_sums *)(void *)(mixed + n * heads * attending->padded);
    for (size_t i = 0; i < n; i++) {
        attending->items[i].mixed = mixed + i * heads * attending->padded;
        attending->items[i].sums = sums + i * heads;
    }
    return true;
}

/* ---- both ---- */

static bool reserve(struct tp_workspace *workspace, struct attending *attending, size_t n_items)
{
    attending->desk_bytes = desk_bytes(attending);
    attending->desks = tp_scratch_reserve(&workspace->scratch, tp_pool_threads(workspace->pool),
                                          attending->desk_bytes);
    attending->items = tp_scratch_reserve(&workspace->pieces, n_items, sizeof *attending->items);
    return attending->desks != NULL && attending->items != NULL;
}

int tp_attend(struct tp_workspace *workspace, const struct tp_attention *attentions, size_t n)
{
    enum { ITEMS_PER_THREAD = 4, POSITIONS_MAX = 8 };
    struct attending attending = {.kernels = workspace->kernels};
    size_t n_threads = tp_pool_threads(workspace->pool), n_positions = 0;
    for (size_t i = 0; i < n; i++) {
        attending.group = most(attending.group, group_of(&attentions[i]));
        attending.padded = most(attending.padded, tp_padded_head(attentions[i].cache->head_size));
        attending.plain |= attentions[i].cache->plain;
        n_positions += attentions[i].n;
    }
    size_t n_items = list_in_order(attentions, n, NULL);
    bool apart = n_positions <= POSITIONS_MAX && n_items < ITEMS_PER_THREAD * n_threads;
    if (apart)
        n_items = list_apart(attentions, n, NULL);
    if (n_items == 0)
        return 0;
    if (!reserve(workspace, &attending, n_items))
        return -ENOMEM;
    if (!apart) {
        list_in_order(attentions, n, attending.items);
        tp_pool_run(workspace->pool, n_items, attend_in_order, &attending);
        return 0;
    }
    list_apart(attentions, n, attending.items);
    if (!reserve_parts(workspace, &attending, n_items))
        return -ENOMEM;
    tp_pool_run(workspace->pool, n_items, attend_apart, &attending);
    join(&attending, n_items);
    return 0;
}
