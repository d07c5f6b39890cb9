/* Reads XXH3SUMS and SHA256SUMS: lines as xxh128sum and sha256sum write them. */
#ifndef TENSORPORT_FS_EXPORT_VERIFY_SUMS_READ_H
#define TENSORPORT_FS_EXPORT_VERIFY_SUMS_READ_H

#include <stddef.h>
#include <stdint.h>

#include "fs/export/common/hashes.h"
#include "fs/export/verify/faults.h"

struct tp_sum {
    char *path; /* safe: see tp_manifest_path_is_safe() */
    uint8_t digest[TP_SHA256_BYTES];
};

struct tp_sums {
    size_t n;
    struct tp_sum *list;
};

/* Lines "HASH  PATH" with digests of `digest_length` bytes; a backslash in front announces escapes
 * in PATH, and a leading "./" is left out. What is no such line, or names a path twice, goes to
 * `faults` under the file's `name`. To be cleared in any case. -ENOMEM. */
int tp_sums_read(const char *text, size_t length, const char *name, size_t digest_length,
                 struct tp_faults *faults, struct tp_sums *ret_sums);

void tp_sums_clear(struct tp_sums *sums);

#endif
