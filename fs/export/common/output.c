#include "fs/export/common/output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/base/io.h"

enum { COPY_BYTES = 1 << 18 };

struct output_file {
    char *name;
    char *partial; /* what it is called until the commit */
    int fd;        /* -1: complete */
    bool renamed;
};

struct tp_output {
    char *path; /* for messages and for removing the folder */
    int directory;
    bool made, committed;
    struct output_file *files;
    size_t n_files;
    char **folders; /* made for files, outer ones first */
    size_t n_folders;
};

/* "a/b.partial" for "a/b"; "a/.7.partial" for the seventh file if the name is too long for that.
 * NULL when out of memory. */
static char *make_partial_name(const char *name, size_t number)
{
    static const char suffix[] = ".partial";
    const char *slash = strrchr(name, '/'), *base = slash == NULL ? name : slash + 1;
    char *partial;
    int length = strlen(base) + sizeof suffix <= NAME_MAX + 1
                     ? asprintf(&partial, "%s%s", name, suffix)
                     : asprintf(&partial, "%.*s.%zu%s", (int)(base - name), name, number, suffix);
    return length < 0 ? NULL : partial;
}

static int fail_at(const char *path, const char *what, int rc, struct tp_error *error)
{
    return tp_error_set(error, rc, "%s: cannot %s: %s", path, what, strerror(-rc));
}

