#include "fs/checkpoint/source.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fs/base/gate.h"

int tp_source_open(struct tp_source *source, int directory, const char *name,
                   const struct tp_log *log, struct tp_error *error)
{
    int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */
    if (fd < 0)
        return tp_error_set(error, -errno, "%s: cannot open: %s", name, strerror(errno));
    struct stat status;
    struct statfs system = {0};
    int rc = fstat(fd, &status) < 0 || fstatfs(fd, &system) < 0 ? -errno : 0;
    if (rc < 0)
        tp_error_set(error, rc, "%s: cannot stat: %s", name, strerror(-rc));
    else if (!S_ISREG(status.st_mode))
        rc = tp_error_set(error, S_ISDIR(status.st_mode) ? -EISDIR : -EINVAL,
                          "%s: expected a regular file", name);
    char *own_name = rc == 0 ? strdup(name) : NULL;
    if (rc == 0 && own_name == NULL)
        rc = tp_error_set(error, -ENOMEM, "out of memory");
    if (rc < 0) {
        close(fd);
        return rc;
    }
    *source = (struct tp_source){
        .name = own_name,
        .directory = directory,
        .fd = fd,
        .device = status.st_dev,
        .inode = status.st_ino,
        .size = (uint64_t)status.st_size,
        .modified = status.st_mtim,
        .in_memory = system.f_type == TMPFS_MAGIC,
        .log = log,
    };
    return 0;
}

void tp_source_close(struct tp_source *source)
{
    close(source->fd);
    free(source->name);
}

/* Logs the first fault of a file and turns it into the answer that readers get. */
static int report(struct tp_source *source, const char *what)
{
    if (!atomic_exchange(&source->reported, true))
        tp_log(source->log, TP_LOG_ERROR,
               "%s: %s; reads of its tensors fail until it is as it was when opened", source->name,
               what);
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

int tp_source_read_unverified(struct tp_source *source, void *target, size_t length,
                              uint64_t offset)
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

int tp_source_verify(struct tp_source *source)
{
    struct stat now;
    if (fstatat(source->directory, source->name, &now, 0) < 0)
        return report(source, errno == ENOENT ? "no longer there" : strerror(errno));
    if (now.st_dev != source->device || now.st_ino != source->inode)
        return report(source, "replaced by another file since it was opened");
    if ((uint64_t)now.st_size != source->size)
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

void tp_source_forget(struct tp_source *source, uint64_t offset, uint64_t length)
{
    posix_fadvise(source->fd, (off_t)offset, (off_t)length, POSIX_FADV_DONTNEED);
}

void tp_source_expect(struct tp_source *source, uint64_t offset, uint64_t length)
{
    posix_fadvise(source->fd, (off_t)offset, (off_t)length, POSIX_FADV_WILLNEED);
}
