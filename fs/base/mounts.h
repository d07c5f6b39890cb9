/* What is mounted, from the kernel's table, and taking mounts away.
 *
 * Nothing in here but tp_mounts_is_dead() touches a mount itself: one whose daemon is stuck would
 * not answer, and one whose daemon has ended answers with an error.
 */
#ifndef TENSORPORT_FS_BASE_MOUNTS_H
#define TENSORPORT_FS_BASE_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* The type of our mounts in the table. */
#define TP_MOUNT_TYPE  "fuse.tensorport-mount"
#define TP_MOUNTS_FILE "/proc/self/mountinfo"

/* A line of the table (proc(5)), its escapes undone. */
struct tp_mount_entry {
    unsigned major, minor;
    uid_t user; /* of a FUSE mount: who mounted it; else 0 */
    char *path;
    char *type;
    char *source;
};

struct tp_mount_table {
    size_t n;
    struct tp_mount_entry *entries; /* later ones lie on top of earlier ones */
};

/* Reads the table; `file` is TP_MOUNTS_FILE, except for tests. Lines that make no sense are left
 * out. 0 or a negative errno. */
int tp_mounts_read(const char *file, struct tp_mount_table *ret_table);

void tp_mounts_clear(struct tp_mount_table *table);

/* The topmost mount at exactly `path`, or NULL; and the one that holds the file `path`. */
const struct tp_mount_entry *tp_mounts_at(const struct tp_mount_table *table, const char *path);
const struct tp_mount_entry *tp_mounts_around(const struct tp_mount_table *table, const char *path);

/* Whether that is one of ours. */
bool tp_mounts_are_ours(const struct tp_mount_entry *entry);

/* True if `path` is `folder` or lies below it; both absolute and resolved. */
bool tp_mounts_cover(const char *folder, const char *path);

/* What a mount whose daemon has ended says; and whether the one at `path` says so, which waits
 * for a daemon that lives. */
bool tp_mounts_code_is_dead(int code);
bool tp_mounts_is_dead(const char *path);

/* The absolute path of a mount point that may be dead or stuck: its last component is looked at
 * only if it is no name. The caller frees it; NULL with errno. */
char *tp_mounts_resolve(const char *path);

enum tp_unmount {
    TP_UNMOUNT_IDLE, /* only if nothing in it is in use */
    TP_UNMOUNT_LAZY, /* now for new users, later for those who still have files open */
};

/* As root by umount2, else by fusermount3, whose own message is kept quiet. -EBUSY (as an ordinary
 * user only a guess) when it is in use. 0 or a negative errno. */
int tp_mounts_unmount(const char *path, enum tp_unmount how);

#endif
