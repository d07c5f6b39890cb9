/* Checks a packed checkpoint: every block, every file as a whole, and that it can be opened. It
 * needs nothing to be compared with. */
#ifndef TENSORPORT_FS_EXPORT_VERIFY_VERIFY_PACKED_H
#define TENSORPORT_FS_EXPORT_VERIFY_VERIFY_PACKED_H

#include "fs/export/pack/pack.h"
#include "fs/export/verify/faults.h"
#include "fs/export/verify/verify.h"

struct tp_verified_packed {
    struct tp_faults faults;
    struct tp_pack_summary summary; /* of the files that could be opened */
};

/* Verifies options->folder, for which tp_is_packed() holds. To be cleared if it succeeded. Fails
 * when the folder cannot be read at all. */
int tp_verify_packed(const struct tp_verify_options *options,
                     struct tp_verified_packed *ret_verified, struct tp_error *error);

void tp_verified_packed_clear(struct tp_verified_packed *verified);

#endif
