/* The checksums of a file that is made piece by piece. */
#ifndef TENSORPORT_FS_EXPORT_COMMON_HASHES_H
#define TENSORPORT_FS_EXPORT_COMMON_HASHES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TP_XXH3_BYTES = 16, TP_SHA256_BYTES = 32 };

/* What is wanted of a file, and what it is. */
struct tp_digests {
    uint8_t xxh3[TP_XXH3_BYTES]; /* XXH3-128, as xxh128sum shows it */
    uint8_t sha256[TP_SHA256_BYTES];
};

struct tp_hashes;

/* A state for either or both; NULL when there is no memory. */
struct tp_hashes *tp_hashes_new(bool xxh3, bool sha256);
void tp_hashes_free(struct tp_hashes *hashes);

/* The next bytes of the file. */
void tp_hashes_update(struct tp_hashes *hashes, const void *bytes, size_t length);

/* What was not wanted is left alone. Ends the state. */
void tp_hashes_finish(struct tp_hashes *hashes, struct tp_digests *ret_digests);

#endif
