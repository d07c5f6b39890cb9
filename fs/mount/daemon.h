/* Going to the background in a way that the shell can rely on.
 *
 * The command returns when the mount is usable, with status 0, or when it is clear that it
 * never will be, with the reason on stderr and status 1: the daemon tells its parent through
 * a pipe. Fork first, start threads afterwards.
 */
#ifndef TENSORPORT_FS_MOUNT_DAEMON_H
#define TENSORPORT_FS_MOUNT_DAEMON_H

#include "decode/error.h"

struct tp_daemon {
    int pipe; /* the daemon's end; -1 in the foreground */
    int null; /* /dev/null, while the pipe is there */
};

/* Forks. Returns in the daemon only: the parent waits for tp_daemon_ready() or
 * tp_daemon_fail(), and exits. The daemon has a session of its own, / as folder and
 * /dev/null as descriptors 0 and 1; stderr goes there too once it is ready. */
int tp_daemon_start(const char *program, struct tp_daemon *ret_daemon, struct tp_error *error);

/* Lets the parent exit with 0. Does nothing the second time, or in the foreground. */
void tp_daemon_ready(struct tp_daemon *daemon);

/* Lets the parent print the message and exit with 1; in the foreground prints it here. */
void tp_daemon_fail(struct tp_daemon *daemon, const char *program, const struct tp_error *error);

#endif
