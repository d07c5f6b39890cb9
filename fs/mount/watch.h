/* The thread that ends a mount: on a signal, or when nobody has used it for a while. */
#ifndef TENSORPORT_FS_MOUNT_WATCH_H
#define TENSORPORT_FS_MOUNT_WATCH_H

#include "fs/mount/operations.h"

struct tp_watch;

/* Blocks the signals it waits for; call it before any thread is started. */
void tp_watch_block_signals(void);

/* Starts the thread. SIGTERM, SIGINT and SIGHUP unmount lazily: open files go on working, and
 * the session ends by itself when the last of them is closed. A second signal ends the
 * process at once. `mount_point` and `mount` must outlive the watch. -EAGAIN. */
int tp_watch_start(const char *mount_point, unsigned idle_timeout, struct tp_mount *mount,
                   struct tp_watch **ret_watch);

void tp_watch_stop(struct tp_watch *watch);

#endif
