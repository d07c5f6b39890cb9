#include "fs/base/io.h"

#include <errno.h>
#include <unistd.h>

int tp_write_at(int fd, const void *bytes, size_t length, uint64_t offset)
{
    const char *at = bytes;
    while (length > 0) {
        ssize_t n = pwrite(fd, at, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        at += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

int tp_read_at(int fd, void *target, size_t length, uint64_t offset, size_t *ret_length)
{
    char *at = target;
    size_t got = 0;
    while (got < length) {
        ssize_t n = pread(fd, at + got, length - got, (off_t)(offset + got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    *ret_length = got;
    return 0;
}
