#include "fs/export/mounts/mount_users.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/mounts.h"

enum { SHOWN_MAX = 8 };

/* Whether the link `name` of a process leads below the mount point. */
static bool link_leads(int folder, const char *name, const char *mount_point)
{
    char target[PATH_MAX];
    ssize_t length = readlinkat(folder, name, target, sizeof target - 1);
    if (length <= 0)
        return false;
    target[length] = '\0';
    return tp_mounts_cover(mount_point, target);
}

static bool has_open(int process, const char *mount_point)
{
    int fd = openat(process, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    bool found = false;
    if (folder == NULL) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    for (struct dirent *entry; !found && (entry = readdir(folder)) != NULL;)
        found = isdigit((unsigned char)entry->d_name[0]) &&
                link_leads(dirfd(folder), entry->d_name, mount_point);
    closedir(folder);
    return found;
}

/* A line of maps: "7f00-7f01 r--p 00000000 00:35 12      /path". */
static bool has_mapped(int process, const char *mount_point)
{
    int fd = openat(process, "maps", O_RDONLY | O_CLOEXEC);
    FILE *stream = fd < 0 ? NULL : fdopen(fd, "r");
    char *line = NULL;
    size_t size = 0;
    bool found = false;
    if (stream == NULL) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    while (!found && getline(&line, &size, stream) > 0) {
        const char *path = strchr(line, '/');
        if (path != NULL) {
            line[strcspn(line, "\n")] = '\0';
            found = tp_mounts_cover(mount_point, path);
        }
    }
    free(line);
    fclose(stream);
    return found;
}

static bool uses(int process, const char *mount_point)
{
    return link_leads(process, "cwd", mount_point) || link_leads(process, "root", mount_point) ||
           link_leads(process, "exe", mount_point) || has_open(process, mount_point) ||
           has_mapped(process, mount_point);
}

static void read_name(int process, char name[32])
{
    int fd = openat(process, "comm", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, name, 31);
    if (fd >= 0)
        close(fd);
    name[length > 0 ? length : 0] = '\0';
    name[strcspn(name, "\n")] = '\0';
}

void tp_mount_users_describe(const char *mount_point, struct tp_error *ret_text)
{
    char text[SHOWN_MAX * 64 + 32] = "", name[32];
    size_t n = 0, at = 0;
    DIR *folder = opendir("/proc");
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        int process = openat(dirfd(folder), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (process >= 0 && uses(process, mount_point) && n++ < SHOWN_MAX) {
            read_name(process, name);
            at += (size_t)snprintf(text + at, sizeof text - at, "%s%.10s (%s)", n > 1 ? ", " : "",
                                   entry->d_name, name);
        }
        if (process >= 0)
            close(process);
    }
    if (n > SHOWN_MAX)
        snprintf(text + at, sizeof text - at, " and %zu more", n - SHOWN_MAX);
    if (folder != NULL)
        closedir(folder);
    tp_error_set(ret_text, 0, "%s", text);
}
