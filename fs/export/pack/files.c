#include "fs/export/pack/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A checkpoint has one or two levels; a loop of mounts has no end. */
enum { DEPTH_MAX = 32 };

struct listing {
    struct tp_file_list *list;
    const struct tp_log *log;
    struct tp_error *error;
};

static int fail(struct listing *listing, const char *name, int rc)
{
    return tp_error_set(listing->error, rc, "%s%s%s: %s", listing->list->folder,
                        name[0] == '\0' ? "" : "/", name, strerror(-rc));
}

/* Takes `name` over in any case. */
static int add(struct listing *listing, char *name, off_t size)
{
    struct tp_file_list *list = listing->list;
    if ((list->n & (list->n - 1)) == 0) { /* the arrays double */
        size_t room = list->n == 0 ? 1 : 2 * list->n;
        char **names = realloc(list->names, room * sizeof *names);
        if (names != NULL)
            list->names = names;
        uint64_t *sizes = realloc(list->sizes, room * sizeof *sizes);
        if (sizes != NULL)
            list->sizes = sizes;
        if (names == NULL || sizes == NULL) {
            free(name);
            return fail(listing, "", -ENOMEM);
        }
    }
    list->names[list->n] = name;
    list->sizes[list->n++] = (uint64_t)size;
    return 0;
}

static int compare_entries(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_no_dot(const struct dirent *entry)
{
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static int list_folder(struct listing *listing, const char *folder, unsigned depth);

/* Takes `name` over in any case. */
static int list_entry(struct listing *listing, char *name, unsigned depth)
{
    struct stat entry, target;
    int directory = listing->list->directory, rc = 0;
    if (fstatat(directory, name, &entry, AT_SYMLINK_NOFOLLOW) < 0 ||
        fstatat(directory, name, &target, 0) < 0)
        rc = fail(listing, name, -errno);
    else if (S_ISREG(target.st_mode))
        return add(listing, name, target.st_size);
    else if (S_ISDIR(entry.st_mode))
        rc = list_folder(listing, name, depth + 1);
    else
        tp_log(listing->log, TP_LOG_WARNING, "%s: neither a file nor a folder; left out", name);
    free(name);
    return rc;
}

static int list_folder(struct listing *listing, const char *folder, unsigned depth)
{
    struct dirent **entries;
    if (depth > DEPTH_MAX)
        return fail(listing, folder, -ELOOP);
    int n = scandirat(listing->list->directory, folder[0] == '\0' ? "." : folder, &entries,
                      is_no_dot, compare_entries);
    int rc = n < 0 ? fail(listing, folder, -errno) : 0;
    for (int i = 0; i < n; i++) {
        char *name = NULL;
        if (rc == 0 &&
            asprintf(&name, "%s%s%s", folder, folder[0] == '\0' ? "" : "/", entries[i]->d_name) < 0)
            rc = fail(listing, folder, -ENOMEM);
        else if (rc == 0)
            rc = list_entry(listing, name, depth);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    return rc;
}

/* The folder of a file, with its last slash off; "." if it has none. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

int tp_file_list_open(const char *path, const struct tp_log *log, struct tp_file_list *ret_list,
                      struct tp_error *error)
{
    struct tp_file_list list = {.directory = -1};
    struct listing listing = {&list, log, error};
    struct stat status;
    if (stat(path, &status) < 0)
        return tp_error_set(error, -errno, "%s: %s", path, strerror(errno));
    bool is_folder = S_ISDIR(status.st_mode);
    if ((list.folder = is_folder ? strdup(path) : folder_of(path)) == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    list.directory = open(list.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = list.directory < 0 ? fail(&listing, "", -errno) : 0;
    if (rc == 0 && is_folder) {
        rc = list_folder(&listing, "", 0);
    } else if (rc == 0) {
        const char *slash = strrchr(path, '/');
        char *name = strdup(slash == NULL ? path : slash + 1);
        rc = name == NULL ? fail(&listing, "", -ENOMEM) : list_entry(&listing, name, 0);
    }
    if (rc < 0)
        tp_file_list_close(&list);
    else
        *ret_list = list;
    return rc;
}

void tp_file_list_close(struct tp_file_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->names[i]);
    free(list->names);
    free(list->sizes);
    free(list->folder);
    if (list->directory >= 0)
        close(list->directory);
    *list = (struct tp_file_list){.directory = -1};
}
