/* A mount that goes away with the one who asked for it, however that one ends.
 *
 *     tensorport run ──┬── the command
 *                      └── keeper ─── tensorport-mount -f
 *
 * Someone has to unmount after `run` was killed with SIGKILL, so a process of its own does: the
 * keeper holds one end of a pipe, `run` the other, and whatever closes that end is the order to
 * clean up. It has a session of its own, where neither the terminal's Ctrl-C nor a signal to the
 * caller's process group finds it, and keeps none of the caller's descriptors but stderr. If the
 * keeper itself is killed, the kernel sends SIGTERM to tensorport-mount, which then unmounts, and
 * tp_keeper_end() does the rest.
 */
#ifndef TENSORPORT_FS_EXPORT_KEEPER_H
#define TENSORPORT_FS_EXPORT_KEEPER_H

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

#include "decode/error.h"

struct tp_keeper {
    pid_t pid;
    int hold;                /* closing it asks for the end */
    int reports;             /* what the keeper says; readable when there is something */
    const char *mount_point; /* the caller's */
};

/* Starts tensorport-mount with these words, the last of which is `mount_point`, an empty folder
 * that is the keeper's from here on: it removes it. SIGCHLD must be blocked; `mask` is what
 * tensorport-mount gets. 0 or a negative errno with a message; nothing is left then. */
int tp_keeper_start(char *const *words, const char *mount_point, const sigset_t *mask,
                    struct tp_keeper *ret_keeper, struct tp_error *error);

/* Once `reports` is readable: 0 when the mount can be used, else the exit status of a mount that
 * failed; its message went to stderr. Call it once. */
int tp_keeper_read_start(const struct tp_keeper *keeper);

/* Unmounts, and comes back when it is done: mount and folder are gone. If files are still in use,
 * says so on stderr; tensorport-mount then serves them until they are closed. Also after a
 * failed start. */
void tp_keeper_end(struct tp_keeper *keeper);

#endif
