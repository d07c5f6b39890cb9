#include "fs/export/mounts/mount_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/base/clock.h"
#include "fs/base/mounts.h"

const char *const tp_mount_state_names[] = {"live", "dead", "stuck", "private", NULL};

enum { ANSWER_MAX = 16 << 10 }; /* below the size of a pipe: the child never waits for us */

struct question {
    pid_t child; /* 0 when it is done */
    int pipe;    /* -1 when it is done */
    char answer[ANSWER_MAX];
    size_t length;
};

/* In the child: one byte for the state, then stats.json. A request that the daemon has read and
 * does not answer cannot be interrupted, so a child may outlive us: it holds nothing of ours but
 * the pipe, or who reads what we write would wait for it. */
__attribute__((noreturn)) static void ask(const char *path, int pipe)
{
    static char answer[ANSWER_MAX];
    char file[PATH_MAX];
    size_t length = 1;
    int fd = -1;
    pipe = dup2(pipe, STDIN_FILENO);
    closefrom(pipe + 1);
    errno = ENAMETOOLONG;
    if (snprintf(file, sizeof file, "%s/.tensorport/stats.json", path) < (int)sizeof file)
        fd = open(file, O_RDONLY | O_CLOEXEC);
    enum tp_mount_state state = fd >= 0 || errno == ENOENT      ? TP_MOUNT_LIVE
                                : tp_mounts_code_is_dead(errno) ? TP_MOUNT_DEAD
                                : errno == EACCES               ? TP_MOUNT_PRIVATE
                                                                : TP_MOUNT_STUCK;
    for (ssize_t n; fd >= 0 && length < sizeof answer; length += (size_t)n) {
        n = read(fd, answer + length, sizeof answer - length);
        if (n < 0 && tp_mounts_code_is_dead(errno))
            state = TP_MOUNT_DEAD;
        if (n <= 0)
            break;
    }
    answer[0] = (char)state;
    _exit(write(pipe, answer, length) == (ssize_t)length ? 0 : 1);
}

static int start(struct question *question, const char *path)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    pid_t child = fork();
    if (child == 0)
        ask(path, ends[1]);
    int rc = child < 0 ? -errno : 0;
    close(ends[1]);
    if (rc < 0) {
        close(ends[0]);
        return rc;
    }
    question->child = child;
    question->pipe = ends[0];
    return 0;
}

static void take(struct question *question)
{
    ssize_t n = read(question->pipe, question->answer + question->length,
                     sizeof question->answer - question->length);
    if (n > 0)
        question->length += (size_t)n;
    if (n > 0 && question->length < sizeof question->answer)
        return;
    close(question->pipe);
    question->pipe = -1;
    waitpid(question->child, NULL, 0); /* it writes and ends */
    question->child = 0;
}

/* Until all have answered or the time is up. */
static void collect(struct question *questions, struct pollfd *wanted, size_t n, int64_t deadline)
{
    for (;;) {
        bool any = false;
        for (size_t i = 0; i < n; i++) {
            wanted[i] = (struct pollfd){.fd = questions[i].pipe, .events = POLLIN};
            any |= questions[i].pipe >= 0;
        }
        int64_t left = deadline - tp_clock_nanoseconds() / 1000000;
        if (!any || left <= 0 || (poll(wanted, n, (int)left) < 0 && errno != EINTR))
            return;
        for (size_t i = 0; i < n; i++) {
            if (wanted[i].fd >= 0 && wanted[i].revents != 0)
                take(&questions[i]);
        }
    }
}

/* A child that hangs in the kernel is left behind: it ends when the daemon does. */
static void give_up(struct question *question)
{
    if (question->pipe >= 0)
        close(question->pipe);
    if (question->child > 0) {
        kill(question->child, SIGKILL);
        waitpid(question->child, NULL, WNOHANG);
    }
}

static void judge(const struct question *question, struct tp_mount_probe *probe)
{
    probe->state = TP_MOUNT_STUCK;
    if (question->pipe >= 0 || question->length == 0)
        return;
    probe->state = (enum tp_mount_state)question->answer[0];
    if (probe->state == TP_MOUNT_LIVE && question->length > 1)
        probe->statistics = cJSON_ParseWithLength(question->answer + 1, question->length - 1);
}

int tp_mount_probe(struct tp_mount_probe *probes, size_t n, int timeout_ms)
{
    struct question *questions = calloc(n + 1, sizeof *questions);
    struct pollfd *wanted = calloc(n + 1, sizeof *wanted);
    int rc = questions == NULL || wanted == NULL ? -ENOMEM : 0;
    size_t started = 0;
    fflush(NULL); /* or the children would hold it, too */
    for (; rc == 0 && started < n; started += rc == 0)
        rc = start(&questions[started], probes[started].path);
    if (rc == 0)
        collect(questions, wanted, n, tp_clock_nanoseconds() / 1000000 + timeout_ms);
    for (size_t i = 0; i < started; i++) {
        if (rc == 0)
            judge(&questions[i], &probes[i]);
        give_up(&questions[i]);
    }
    free(questions);
    free(wanted);
    return rc;
}

double tp_mount_statistic(const cJSON *statistics, const char *group, const char *name)
{
    const cJSON *item =
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(statistics, group), name);
    return cJSON_IsNumber(item) ? item->valuedouble : 0;
}
