#include "fs/checkpoint/source.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "decode/packed.h"
#include "fs/base/gate.h"
#include "fs/checkpoint/packed.h"

/* Opens the file and notes what it is; the names are not set yet. */
static int open_stored(struct tp_source *source, int directory, const char *stored_name,
                       const struct tp_log *log, struct tp_error *error)
{
    int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK; /* a FIFO must not block */
    int fd = openat(directory, stored_name, flags);
    if (fd < 0)
        return tp_error_set(error, -errno, "%s: cannot open: %s", stored_name, strerror(errno));
    struct stat status;
    struct statfs system = {0};
    int rc = fstat(fd, &status) < 0 || fstatfs(fd, &system) < 0 ? -errno : 0;
    if (rc < 0)
        tp_error_set(error, rc, "%s: cannot stat: %s", stored_name, strerror(-rc));
    else if (!S_ISREG(status.st_mode))
        rc = tp_error_set(error, S_ISDIR(status.st_mode) ? -EISDIR : -EINVAL,
                          "%s: expected a regular file", stored_name);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    *source = (struct tp_source){
        .directory = directory,
        .fd = fd,
        .device = status.st_dev,
        .inode = status.st_ino,
        .size = (uint64_t)status.st_size,
        .stored_size = (uint64_t)status.st_size,
        .modified = status.st_mtim,
        .in_memory = system.f_type == TMPFS_MAGIC,
        .log = log,
    };
    return 0;
}

static int open_named(struct tp_source *source, int directory, const char *name, const char *suffix,
                      const struct tp_log *log, struct tp_error *error)
{
    char *own_name = strdup(name), *stored_name = NULL;
    if (own_name == NULL || asprintf(&stored_name, "%s%s", name, suffix) < 0) {
        free(own_name);
        return tp_error_set(error, -ENOMEM, "out of memory");
    }
    int rc = open_stored(source, directory, stored_name, log, error);
    if (rc != 0) {
        free(own_name);
        free(stored_name);
        return rc;
    }
    source->name = own_name;
    source->stored_name = stored_name;
    return 0;
}

int tp_source_open(struct tp_source *source, int directory, const char *name,
                   const struct tp_log *log, struct tp_error *error)
{
    return open_named(source, directory, name, "", log, error);
}

int tp_source_open_packed(struct tp_source *source, int directory, const char *name,
                          struct tp_blocks *blocks, const struct tp_log *log,
                          struct tp_error *error)
{
    struct tp_source opened;
    int rc = open_named(&opened, directory, name, TP_PACKED_SUFFIX, log, error);
    if (rc < 0)
        return rc;
    rc = tp_packed_open(&opened, blocks, &opened.packed, error);
    if (rc < 0) {
        tp_error_prefix(error, rc, "%s", opened.stored_name);
        tp_source_close(&opened);
        return rc;
    }
    opened.size = tp_packed_layout(opened.packed)->header.original_size;
    *source = opened;
    return 0;
}

void tp_source_close(struct tp_source *source)
{
    tp_packed_close(source->packed);
    close(source->fd);
    free(source->stored_name);
    free(source->name);
}

/* Logs the first fault of a file and turns it into the answer that readers get. */
static int report(struct tp_source *source, const char *what)
{
    if (!atomic_exchange(&source->reported, true))
        tp_log(source->log, TP_LOG_ERROR,
               "%s: %s; reads of its tensors fail until it is as it was when opened",
               source->stored_name, what);
    return -EIO;
}

/* Reads what is in memory; else steps out of the gate and waits for the disk. */
static ssize_t read_some(const struct tp_source *source, void *target, size_t length,
                         uint64_t offset)
{
    struct iovec piece = {target, length};
    if (source->in_memory)
        return pread(source->fd, target, length, (off_t)offset);
    ssize_t got = preadv2(source->fd, &piece, 1, (off_t)offset, RWF_NOWAIT);
    if (got > 0)
        return got;
    tp_gate_pause();
    got = pread(source->fd, target, length, (off_t)offset);
    int saved_errno = errno;
    tp_gate_resume();
    errno = saved_errno;
    return got;
}

int tp_source_read_stored(struct tp_source *source, void *target, size_t length, uint64_t offset)
{
    uint8_t *at = target;
    while (length > 0) {
        ssize_t got = read_some(source, at, length, offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return report(source, strerror(errno));
        if (got == 0)
            return report(source, "shorter than when it was opened");
        at += got;
        offset += (uint64_t)got;
        length -= (size_t)got;
    }
    return 0;
}

int tp_source_read_unverified(struct tp_source *source, void *target, size_t length,
                              uint64_t offset)
{
    if (source->packed != NULL)
        return tp_packed_read(source, target, length, offset);
    return tp_source_read_stored(source, target, length, offset);
}

int tp_source_verify(struct tp_source *source)
{
    struct stat now;
    if (fstatat(source->directory, source->stored_name, &now, 0) < 0)
        return report(source, errno == ENOENT ? "no longer there" : strerror(errno));
    if (now.st_dev != source->device || now.st_ino != source->inode)
        return report(source, "replaced by another file since it was opened");
    if ((uint64_t)now.st_size != source->stored_size)
        return report(source, "its size changed since it was opened");
    if (now.st_mtim.tv_sec != source->modified.tv_sec ||
        now.st_mtim.tv_nsec != source->modified.tv_nsec)
        return report(source, "modified since it was opened");
    return 0;
}

int tp_source_read(struct tp_source *source, void *target, size_t length, uint64_t offset)
{
    int rc = tp_source_read_unverified(source, target, length, offset);
    return rc < 0 ? rc : tp_source_verify(source);
}

static void advise(struct tp_source *source, uint64_t offset, uint64_t length, int advice)
{
    if (source->packed != NULL)
        tp_packed_stored_range(source->packed, &offset, &length);
    if (length > 0) /* to the kernel, 0 is everything */
        posix_fadvise(source->fd, (off_t)offset, (off_t)length, advice);
}

void tp_source_forget(struct tp_source *source, uint64_t offset, uint64_t length)
{
    advise(source, offset, length, POSIX_FADV_DONTNEED);
}

void tp_source_expect(struct tp_source *source, uint64_t offset, uint64_t length)
{
    advise(source, offset, length, POSIX_FADV_WILLNEED);
}
