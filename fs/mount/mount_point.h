/* The place in the file system where the tree appears. */
#ifndef TENSORPORT_FS_MOUNT_MOUNT_POINT_H
#define TENSORPORT_FS_MOUNT_MOUNT_POINT_H

#include <stdbool.h>

#include "decode/error.h"
#include "fs/checkpoint/checkpoint.h"

/* Resolves `path` and makes sure that it can be mounted on: a folder, no dead mount, none of
 * ours. With `replace`, unmounts those first. The caller frees the path. */
int tp_mount_point_prepare(const char *path, bool replace, char **ret_path, struct tp_error *error);

/* Refuses a mount point that would cover the checkpoint's own files. */
int tp_mount_point_check_source(const char *mount_point, const struct tp_checkpoint *checkpoint,
                                struct tp_error *error);

/* Unmounts now for new users, later for those who still have files open. As root by umount2,
 * else by fusermount3. 0 or a negative errno. */
int tp_mount_point_detach(const char *mount_point);

/* True when one of our mounts is there. */
bool tp_mount_point_is_ours(const char *mount_point);

/* Opens the mount's read_ahead_kb for writing; -1 without the right to it. */
int tp_mount_point_open_read_ahead(const char *mount_point);

#endif
