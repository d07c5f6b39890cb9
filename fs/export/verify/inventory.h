/* The files of a folder that is checked: those that are there, and those that the manifest, the
 * checksums or the checkpoint speak of. */
#ifndef TENSORPORT_FS_EXPORT_VERIFY_INVENTORY_H
#define TENSORPORT_FS_EXPORT_VERIFY_INVENTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "fs/export/convert/artifact.h"
#include "fs/export/verify/faults.h"
#include "fs/export/verify/manifest_read.h"
#include "fs/export/verify/sums_read.h"

/* A file; what nobody spoke of is NULL, false or 0. */
struct tp_inventory_file {
    char *path; /* relative to the folder */
    bool is_there;
    mode_t mode;
    uint64_t size;
    const struct tp_manifest_tensor *tensor; /* whose .npy file it is */
    uint64_t data_end;                       /* of a container: where the last tensor ends */
    bool is_container;
    const uint8_t *xxh3, *sha256;
    const struct tp_artifact *artifact; /* what it should be, by the checkpoint */
};

struct tp_inventory {
    bool is_partial; /* the manifest could not be read in full: what nobody spoke of may be its */
    size_t n;
    struct tp_inventory_file *files; /* sorted by path once tp_inventory_merge() was called */
};

/* Each speaks of files; -ENOMEM. */
int tp_inventory_add_manifest(struct tp_inventory *inventory, const struct tp_manifest *manifest);
int tp_inventory_add_sums(struct tp_inventory *inventory, const struct tp_sums *sums, bool sha256);
int tp_inventory_add(struct tp_inventory *inventory, const char *path,
                     struct tp_inventory_file file);

/* Lists the folder, whose name is for messages, and the folders in it in which files should be.
 * Other folders, and what a conversion leaves that was interrupted, are faults. -ENOMEM. */
int tp_inventory_scan(struct tp_inventory *inventory, int folder, struct tp_faults *faults);

/* Makes one entry of all that was said of a path. */
void tp_inventory_merge(struct tp_inventory *inventory);

/* Which files are wrong without a look into them. `xxh3`, `sha256` and `source` say whether every
 * file should be listed in those checksums, or be one of the checkpoint's; without all of them
 * other files at the top are left alone, and counted. */
void tp_inventory_judge(const struct tp_inventory *inventory, bool xxh3, bool sha256, bool source,
                        struct tp_faults *faults, size_t *ret_n_unknown);

void tp_inventory_clear(struct tp_inventory *inventory);

/* False when tp_inventory_judge() finds a fault in the size. */
bool tp_inventory_size_is_right(const struct tp_inventory_file *file);

#endif
