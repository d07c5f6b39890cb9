#include "infer/cli/history_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/base/io.h"
#include "infer/tokenizer/utf8.h"

enum { READ_MAX = 1 << 20 /* bytes at the end of the file */ };

static char *find_path(void)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *path = NULL;
    int n = -1;
    if (state != NULL && state[0] == '/') /* the specification ignores relative ones */
        n = asprintf(&path, "%s/tensorport/chat_history", state);
    else if (home != NULL && home[0] == '/')
        n = asprintf(&path, "%s/.local/state/tensorport/chat_history", home);
    return n < 0 ? NULL : path;
}

/* What fails shows when the file is opened. */
static void make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(path, S_IRWXU) < 0 && errno != EEXIST)
            errno = 0;
        *slash = '/';
    }
}

int tp_history_file_open(int *ret_fd, struct tp_error *error)
{
    char *path = find_path();
    struct stat status;
    int rc = 0;
    if (path == NULL)
        return -ENOENT;
    make_folders(path);
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, S_IRUSR | S_IWUSR);
    if (fd < 0)
        rc = tp_error_set(error, -errno, "%s: no history: %s", path, strerror(errno));
    else if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))
        rc = tp_error_set(error, -EINVAL, "%s: no history: expected a regular file", path);
    free(path);
    if (rc == 0)
        *ret_fd = fd;
    else if (fd >= 0)
        close(fd);
    return rc;
}

/* The beginning of the last lines of a text that ends with a line end. */
static const char *last_lines(const char *text, size_t length)
{
    size_t n = 0, at = length;
    while (at > 0 && (text[at - 1] != '\n' || n++ < TP_HISTORY_LINES))
        at--;
    return text + at;
}

void tp_history_file_read(int fd, void (*take)(void *context, const char *line), void *context)
{
    struct stat status;
    char *text = malloc(READ_MAX + 1);
    size_t length = 0;
    if (text != NULL && fstat(fd, &status) == 0) {
        uint64_t size = (uint64_t)status.st_size;
        if (tp_read_at(fd, text, READ_MAX, size > READ_MAX ? size - READ_MAX : 0, &length) < 0)
            length = 0;
        if (size > READ_MAX && length > 0) { /* a line that lacks its beginning */
            char *end = memchr(text, '\n', length);
            length = end == NULL ? 0 : length;
            memset(text, '\n', end == NULL ? 0 : (size_t)(end - text));
        }
    }
    while (length > 0 && text[length - 1] != '\n')
        length--;
    for (const char *at = length > 0 ? last_lines(text, length) : text; at < text + length;) {
        char *end = memchr(at, '\n', (size_t)(text + length - at));
        size_t n = (size_t)(end - at);
        *end = '\0';
        if (n > 0 && tp_utf8_valid(at, n) == n && strlen(at) == n)
            take(context, at);
        at = end + 1;
    }
    free(text);
}

void tp_history_file_append(int fd, const char *line, size_t length)
{
    char *text = malloc(length + 1);
    if (text == NULL)
        return;
    memcpy(text, line, length);
    text[length] = '\n';
    /* In one call: others append, too. */
    if (write(fd, text, length + 1) < 0)
        errno = 0;
    free(text);
}
