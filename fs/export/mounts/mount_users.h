/* Who keeps a mount from being taken away: found by name in /proc, without a question to the mount.
 * An ordinary user sees only processes of their own. */
#ifndef TENSORPORT_FS_EXPORT_MOUNTS_MOUNT_USERS_H
#define TENSORPORT_FS_EXPORT_MOUNTS_MOUNT_USERS_H

#include <stddef.h>

#include "decode/error.h"

/* "812 (python3), 99 (less) and 3 more": the processes that have a file open below `mount_point`
 * or mapped, or stand there. Empty when none is to be seen. */
void tp_mount_users_describe(const char *mount_point, struct tp_error *ret_text);

#endif
