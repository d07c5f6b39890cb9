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
#ifndef TENSORPORT_FS_EXPORT_MOUNTS_KEEPER_H
#define TENSORPORT_FS_EXPORT_MOUNTS_KEEPER_H

#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <sys/types.h>

#include "decode/error.h"

struct tp_keeper {
    pid_t pid;
    int hold;                   /* closing it asks for the end */
    int reports;                /* what the keeper says; readable when there is something */
    char mount_point[PATH_MAX]; /* empty until it is made */
};

/* Starts tensorport-mount with these words, and as the last one the mount point: a folder that
 * the keeper makes, by mkdtemp() from the first of `templates` (NULL at the end) where it can, and
 * removes. words[n_words] and the next must be NULL. SIGCHLD must be blocked; `mask` is what
 * tensorport-mount gets. 0 or a negative errno with a message; nothing is left then. */
int tp_keeper_start(char **words, size_t n_words, const char *const *templates,
                    const sigset_t *mask, struct tp_keeper *ret_keeper, struct tp_error *error);

enum tp_keeper_news {
    TP_KEEPER_WAIT,   /* none yet */
    TP_KEEPER_READY,  /* the mount can be used */
    TP_KEEPER_FAILED, /* it cannot; why has gone to stderr */
};

/* To be called when `reports` is readable, until there are news. `*ret_status` is the exit status
 * of a failure. */
enum tp_keeper_news tp_keeper_read(struct tp_keeper *keeper, int *ret_status);

/* Unmounts, and comes back when it is done: mount and folder are gone. If files are still in use,
 * says so on stderr; tensorport-mount then serves them until they are closed. Also after a
 * failed start. */
void tp_keeper_end(struct tp_keeper *keeper);

#endif
