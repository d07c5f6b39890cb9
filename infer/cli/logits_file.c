#include "infer/cli/logits_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decode/npy.h"
#include "fs/base/io.h"

static int fail(const struct tp_logits_file *file, int rc, struct tp_error *error)
{
    return tp_error_set(error, rc, "%s: cannot write: %s", file->path, strerror(-rc));
}

/* `name` in the folder of `path`. */
static char *name_beside(const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');
    char *text;
    if (asprintf(&text, "%.*s%s", slash != NULL ? (int)(slash + 1 - path) : 0, path, name) < 0)
        return NULL;
    return text;
}

/* A file without a name goes away by itself, however the program ends. Where there is no such thing
 * (NFS) it has its temporary name from the beginning. */
static int create(struct tp_logits_file *file)
{
    char *folder = name_beside(file->path, "."), name[64];
    snprintf(name, sizeof name, ".tpinfer-logits-%ld", (long)getpid());
    file->partial = name_beside(file->path, name);
    if (folder == NULL || file->partial == NULL) {
        free(folder);
        return -ENOMEM;
    }
    file->fd = open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    file->has_name = file->fd < 0;
    free(folder);
    if (file->fd < 0)
        file->fd = open(file->partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return file->fd < 0 ? -errno : 0;
}

int tp_logits_file_open(struct tp_logits_file *file, const char *path, size_t vocabulary,
                        struct tp_error *error)
{
    const uint64_t shape[] = {0, vocabulary};
    struct stat status;
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode)) /* its name must not be taken over */
        return tp_error_set(error, -EINVAL, "%s: expected a regular file, or a new one", path);
    *file = (struct tp_logits_file){.path = path,
                                    .fd = -1,
                                    .vocabulary = vocabulary,
                                    .header_bytes = tp_npy_header_length(TP_F32, shape, 2)};
    int rc = create(file);
    return rc < 0 ? fail(file, rc, error) : 0;
}

int tp_logits_file_append(struct tp_logits_file *file, const float *rows, size_t n,
                          struct tp_error *error)
{
    size_t row = file->vocabulary * sizeof *rows;
    int rc = tp_write_at(file->fd, rows, n * row, file->header_bytes + file->n_rows * row);
    if (rc < 0)
        return fail(file, rc, error);
    file->n_rows += n;
    return 0;
}

/* Its length does not depend on the number of rows: numpy leaves room for the first axis to grow.
 */
static int write_header(struct tp_logits_file *file)
{
    const uint64_t shape[] = {file->n_rows, file->vocabulary};
    char *header = malloc(file->header_bytes);
    if (header == NULL)
        return -ENOMEM;
    tp_npy_header_write(TP_F32, shape, 2, header);
    int rc = tp_write_at(file->fd, header, file->header_bytes, 0);
    free(header);
    return rc;
}

/* rename() replaces what is there, linkat() does not: so it takes two names. */
static int give_name(struct tp_logits_file *file)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file->fd);
    if (!file->has_name && linkat(AT_FDCWD, link, AT_FDCWD, file->partial, AT_SYMLINK_FOLLOW) < 0)
        return -errno;
    file->has_name = true;
    return 0;
}

int tp_logits_file_commit(struct tp_logits_file *file, struct tp_error *error)
{
    int rc = write_header(file);
    if (rc == 0)
        rc = give_name(file);
    if (close(file->fd) < 0 && rc == 0) /* where a full disk may be told of at last */
        rc = -errno;
    file->fd = -1;
    if (rc == 0 && rename(file->partial, file->path) < 0)
        rc = -errno;
    if (rc < 0)
        return fail(file, rc, error);
    file->has_name = false;
    return 0;
}

void tp_logits_file_close(struct tp_logits_file *file)
{
    if (file->path == NULL)
        return;
    if (file->fd >= 0)
        close(file->fd);
    if (file->has_name)
        unlink(file->partial);
    free(file->partial);
    *file = (struct tp_logits_file){0};
}
