/* XXH3SUMS: checksums of those files of a view that have been read in full.
 *
 * Written as xxh128sum writes them, so that `xxh128sum -c` checks a copy. Computed when
 * somebody asks, from a fresh decode, and kept: the readers themselves pay nothing for it.
 */
#ifndef TENSORPORT_FS_VIEW_CHECKSUMS_H
#define TENSORPORT_FS_VIEW_CHECKSUMS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "fs/view/view.h"

struct tp_checksums;

/* `view` must outlive it. -ENOMEM. */
int tp_checksums_new(const struct tp_view *view, struct tp_checksums **ret_checksums);
void tp_checksums_free(struct tp_checksums *checksums);

/* Notes that bytes of file number `file` of the view were delivered. Thread-safe. */
void tp_checksums_note_read(struct tp_checksums *checksums, size_t file, uint64_t offset,
                            size_t length);

/* The length that the text has now; nothing is computed. */
size_t tp_checksums_length(struct tp_checksums *checksums);

/* The text; takes as long as decoding the files that have no checksum yet. A file whose
 * source fails is left out. The caller frees the text. -ENOMEM. */
int tp_checksums_text(struct tp_checksums *checksums, char **ret_text, size_t *ret_length);

/* One line, as xxh128sum writes it: "HASH  PATH\n", with '\\' in front and escapes inside when
 * PATH contains a backslash or a newline. Returns its length, which does not depend on the
 * hash; writes nothing when `stream` is NULL. */
size_t tp_checksums_line(const uint8_t hash[16], const char *path, FILE *stream);

#endif
