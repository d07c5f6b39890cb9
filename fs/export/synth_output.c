#include "fs/export/synth_output.h"

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
    int fd;
    bool renamed;
};

struct tp_synth_output {
    char *path; /* for messages and for removing the folder */
    int directory;
    bool made, committed;
    struct output_file *files;
    size_t n_files;
};

typedef char partial_name[NAME_MAX + sizeof ".partial"];

static void make_partial_name(const char *name, partial_name ret_name)
{
    snprintf(ret_name, sizeof(partial_name), "%s.partial", name);
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

static int open_folder(struct tp_synth_output *output, const char *path, struct tp_error *error)
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

int tp_synth_output_open(const char *path, struct tp_synth_output **ret_output,
                         struct tp_error *error)
{
    struct tp_synth_output *output = calloc(1, sizeof *output);
    if (output == NULL || (output->path = strdup(path)) == NULL) {
        free(output);
        return tp_error_set(error, -ENOMEM, "out of memory");
    }
    output->directory = -1;
    int rc = open_folder(output, path, error);
    if (rc < 0)
        tp_synth_output_close(output);
    else
        *ret_output = output;
    return rc;
}

static int fail_to_write(const struct tp_synth_output *output, const char *name, int rc,
                         struct tp_error *error)
{
    return tp_error_set(error, rc, "%s/%s: cannot write: %s", output->path, name, strerror(-rc));
}

int tp_synth_output_create(struct tp_synth_output *output, const char *name, int *ret_fd,
                           struct tp_error *error)
{
    partial_name partial;
    struct output_file *files =
        realloc(output->files, (output->n_files + 1) * sizeof *output->files);
    if (files == NULL)
        return fail_to_write(output, name, -ENOMEM, error);
    output->files = files;
    char *copy = strdup(name);
    if (copy == NULL)
        return fail_to_write(output, name, -ENOMEM, error);
    make_partial_name(name, partial);
    int fd = openat(output->directory, partial, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        int rc = -errno;
        free(copy);
        return fail_to_write(output, name, rc, error);
    }
    files[output->n_files++] = (struct output_file){copy, fd, false};
    *ret_fd = fd;
    return 0;
}

int tp_synth_output_add(struct tp_synth_output *output, const char *name, const char *bytes,
                        size_t length, struct tp_error *error)
{
    int fd = -1;
    int rc = tp_synth_output_create(output, name, &fd, error);
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
static int copy_open_file(struct tp_synth_output *output, int from, const char *folder,
                          const char *name, struct tp_error *error)
{
    int to = -1;
    bool reading = true;
    int rc = tp_synth_output_create(output, name, &to, error);
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
static int copy_file(struct tp_synth_output *output, const char *folder, int directory,
                     const char *name, struct tp_error *error)
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

int tp_synth_output_copy(struct tp_synth_output *output, const char *folder, struct tp_error *error)
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

static int rename_file(struct tp_synth_output *output, struct output_file *file)
{
    partial_name partial;
    make_partial_name(file->name, partial);
    if (renameat(output->directory, partial, output->directory, file->name) < 0)
        return -errno;
    file->renamed = true;
    return 0;
}

int tp_synth_output_commit(struct tp_synth_output *output, struct tp_error *error)
{
    for (size_t i = 0; i < output->n_files; i++) {
        if (fsync(output->files[i].fd) < 0)
            return fail_to_write(output, output->files[i].name, -errno, error);
    }
    for (size_t i = 0; i < output->n_files; i++) {
        int rc = rename_file(output, &output->files[i]);
        if (rc < 0)
            return fail_to_write(output, output->files[i].name, rc, error);
    }
    fsync(output->directory); /* some file systems cannot, and need not */
    output->committed = true;
    return 0;
}

static void remove_file(const struct tp_synth_output *output, const struct output_file *file)
{
    partial_name partial;
    make_partial_name(file->name, partial);
    unlinkat(output->directory, file->renamed ? file->name : partial, 0);
}

void tp_synth_output_close(struct tp_synth_output *output)
{
    if (output == NULL)
        return;
    for (size_t i = 0; i < output->n_files; i++) {
        close(output->files[i].fd);
        if (!output->committed)
            remove_file(output, &output->files[i]);
        free(output->files[i].name);
    }
    if (output->directory >= 0)
        close(output->directory);
    if (output->made && !output->committed)
        rmdir(output->path);
    free(output->files);
    free(output->path);
    free(output);
}