/* 0, -ENOTEMPTY, or what reading the folder gives. */
static int check_empty(int directory)
{
    int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = copy < 0 ? NULL : fdopendir(copy);
    if (stream == NULL) {
        int rc = -errno;
        if (copy >= 0)
            close(copy);
        return rc;
    }
    int rc = 0;
    const struct dirent *entry;
    while (rc == 0 && (errno = 0, entry = readdir(stream)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = -ENOTEMPTY;
    }
    if (rc == 0)
        rc = -errno;
    closedir(stream);
    return rc;
}

static int open_folder(struct tp_output *output, const char *path, struct tp_error *error)
{
    output->made = mkdir(path, 0777) == 0;
    if (!output->made && errno != EEXIST)
        return fail_at(path, "make the folder", -errno, error);
    output->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (output->directory < 0)
        return fail_at(path, "open the folder", -errno, error);
    int rc = check_empty(output->directory);
    if (rc == -ENOTEMPTY)
        return tp_error_set(error, rc, "%s: the folder is not empty; name a new one", path);
    return rc < 0 ? fail_at(path, "list the folder", rc, error) : 0;
}

int tp_output_open(const char *path, struct tp_output **ret_output, struct tp_error *error)
{
    struct tp_output *output = calloc(1, sizeof *output);
    if (output == NULL || (output->path = strdup(path)) == NULL) {
        free(output);
        return tp_error_set(error, -ENOMEM, "out of memory");
    }
    output->directory = -1;
    int rc = open_folder(output, path, error);
    if (rc < 0)
        tp_output_close(output);
    else
        *ret_output = output;
    return rc;
}

static int fail_to_write(const struct tp_output *output, const char *name, int rc,
                         struct tp_error *error)
{
    return tp_error_set(error, rc, "%s/%s: cannot write: %s", output->path, name, strerror(-rc));
}

/* Makes the first `length` bytes of a name a folder, if there is none. */
static int make_folder(struct tp_output *output, const char *name, size_t length)
{
    char **folders = realloc(output->folders, (output->n_folders + 1) * sizeof *output->folders);
    if (folders == NULL)
        return -ENOMEM;
    output->folders = folders;
    char *folder = strndup(name, length);
    if (folder == NULL)
        return -ENOMEM;
    if (mkdirat(output->directory, folder, 0777) == 0) {
        folders[output->n_folders++] = folder;
        return 0;
    }
    int rc = errno == EEXIST ? 0 : -errno;
    free(folder);
    return rc;
}

static int make_folders(struct tp_output *output, const char *name)
{
    int rc = 0;
    for (const char *slash = strchr(name, '/'); rc == 0 && slash != NULL;
         slash = strchr(slash + 1, '/'))
        rc = make_folder(output, name, (size_t)(slash - name));
    return rc;
}

static int make_room(struct tp_output *output)
{
    struct output_file *files =
        realloc(output->files, (output->n_files + 1) * sizeof *output->files);
    if (files == NULL)
        return -ENOMEM;
    output->files = files;
    return 0;
}

/* Opens a new file; takes both names over in any case. */
static int create(struct tp_output *output, char *name, char *partial, int *ret_fd)
{
    int fd = -1, rc = name == NULL || partial == NULL ? -ENOMEM : make_room(output);
    if (rc == 0)
        rc = make_folders(output, name);
    if (rc == 0) {
        fd = openat(output->directory, partial, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        rc = fd < 0 ? -errno : 0;
    }
    if (fd < 0) {
        free(name);
        free(partial);
        return rc;
    }
    output->files[output->n_files++] = (struct output_file){name, partial, fd, false};
    *ret_fd = fd;
    return 0;
}

int tp_output_create(struct tp_output *output, const char *name, int *ret_fd,
                     struct tp_error *error)
{
    int rc = create(output, strdup(name), make_partial_name(name, output->n_files), ret_fd);
    return rc < 0 ? fail_to_write(output, name, rc, error) : 0;
}

int tp_output_complete(struct tp_output *output, int fd, struct timespec modified,
                       struct tp_error *error)
{
    const struct timespec times[] = {{.tv_nsec = UTIME_OMIT}, modified};
    struct output_file *file = output->files;
    while (file->fd != fd)
        file++;
    int rc = futimens(fd, times) < 0 || fsync(fd) < 0 ? -errno : 0;
    close(fd);
    file->fd = -1;
    return rc < 0 ? fail_to_write(output, file->name, rc, error) : 0;
}

int tp_output_add(struct tp_output *output, const char *name, const char *bytes, size_t length,
                  struct tp_error *error)
{
    int fd = -1;
    int rc = tp_output_create(output, name, &fd, error);
    if (rc < 0)
        return rc;
    rc = tp_write_at(fd, bytes, length, 0);
    return rc < 0 ? fail_to_write(output, name, rc, error) : 0;
}

/* Copies an open file; *ret_reading says on which side it failed. */
static int copy_bytes(int from, int to, bool *ret_reading)
{
    char *buffer = malloc(COPY_BYTES);
    off_t at = 0;
    int rc = buffer == NULL ? -ENOMEM : 0;
    while (rc == 0) {
        ssize_t n = pread(from, buffer, COPY_BYTES, at);
        if (n < 0 && errno == EINTR)
            continue;
        *ret_reading = n < 0;
        if (n <= 0) {
            rc = n < 0 ? -errno : 0;
            break;
        }
        rc = tp_write_at(to, buffer, (size_t)n, (uint64_t)at);
        at += n;
    }
    free(buffer);
    return rc;
}

/* Copies the open file `from`, which is called FOLDER/NAME. */
static int copy_open_file(struct tp_output *output, int from, const char *folder, const char *name,
                          struct tp_error *error)
{
    int to = -1;
    bool reading = true;
    int rc = tp_output_create(output, name, &to, error);
    if (rc == -EEXIST)
        return tp_error_set(error, rc, "%s/%s: the checkpoint has a file of that name already",
                            folder, name);
    if (rc < 0)
        return rc;
    rc = copy_bytes(from, to, &reading);
    if (rc < 0 && reading)
        return tp_error_set(error, rc, "%s/%s: cannot read: %s", folder, name, strerror(-rc));
    return rc < 0 ? fail_to_write(output, name, rc, error) : 0;
}

/* Copies `name` if it is a regular file. */
static int copy_file(struct tp_output *output, const char *folder, int directory, const char *name,
                     struct tp_error *error)
{
    struct stat status;
    if (fstatat(directory, name, &status, 0) == 0 && !S_ISREG(status.st_mode))
        return 0;
    int from = openat(directory, name, O_RDONLY | O_CLOEXEC);
    int rc = from < 0 ? -errno : 0;
    if (rc < 0)
        return tp_error_set(error, rc, "%s/%s: cannot open: %s", folder, name, strerror(-rc));
    rc = copy_open_file(output, from, folder, name, error);
    close(from);
    return rc;
}

int tp_output_copy(struct tp_output *output, const char *folder, struct tp_error *error)
{
    DIR *stream = opendir(folder);
    if (stream == NULL)
        return fail_at(folder, "open the folder", -errno, error);
    int rc = 0;
    const struct dirent *entry;
    while (rc == 0 && (errno = 0, entry = readdir(stream)) != NULL)
        rc = copy_file(output, folder, dirfd(stream), entry->d_name, error);
    if (rc == 0 && errno != 0)
        rc = fail_at(folder, "list the folder", -errno, error);
    closedir(stream);
    return rc;
}

/* Some file systems cannot, and need not. */
static void flush_folder(int directory, const char *name)
{
    int fd = openat(directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    fsync(fd);
    close(fd);
}

int tp_output_commit(struct tp_output *output, struct tp_error *error)
{
    for (size_t i = 0; i < output->n_files; i++) {
        if (output->files[i].fd >= 0 && fsync(output->files[i].fd) < 0)
            return fail_to_write(output, output->files[i].name, -errno, error);
    }
    for (size_t i = 0; i < output->n_files; i++) {
        struct output_file *file = &output->files[i];
        if (renameat(output->directory, file->partial, output->directory, file->name) < 0)
            return fail_to_write(output, file->name, -errno, error);
        file->renamed = true;
    }
    for (size_t i = output->n_folders; i-- > 0;)
        flush_folder(output->directory, output->folders[i]);
    flush_folder(output->directory, ".");
    output->committed = true;
    return 0;
}

static void close_file(const struct tp_output *output, const struct output_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    if (!output->committed)
        unlinkat(output->directory, file->renamed ? file->name : file->partial, 0);
    free(file->name);
    free(file->partial);
}

void tp_output_close(struct tp_output *output)
{
    if (output == NULL)
        return;
    for (size_t i = 0; i < output->n_files; i++)
        close_file(output, &output->files[i]);
    for (size_t i = output->n_folders; i-- > 0;) {
        if (!output->committed)
            unlinkat(output->directory, output->folders[i], AT_REMOVEDIR);
        free(output->folders[i]);
    }
    free(output->folders);
    if (output->directory >= 0)
        close(output->directory);
    if (output->made && !output->committed)
        rmdir(output->path);
    free(output->files);
    free(output->path);
    free(output);
}
