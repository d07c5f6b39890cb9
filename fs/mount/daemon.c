#include "fs/mount/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char ready_byte = '\0'; /* anything else is the start of a message */

/* The parent: prints what the daemon has to say and exits. Reads to the end, so that the daemon
 * is done with the pipe when the command returns. */
__attribute__((noreturn)) static void wait_for_daemon(const char *program, int pipe)
{
    char text[sizeof(struct tp_error)];
    size_t length = 0;
    for (;;) {
        ssize_t n = read(pipe, text + length, sizeof text - 1 - length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        length += (size_t)n;
    }
    if (length > 0 && text[0] == ready_byte)
        _exit(0);
    text[length] = '\0';
    fprintf(stderr, "%s: %s\n", program,
            length > 0 ? text : "the daemon ended before the mount was usable");
    fflush(stderr);
    _exit(1);
}

int tp_daemon_start(const char *program, struct tp_daemon *ret_daemon, struct tp_error *error)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return tp_error_set(error, -errno, "cannot make a pipe: %s", strerror(errno));
    fflush(NULL);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC); /* now: later there may be no descriptor */
    pid_t child = null < 0 ? -1 : fork();
    if (child < 0) {
        int rc = tp_error_set(error, -errno, "cannot go to the background: %s", strerror(errno));
        close(ends[0]);
        close(ends[1]);
        if (null >= 0)
            close(null);
        return rc;
    }
    if (child > 0) {
        close(ends[1]);
        wait_for_daemon(program, ends[0]);
    }
    close(ends[0]);
    setsid();
    if (chdir("/") < 0)
        return tp_error_set(error, -errno, "cannot go to /: %s", strerror(errno));
    dup2(null, 0);
    dup2(null, 1);
    *ret_daemon = (struct tp_daemon){.pipe = ends[1], .null = null};
    return 0;
}

static void tell(struct tp_daemon *daemon, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t n = write(daemon->pipe, bytes, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        bytes += n;
        length -= (size_t)n;
    }
    close(daemon->pipe);
    daemon->pipe = -1;
}

void tp_daemon_ready(struct tp_daemon *daemon)
{
    if (daemon->pipe < 0)
        return;
    dup2(daemon->null, 2);
    close(daemon->null);
    tell(daemon, &ready_byte, 1);
}

void tp_daemon_fail(struct tp_daemon *daemon, const char *program, const struct tp_error *error)
{
    if (daemon->pipe < 0)
        fprintf(stderr, "%s: %s\n", program, error->text);
    else
        tell(daemon, error->text, strlen(error->text));
}
