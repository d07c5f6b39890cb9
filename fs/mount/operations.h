/* The tree as FUSE operations: each translates one request and replies exactly once. */
#ifndef TENSORPORT_FS_MOUNT_OPERATIONS_H
#define TENSORPORT_FS_MOUNT_OPERATIONS_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "fs/base/gate.h"
#include "fs/cache/list.h"
#include "fs/view/tree.h"

/* What the operations work on: the user data of the session. */
struct tp_mount {
    struct tp_tree *tree;
    uid_t user;
    gid_t group;
    bool direct_io;
    unsigned max_read;            /* bytes: -o max_read=N; 0: as the kernel likes */
    struct tp_gate *gate;         /* passed by whoever decodes and answers a read */
    void (*ready)(void *context); /* called once the kernel has accepted the mount */
    void *context;
    int read_ahead_fd; /* the mount's read_ahead_kb, or -1 */
    atomic_bool read_ahead_raised;
    pthread_mutex_t handles_lock; /* protects the list of open files */
    struct tp_link handles;
    _Atomic int64_t last_used; /* seconds of CLOCK_MONOTONIC; for the idle timeout */
};

extern const struct fuse_lowlevel_ops tp_mount_operations;

/* Before the first request, and after the last: the kernel sends no RELEASE for files that it
 * closed while the mount went away. */
void tp_mount_init_handles(struct tp_mount *mount);
void tp_mount_free_handles(struct tp_mount *mount);

#endif
