#include "fs/base/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int tp_bytes_compare(const char *a, size_t a_length, const char *b, size_t b_length)
{
    int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
    return order != 0 ? order : (a_length > b_length) - (a_length < b_length);
}

bool tp_bytes_end_with(const char *text, size_t length, const char *suffix)
{
    size_t suffix_length = strlen(suffix);
    return length >= suffix_length &&
           memcmp(text + length - suffix_length, suffix, suffix_length) == 0;
}

int tp_bytes_shown(const char *text, size_t length)
{
    enum { SHOWN_MAX = 200 };
    size_t shown = length < SHOWN_MAX ? length : SHOWN_MAX;
    while (shown < length && shown > 0 && ((unsigned char)text[shown] & 0xC0) == 0x80)
        shown--;
    return (int)shown;
}

/* Reads up to `length` bytes; the file may have shrunk since it was measured. */
static int read_all(int fd, char *target, size_t length, size_t *ret_got)
{
    size_t got = 0;
    while (got < length) {
        ssize_t n = read(fd, target + got, length - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    *ret_got = got;
    return 0;
}

int tp_bytes_read_file(int directory, const char *name, size_t maximum, char **ret_text,
                       size_t *ret_length, struct tp_error *error)
{
    struct stat status;
    char *text = NULL;
    size_t length = 0;
    int rc = 0;
    int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &status) < 0)
        rc = tp_error_set(error, -errno, "%s: cannot open: %s", name, strerror(errno));
    else if (!S_ISREG(status.st_mode))
        rc = tp_error_set(error, -EINVAL, "%s: expected a regular file", name);
    else if ((unsigned long long)status.st_size > maximum)
        rc = tp_error_set(error, -EFBIG, "%s: expected at most %zu bytes, found %lld", name,
                          maximum, (long long)status.st_size);
    else if ((text = malloc((size_t)status.st_size + 1)) == NULL)
        rc = tp_error_set(error, -ENOMEM, "%s: out of memory", name);
    else if ((rc = read_all(fd, text, (size_t)status.st_size, &length)) < 0)
        tp_error_set(error, rc, "%s: cannot read: %s", name, strerror(-rc));
    if (fd >= 0)
        close(fd);
    if (rc < 0 || text == NULL) {
        free(text);
        return rc;
    }
    text[length] = '\0';
    *ret_text = text;
    *ret_length = length;
    return 0;
}
