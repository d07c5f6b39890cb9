/* Which parts of a file have been read: a short list of disjoint ranges.
 *
 * A file read from end to end gives one range however the kernel splits and reorders the
 * requests. Scattered reads may need more ranges than there is room for; then the shortest is
 * forgotten: a file may be taken as read in part when it was read in full, never the other
 * way round.
 */
#ifndef TENSORPORT_FS_VIEW_EXTENTS_H
#define TENSORPORT_FS_VIEW_EXTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TP_EXTENTS_MAX = 16 };

struct tp_extent {
    uint64_t begin, end;
};

struct tp_extents {
    size_t n;
    struct tp_extent ranges[TP_EXTENTS_MAX]; /* sorted, not touching each other */
};

void tp_extents_add(struct tp_extents *extents, uint64_t begin, uint64_t end);

/* True when [0, size) is covered; a file of no bytes always is. */
bool tp_extents_cover(const struct tp_extents *extents, uint64_t size);

#endif
