#include "fs/view/extents.h"

#include <string.h>

static void remove_at(struct tp_extents *extents, size_t i)
{
    extents->n--;
    memmove(&extents->ranges[i], &extents->ranges[i + 1],
            (extents->n - i) * sizeof *extents->ranges);
}

static void remove_shortest(struct tp_extents *extents)
{
    size_t shortest = 0;
    for (size_t i = 1; i < extents->n; i++) {
        const struct tp_extent *a = &extents->ranges[i], *b = &extents->ranges[shortest];
        if (a->end - a->begin < b->end - b->begin)
            shortest = i;
    }
    remove_at(extents, shortest);
}

void tp_extents_add(struct tp_extents *extents, uint64_t begin, uint64_t end)
{
    if (begin >= end)
        return;
    size_t i = 0;
    while (i < extents->n && extents->ranges[i].end < begin)
        i++;
    while (i < extents->n && extents->ranges[i].begin <= end) { /* swallow what it touches */
        if (extents->ranges[i].begin < begin)
            begin = extents->ranges[i].begin;
        if (extents->ranges[i].end > end)
            end = extents->ranges[i].end;
        remove_at(extents, i);
    }
    if (extents->n == TP_EXTENTS_MAX) {
        remove_shortest(extents);
        for (i = 0; i < extents->n && extents->ranges[i].end < begin;)
            i++;
    }
    memmove(&extents->ranges[i + 1], &extents->ranges[i],
            (extents->n - i) * sizeof *extents->ranges);
    extents->ranges[i] = (struct tp_extent){begin, end};
    extents->n++;
}

bool tp_extents_cover(const struct tp_extents *extents, uint64_t size)
{
    return size == 0 ||
           (extents->n > 0 && extents->ranges[0].begin == 0 && extents->ranges[0].end >= size);
}
