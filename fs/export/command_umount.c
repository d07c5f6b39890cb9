/* `tensorport umount`: takes away our mounts, dead ones included, and says who is in the way. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/mounts.h"
#include "fs/base/options.h"
#include "fs/export/commands.h"
#include "fs/export/mounts/mount_users.h"

struct command {
    bool all;
    bool lazy;
};

static const struct tp_option options[] = {
    {"all", 'a', NULL, "all mounts of tensorport-mount (yours; as root: everybody's)"},
    {"lazy", 'l', NULL, "also if in use: open files stay readable until they are closed"},
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {
    .name = "tensorport umount",
    .arguments = "MOUNTPOINT...",
    .summary = "Unmounts checkpoints, dead mounts included. If one is in use, says by whom.",
    .options = options,
};

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    struct command *command = context;
    (void)value;
    (void)error;
    if (strcmp(option->name, "all") == 0)
        command->all = true;
    else
        command->lazy = true;
    return 0;
}

static int say(int rc, const struct tp_error *error)
{
    fprintf(stderr, "%s: %s\n", program.name, error->text);
    return rc;
}

/* A mount that lies inside this one, and keeps it busy; or NULL. */
static const char *find_inner(const struct tp_mount_table *table, const char *path)
{
    for (size_t i = table->n; i > 0; i--) {
        const char *inner = table->entries[i - 1].path;
        if (strcmp(inner, path) != 0 && tp_mounts_cover(path, inner))
            return inner;
    }
    return NULL;
}

static int explain_busy(const struct tp_mount_table *table, const char *path,
                        struct tp_error *error)
{
    struct tp_error users;
    const char *inner = find_inner(table, path);
    if (inner != NULL)
        return tp_error_set(error, -EBUSY, "%s: in use: %s is mounted in it; unmount that first",
                            path, inner);
    tp_mount_users_describe(path, &users);
    return tp_error_set(
        error, -EBUSY, "%s: in use by %s; end that, or use 'tensorport umount --lazy %s'", path,
        users.text[0] != '\0' ? users.text : "a process that you may not look at", path);
}

static int unmount(const struct command *command, const struct tp_mount_table *table,
                   const struct tp_mount_entry *entry, struct tp_error *error)
{
    if (geteuid() != 0 && entry->user != geteuid())
        return tp_error_set(error, -EPERM,
                            "%s: user %u has mounted it; they or root can unmount it: "
                            "'sudo tensorport umount %s'",
                            entry->path, (unsigned)entry->user, entry->path);
    int rc = tp_mounts_unmount(entry->path, command->lazy ? TP_UNMOUNT_LAZY : TP_UNMOUNT_IDLE);
    if (rc == -EBUSY)
        return explain_busy(table, entry->path, error);
    if (rc == -ENOENT && geteuid() != 0)
        return tp_error_set(error, rc, "fusermount3: not found; install the package fuse3");
    return rc == 0 ? 0
                   : tp_error_set(error, rc, "%s: cannot unmount: %s", entry->path, strerror(-rc));
}

/* The mount that the argument means, or NULL with a message. Links to it are followed only if it is
 * not found as it is: that may wait for its daemon. */
static const struct tp_mount_entry *find(const struct tp_mount_table *table, const char *argument,
                                         struct tp_error *error)
{
    char *path = tp_mounts_resolve(argument);
    const struct tp_mount_entry *entry = path != NULL ? tp_mounts_at(table, path) : NULL;
    if (entry == NULL) {
        free(path);
        path = realpath(argument, NULL);
        entry = path != NULL ? tp_mounts_at(table, path) : NULL;
    }
    if (path == NULL) {
        tp_error_set(error, 0, "%s: %s", argument, strerror(errno));
    } else if (entry == NULL) {
        const struct tp_mount_entry *around = tp_mounts_around(table, path);
        bool ours = tp_mounts_are_ours(around);
        tp_error_set(error, 0, "%s: nothing is mounted there; %s%s", argument,
                     ours ? "it lies in the mount " : "see 'tensorport mounts'",
                     ours ? around->path : "");
    } else if (!tp_mounts_are_ours(entry)) {
        tp_error_set(error, 0, "%s: not a mount of tensorport-mount but of type %s; use umount(8)",
                     argument, entry->type);
        entry = NULL;
    }
    free(path);
    return entry;
}

static int unmount_named(const struct command *command, const char *argument)
{
    struct tp_mount_table table;
    struct tp_error error;
    int rc = tp_mounts_read(TP_MOUNTS_FILE, &table);
    if (rc < 0) {
        tp_error_set(&error, rc, "%s: %s", TP_MOUNTS_FILE, strerror(-rc));
        return say(rc, &error);
    }
    const struct tp_mount_entry *entry = find(&table, argument, &error);
    rc = entry == NULL ? -EINVAL : unmount(command, &table, entry, &error);
    tp_mounts_clear(&table);
    return rc < 0 ? say(rc, &error) : 0;
}

/* From the top down: one may lie in another. */
static int unmount_all(const struct command *command)
{
    struct tp_mount_table table;
    struct tp_error error;
    int rc = tp_mounts_read(TP_MOUNTS_FILE, &table);
    if (rc < 0) {
        tp_error_set(&error, rc, "%s: %s", TP_MOUNTS_FILE, strerror(-rc));
        return say(rc, &error);
    }
    for (size_t i = table.n; i > 0; i--) {
        const struct tp_mount_entry *entry = &table.entries[i - 1];
        if (!tp_mounts_are_ours(entry) || (geteuid() != 0 && entry->user != geteuid()))
            continue;
        int failed = unmount(command, &table, entry, &error);
        if (failed < 0)
            rc = say(failed, &error);
    }
    tp_mounts_clear(&table);
    return rc;
}

int tp_command_umount(int argc, char **argv)
{
    struct command command = {.all = false};
    enum tp_options_result result;
    struct tp_error error;
    int n, status = 0;
    int rc =
        tp_options_parse(&program, argc, argv, handle_option, &command, &result, &n, &argv, &error);
    if (rc == 0 && result == TP_OPTIONS_DONE)
        return 0;
    if (rc == 0 && (n == 0) != command.all)
        rc = tp_error_set(&error, -EINVAL, "expected %s; see '%s --help'",
                          n == 0 ? "a MOUNTPOINT, or --all" : "no MOUNTPOINT beside --all",
                          program.name);
    if (rc < 0) {
        say(rc, &error);
        return 2;
    }
    if (command.all)
        return unmount_all(&command) < 0 ? 1 : 0;
    for (int i = 0; i < n; i++) {
        if (unmount_named(&command, argv[i]) < 0)
            status = 1;
    }
    return status;
}
