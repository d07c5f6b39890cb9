#include "fs/base/mounts.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the table ---- */

static bool is_octal(char c)
{
    return c >= '0' && c <= '7';
}

/* Undoes the \040 escapes of the kernel. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0';) {
        if (from[0] == '\\' && is_octal(from[1]) && is_octal(from[2]) && is_octal(from[3])) {
            *to++ = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
            from += 4;
        } else {
            *to++ = *from++;
        }
    }
    *to = '\0';
}

/* A copy of the next word of *text, which moves on behind it; NULL at the end or without memory. */
static char *take_word(const char **text)
{
    const char *start = *text + strspn(*text, " ");
    size_t length = strcspn(start, " \n");
    *text = start + length;
    char *word = length > 0 ? strndup(start, length) : NULL;
    if (word != NULL)
        unescape(word);
    return word;
}

static void clear_entry(struct tp_mount_entry *entry)
{
    free(entry->path);
    free(entry->type);
    free(entry->source);
}

/* "36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue" */
static bool parse_line(const char *text, struct tp_mount_entry *ret_entry)
{
    struct tp_mount_entry entry = {.user = 0};
    int at = 0;
    const char *tail = strstr(text, " - ");
    if (tail == NULL ||
        sscanf(text, "%*d %*d %u:%u %*s %n", &entry.major, &entry.minor, &at) != 2 || at == 0)
        return false;
    const char *head = text + at;
    tail += strlen(" - ");
    entry.path = take_word(&head);
    entry.type = take_word(&tail);
    entry.source = take_word(&tail);
    const char *user = strstr(tail, "user_id=");
    if (user != NULL)
        entry.user = (uid_t)strtoul(user + strlen("user_id="), NULL, 10);
    if (entry.path == NULL || entry.type == NULL || entry.source == NULL) {
        clear_entry(&entry);
        return false;
    }
    *ret_entry = entry;
    return true;
}

static int add_entry(struct tp_mount_table *table, const struct tp_mount_entry *entry)
{
    struct tp_mount_entry *more = realloc(table->entries, (table->n + 1) * sizeof *more);
    if (more == NULL)
        return -ENOMEM;
    more[table->n++] = *entry;
    table->entries = more;
    return 0;
}

int tp_mounts_read(const char *file, struct tp_mount_table *ret_table)
{
    FILE *stream = fopen(file, "re");
    if (stream == NULL)
        return -errno;
    struct tp_mount_table table = {0};
    struct tp_mount_entry entry;
    char *text = NULL;
    size_t size = 0;
    int rc = 0;
    while (rc == 0 && getline(&text, &size, stream) > 0) {
        if (!parse_line(text, &entry))
            continue;
        rc = add_entry(&table, &entry);
        if (rc < 0)
            clear_entry(&entry);
    }
    free(text);
    fclose(stream);
    if (rc < 0)
        tp_mounts_clear(&table);
    else
        *ret_table = table;
    return rc;
}

void tp_mounts_clear(struct tp_mount_table *table)
{
    for (size_t i = 0; i < table->n; i++)
        clear_entry(&table->entries[i]);
    free(table->entries);
    *table = (struct tp_mount_table){0};
}

const struct tp_mount_entry *tp_mounts_at(const struct tp_mount_table *table, const char *path)
{
    for (size_t i = table->n; i > 0; i--) {
        if (strcmp(table->entries[i - 1].path, path) == 0)
            return &table->entries[i - 1];
    }
    return NULL;
}

const struct tp_mount_entry *tp_mounts_around(const struct tp_mount_table *table, const char *path)
{
    const struct tp_mount_entry *best = NULL;
    for (size_t i = 0; i < table->n; i++) {
        const struct tp_mount_entry *entry = &table->entries[i];
        if (tp_mounts_cover(entry->path, path) &&
            (best == NULL || strlen(entry->path) >= strlen(best->path)))
            best = entry;
    }
    return best;
}

bool tp_mounts_are_ours(const struct tp_mount_entry *entry)
{
    return entry != NULL && strcmp(entry->type, TP_MOUNT_TYPE) == 0;
}

/* ---- paths ---- */

bool tp_mounts_cover(const char *folder, const char *path)
{
    size_t length = strlen(folder);
    if (strcmp(folder, "/") == 0)
        return true;
    return strncmp(folder, path, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

/* The second one while it is still going down. */
bool tp_mounts_code_is_dead(int code)
{
    return code == ENOTCONN || code == ECONNABORTED || code == ECONNREFUSED;
}

bool tp_mounts_is_dead(const char *path)
{
    struct stat status;
    return stat(path, &status) < 0 && tp_mounts_code_is_dead(errno);
}

char *tp_mounts_resolve(const char *path)
{
    char *copy = strdup(path), *resolved = NULL;
    if (copy == NULL)
        return NULL;
    size_t length = strlen(copy);
    while (length > 1 && copy[length - 1] == '/')
        copy[--length] = '\0';
    char *slash = strrchr(copy, '/');
    const char *last = slash != NULL ? slash + 1 : copy;
    if (*last == '\0' || strcmp(last, ".") == 0 || strcmp(last, "..") == 0) {
        free(copy);
        return realpath(path, NULL);
    }
    if (slash != NULL)
        *slash = '\0';
    char *parent = realpath(slash == NULL ? "." : slash == copy ? "/" : copy, NULL);
    if (parent != NULL &&
        asprintf(&resolved, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, last) < 0)
        resolved = NULL;
    int code = errno;
    free(parent);
    free(copy);
    errno = code;
    return resolved;
}

/* ---- unmounting ---- */

static int run_fusermount(const char *path, bool lazy)
{
    char *const arguments[] = {(char *)"fusermount3", (char *)(lazy ? "-uz" : "-u"),
                               (char *)"-q",          (char *)"--",
                               (char *)path,          NULL};
    pid_t child;
    int status = 0;
    int rc = posix_spawnp(&child, arguments[0], NULL, NULL, arguments, environ);
    if (rc != 0)
        return -rc;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return lazy ? -EPERM : -EBUSY;
}

int tp_mounts_unmount(const char *path, enum tp_unmount how)
{
    bool lazy = how == TP_UNMOUNT_LAZY;
    if (geteuid() != 0)
        return run_fusermount(path, lazy);
    return umount2(path, (lazy ? MNT_DETACH : 0) | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
}
