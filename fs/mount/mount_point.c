#include "fs/mount/mount_point.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/base/mounts.h"

/* The topmost mount at exactly `path`: whether it is ours; false when there is none. */
static bool find_ours(const char *path, struct tp_mount_entry *ret_where)
{
    struct tp_mount_table table;
    if (tp_mounts_read(TP_MOUNTS_FILE, &table) < 0)
        return false;
    const struct tp_mount_entry *entry = tp_mounts_at(&table, path);
    bool ours = tp_mounts_are_ours(entry);
    if (ours && ret_where != NULL)
        *ret_where = (struct tp_mount_entry){.major = entry->major, .minor = entry->minor};
    tp_mounts_clear(&table);
    return ours;
}

static bool is_mount_point(const char *path)
{
    struct tp_mount_table table;
    if (tp_mounts_read(TP_MOUNTS_FILE, &table) < 0)
        return false;
    bool found = tp_mounts_at(&table, path) != NULL;
    tp_mounts_clear(&table);
    return found;
}

/* Links are followed to the folder, unless that is a dead mount, which cannot be looked at. */
static char *resolve(const char *path)
{
    char *whole = realpath(path, NULL);
    return whole != NULL || !tp_mounts_code_is_dead(errno) ? whole : tp_mounts_resolve(path);
}

/* Takes away dead mounts and ours, one on top of the other. */
static int unmount_all(const char *path, struct tp_error *error)
{
    while (is_mount_point(path)) {
        if (!tp_mounts_is_dead(path) && !tp_mount_point_is_ours(path))
            break;
        int rc = tp_mount_point_detach(path);
        if (rc < 0)
            return tp_error_set(error, rc, "%s: cannot unmount what is there: %s", path,
                                strerror(-rc));
    }
    return 0;
}

static int check(const char *path, struct tp_error *error)
{
    struct stat status;
    if (stat(path, &status) < 0 && tp_mounts_code_is_dead(errno))
        return tp_error_set(error, -ENOTCONN,
                            "%s: a dead mount is in the way; use --replace, or 'fusermount3 -u'",
                            path);
    if (stat(path, &status) < 0)
        return tp_error_set(error, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(status.st_mode))
        return tp_error_set(error, -ENOTDIR, "%s: expected a folder to mount on", path);
    if (tp_mount_point_is_ours(path))
        return tp_error_set(error, -EBUSY,
                            "%s: a checkpoint is mounted there already; use --replace", path);
    return 0;
}

int tp_mount_point_prepare(const char *path, bool replace, char **ret_path, struct tp_error *error)
{
    char *resolved = resolve(path);
    if (resolved == NULL)
        return errno == ENOENT ? tp_error_set(error, -ENOENT,
                                              "%s: no such folder; make it with 'mkdir -p'", path)
                               : tp_error_set(error, -errno, "%s: %s", path, strerror(errno));
    int rc = replace ? unmount_all(resolved, error) : 0;
    if (rc == 0)
        rc = check(resolved, error);
    if (rc < 0) {
        free(resolved);
        return rc;
    }
    *ret_path = resolved;
    return 0;
}

/* Where an open file really lies: the shards of a hub cache are links into another folder. */
static bool covers_source(const char *mount_point, const struct tp_source *source)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", source->fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return false;
    path[length] = '\0';
    return tp_mounts_cover(mount_point, path);
}

int tp_mount_point_check_source(const char *mount_point, const struct tp_checkpoint *checkpoint,
                                struct tp_error *error)
{
    bool hit = tp_mounts_cover(mount_point, checkpoint->path);
    for (size_t i = 0; !hit && i < checkpoint->n_shards; i++)
        hit = covers_source(mount_point, &checkpoint->shards[i]);
    for (size_t i = 0; !hit && i < checkpoint->n_others; i++)
        hit = covers_source(mount_point, &checkpoint->others[i]);
    if (!hit)
        return 0;
    return tp_error_set(error, -EINVAL,
                        "%s: would cover the checkpoint %s; mount it somewhere else", mount_point,
                        checkpoint->path);
}

int tp_mount_point_detach(const char *mount_point)
{
    return tp_mounts_unmount(mount_point, TP_UNMOUNT_LAZY);
}

bool tp_mount_point_is_ours(const char *mount_point)
{
    return find_ours(mount_point, NULL);
}

int tp_mount_point_open_read_ahead(const char *mount_point)
{
    struct tp_mount_entry entry;
    char path[64];
    if (!find_ours(mount_point, &entry))
        return -1;
    snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/read_ahead_kb", entry.major, entry.minor);
    return open(path, O_WRONLY | O_CLOEXEC);
}
