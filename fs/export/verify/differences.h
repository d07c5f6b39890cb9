/* Where a file differs from the artifact that it should be: the first place in each tensor. */
#ifndef TENSORPORT_FS_EXPORT_VERIFY_DIFFERENCES_H
#define TENSORPORT_FS_EXPORT_VERIFY_DIFFERENCES_H

#include <stddef.h>
#include <stdint.h>

#include "fs/export/convert/artifact.h"
#include "fs/export/verify/faults.h"

struct tp_difference {
    const struct tp_segment *segment;
    uint64_t offset; /* in the file */
};

struct tp_differences {
    size_t n;
    struct tp_difference *list;
};

/* Compares a piece of the file with that of the artifact. Not thread-safe. -ENOMEM. */
int tp_differences_find(struct tp_differences *differences, const struct tp_artifact *artifact,
                        const void *found, const void *expected, uint64_t offset, size_t length);

/* Reports them; the elements are read again from `fd` and the artifact. Clears the list. */
void tp_differences_report(struct tp_differences *differences, const struct tp_artifact *artifact,
                           const char *path, int fd, struct tp_artifact_scratch *scratch,
                           struct tp_faults *faults);

#endif
