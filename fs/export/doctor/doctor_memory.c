/* How much memory there is for us: the least limit of our cgroup and those above it, in version 1
 * or 2 (cgroups(7)), or else the machine's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/export/doctor/doctor.h"

/* Version 1 says "no limit" with a number close to 2^63. */
static const uint64_t NO_LIMIT = UINT64_C(1) << 60;

static void take_limit(const struct tp_doctor *doctor, const char *file,
                       struct tp_memory_limit *limit)
{
    char *end, *text = tp_doctor_read(doctor, file);
    if (text == NULL)
        return;
    unsigned long long bytes = strtoull(text, &end, 10); /* "max" is no number */
    if (end != text && bytes < NO_LIMIT && bytes < limit->bytes) {
        limit->bytes = bytes;
        limit->is_cgroup = true;
        snprintf(limit->file, sizeof limit->file, "%s", file);
    }
    free(text);
}

/* `group` and the groups above it, up to the root. In a container the path may be that of the host,
 * which is not there; the root then is the container's own group. */
static void walk_up(const struct tp_doctor *doctor, const char *hierarchy, const char *group,
                    const char *name, struct tp_memory_limit *limit)
{
    char path[PATH_MAX], file[PATH_MAX];
    snprintf(path, sizeof path, "%s", group);
    for (;;) {
        size_t length = strlen(path);
        while (length > 0 && path[length - 1] == '/')
            path[--length] = '\0';
        if (snprintf(file, sizeof file, "%s%s/%s", hierarchy, path, name) < (int)sizeof file)
            take_limit(doctor, file, limit);
        char *slash = strrchr(path, '/');
        if (slash == NULL)
            return;
        *slash = '\0';
    }
}

/* A line of /proc/self/cgroup: "0::/user.slice" (2) or "9:memory,hugetlb:/docker/ab12" (1). */
static void take_group(const struct tp_doctor *doctor, char *line, struct tp_memory_limit *limit)
{
    char *controllers = strchr(line, ':');
    char *group = controllers == NULL ? NULL : strchr(controllers + 1, ':');
    if (group == NULL)
        return;
    *group++ = '\0';
    controllers++;
    if (controllers[0] == '\0') {
        walk_up(doctor, "/sys/fs/cgroup", group, "memory.max", limit);
        walk_up(doctor, "/sys/fs/cgroup", group, "memory.high", limit);
        walk_up(doctor, "/sys/fs/cgroup/unified", group, "memory.max", limit);
        return;
    }
    char *rest = controllers;
    for (char *word; (word = strsep(&rest, ",")) != NULL;) {
        if (strcmp(word, "memory") == 0)
            walk_up(doctor, "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes", limit);
    }
}

bool tp_doctor_find_memory(const struct tp_doctor *doctor, struct tp_memory_limit *ret_limit)
{
    struct tp_memory_limit limit = {.bytes = UINT64_MAX, .file = "/proc/meminfo"};
    char *text = tp_doctor_read(doctor, "/proc/meminfo");
    unsigned long long kilobytes;
    const char *total = text == NULL ? NULL : strstr(text, "MemTotal:");
    if (total != NULL && sscanf(total, "MemTotal: %llu kB", &kilobytes) == 1 &&
        kilobytes < NO_LIMIT / 1024)
        limit.bytes = kilobytes * 1024;
    free(text);
    char *groups = tp_doctor_read(doctor, "/proc/self/cgroup");
    char *rest = groups;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;)
        take_group(doctor, line, &limit);
    free(groups);
    if (limit.bytes == UINT64_MAX)
        return false;
    *ret_limit = limit;
    return true;
}
