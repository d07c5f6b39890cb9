#include "fs/mount/mount_point.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A line of /proc/self/mountinfo (proc(5)). */
struct mount_line {
    unsigned major, minor;
    char path[PATH_MAX];
    char type[64];
};

/* Undoes the \040 escapes of the kernel. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0';) {
        unsigned code;
        if (from[0] == '\\' && sscanf(from + 1, "%3o", &code) == 1) {
            *to++ = (char)code;
            from += 4;
        } else {
            *to++ = *from++;
        }
    }
    *to = '\0';
}

static bool parse_mount_line(const char *text, struct mount_line *ret_line)
{
    const char *separator = strstr(text, " - ");
    if (separator == NULL || sscanf(separator, " - %63s", ret_line->type) != 1 ||
        sscanf(text, "%*d %*d %u:%u %*s %4095s", &ret_line->major, &ret_line->minor,
               ret_line->path) != 3)
        return false;
    unescape(ret_line->path);
    return true;
}

/* The topmost mount at exactly `path`; never touches the mount itself. */
static bool find_mount(const char *path, struct mount_line *ret_line)
{
    FILE *stream = fopen("/proc/self/mountinfo", "re");
    char *text = NULL;
    size_t size = 0;
    bool found = false;
    while (stream != NULL && getline(&text, &size, stream) > 0) {
        struct mount_line line;
        if (parse_mount_line(text, &line) && strcmp(line.path, path) == 0) {
            *ret_line = line; /* later lines lie on top of earlier ones */
            found = true;
        }
    }
    free(text);
    if (stream != NULL)
        fclose(stream);
    return found;
}

/* What a mount whose daemon has ended says; the second one while it is still going down. */
static bool is_dead(int code)
{
    return code == ENOTCONN || code == ECONNABORTED || code == ECONNREFUSED;
}

/* Resolves a path whose last component may be a dead mount, which cannot be looked at. */
static char *resolve(const char *path)
{
    char *whole = realpath(path, NULL);
    if (whole != NULL || !is_dead(errno))
        return whole;
    char *copy = strdup(path), *resolved = NULL;
    if (copy == NULL)
        return NULL;
    size_t length = strlen(copy);
    while (length > 1 && copy[length - 1] == '/')
        copy[--length] = '\0';
    char *slash = strrchr(copy, '/');
    const char *last = slash != NULL ? slash + 1 : copy;
    if (slash != NULL)
        *slash = '\0';
    char *parent = realpath(slash == NULL ? "." : slash == copy ? "/" : copy, NULL);
    if (parent != NULL &&
        asprintf(&resolved, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, last) < 0)
        resolved = NULL;
    free(parent);
    free(copy);
    return resolved;
}

/* Takes away dead mounts and ours, one on top of the other. */
static int unmount_all(const char *path, struct tp_error *error)
{
    struct mount_line line;
    struct stat status;
    while (find_mount(path, &line)) {
        bool dead = stat(path, &status) < 0 && is_dead(errno);
        if (!dead && strcmp(line.type, TP_MOUNT_TYPE) != 0)
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
    struct mount_line line;
    struct stat status;
    if (stat(path, &status) < 0 && is_dead(errno))
        return tp_error_set(error, -ENOTCONN,
                            "%s: a dead mount is in the way; use --replace, or 'fusermount3 -u'",
                            path);
    if (stat(path, &status) < 0)
        return tp_error_set(error, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(status.st_mode))
        return tp_error_set(error, -ENOTDIR, "%s: expected a folder to mount on", path);
    if (find_mount(path, &line) && strcmp(line.type, TP_MOUNT_TYPE) == 0)
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

static bool covers(const char *mount_point, const char *path)
{
    size_t length = strlen(mount_point);
    if (strcmp(mount_point, "/") == 0)
        return true;
    return strncmp(mount_point, path, length) == 0 && (path[length] == '/' || path[length] == '\0');
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
    return covers(mount_point, path);
}

int tp_mount_point_check_source(const char *mount_point, const struct tp_checkpoint *checkpoint,
                                struct tp_error *error)
{
    bool hit = covers(mount_point, checkpoint->path);
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
    if (geteuid() == 0)
        return umount2(mount_point, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
    char *const arguments[] = {
        (char *)"fusermount3", (char *)"-u",        (char *)"-z", (char *)"-q",
        (char *)"--",          (char *)mount_point, NULL};
    pid_t child;
    int status = 0;
    int rc = posix_spawnp(&child, arguments[0], NULL, NULL, arguments, environ);
    if (rc != 0)
        return -rc;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPERM;
}

bool tp_mount_point_is_ours(const char *mount_point)
{
    struct mount_line line;
    return find_mount(mount_point, &line) && strcmp(line.type, TP_MOUNT_TYPE) == 0;
}

int tp_mount_point_open_read_ahead(const char *mount_point)
{
    struct mount_line line;
    char path[64];
    if (!find_mount(mount_point, &line))
        return -1;
    snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/read_ahead_kb", line.major, line.minor);
    return open(path, O_WRONLY | O_CLOEXEC);
}
