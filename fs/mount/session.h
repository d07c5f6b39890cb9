/* One mount from the first check to the last request. */
#ifndef TENSORPORT_FS_MOUNT_SESSION_H
#define TENSORPORT_FS_MOUNT_SESSION_H

#include "fs/mount/options.h"

/* Opens the checkpoint, mounts it, goes to the background unless told otherwise, serves until
 * it is unmounted. What goes wrong is printed. Returns the exit status. */
int tp_session_run(const struct tp_mount_options *options);

#endif
