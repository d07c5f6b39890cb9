#include "fs/export/mounts/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fs/base/clock.h"
#include "fs/base/mounts.h"
#include "fs/export/mounts/mount_users.h"

/* Reports, a byte each: MADE with the mount point and its NUL behind it; READY, or FAILED with the
 * exit status; at last GONE. */
enum { REPORT_MADE = 'm', REPORT_READY = 'r', REPORT_FAILED = 'f', REPORT_GONE = 'g' };

enum {
    POLL_MS = 100,   /* in case the kernel does not tell that the table has changed */
    BUSY_TRIES = 10, /* processes that are just ending close their files soon */
    BUSY_PAUSE_MS = 20,
    END_PATIENCE_MS = 10000, /* for a daemon without a mount */
};

struct keeper {
    char mount_point[PATH_MAX];
    int hold, reports; /* the keeper's ends of the two pipes */
    int messages;      /* tensorport-mount's stderr; -1 at its end */
    int children;      /* signalfd of SIGCHLD */
    int table;
    pid_t daemon;
    pid_t probe; /* asks the mount something; 0 when there is none */
    bool ended;  /* the daemon */
    int status;
    bool serves; /* the probe had an answer */
    bool let_go; /* the other end of `hold` is closed */
};

static void say(const char *text)
{
    fprintf(stderr, "tensorport run: %s\n", text);
}

static void report(const struct keeper *keeper, char byte, const char *more, size_t length)
{
    char bytes[1 + PATH_MAX] = {byte};
    memcpy(bytes + 1, more, length);
    ssize_t ignored = write(keeper->reports, bytes, 1 + length);
    (void)ignored; /* there may be nobody left to read it */
}

static void report_failure(const struct keeper *keeper, char status)
{
    report(keeper, REPORT_FAILED, &status, 1);
}

static bool is_mounted(const char *mount_point)
{
    struct tp_mount_table table;
    if (tp_mounts_read(TP_MOUNTS_FILE, &table) < 0)
        return true; /* to be on the safe side */
    bool found = tp_mounts_are_ours(tp_mounts_at(&table, mount_point));
    tp_mounts_clear(&table);
    return found;
}

/* ---- what can happen ---- */

static void pass_messages(struct keeper *keeper)
{
    char text[4096];
    ssize_t n = read(keeper->messages, text, sizeof text);
    if (n <= 0) {
        close(keeper->messages);
        keeper->messages = -1;
        return;
    }
    for (ssize_t at = 0, m; at < n; at += m) {
        m = write(STDERR_FILENO, text + at, (size_t)(n - at));
        if (m <= 0)
            break;
    }
}

static void reap(struct keeper *keeper)
{
    struct signalfd_siginfo information;
    ssize_t ignored = read(keeper->children, &information, sizeof information);
    (void)ignored; /* one signal may stand for several children */
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == keeper->daemon) {
            keeper->ended = true;
            keeper->status = status;
        } else if (pid == keeper->probe) {
            keeper->probe = 0;
            keeper->serves = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        }
    }
}

/* Waits for one of the above, for at most so long. */
static void wait_for_event(struct keeper *keeper, int timeout_ms)
{
    struct pollfd wanted[] = {
        {.fd = keeper->let_go ? -1 : keeper->hold, .events = POLLIN},
        {.fd = keeper->messages, .events = POLLIN},
        {.fd = keeper->children, .events = POLLIN},
        {.fd = keeper->table, .events = POLLPRI},
    };
    if (poll(wanted, sizeof wanted / sizeof *wanted, timeout_ms) <= 0)
        return;
    if (wanted[0].revents != 0)
        keeper->let_go = true;
    if (wanted[1].revents != 0)
        pass_messages(keeper);
    if (wanted[2].revents != 0)
        reap(keeper);
}

/* ---- the beginning ---- */

/* The daemon answers: that it appears in the table is not enough, it may still fail; then its mount
 * may be gone again when we ask, and the folder below would answer. Asked by a process of its own,
 * because the answer may never come. */
static void start_probe(struct keeper *keeper)
{
    pid_t parent = getpid();
    keeper->probe = fork();
    if (keeper->probe == 0) {
        struct statfs status;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        closefrom(0); /* it may hang, and nobody is to wait for it */
        _exit(getppid() == parent && statfs(keeper->mount_point, &status) == 0 &&
                      status.f_type == FUSE_SUPER_MAGIC
                  ? 0
                  : 1);
    }
    if (keeper->probe < 0)
        keeper->probe = 0; /* tried again */
}

static void wait_for_mount(struct keeper *keeper)
{
    while (!keeper->serves && !keeper->ended && !keeper->let_go) {
        if (keeper->probe == 0 && is_mounted(keeper->mount_point))
            start_probe(keeper);
        wait_for_event(keeper, POLL_MS);
    }
    if (keeper->probe > 0)
        kill(keeper->probe, SIGKILL);
}

/* Puts what the daemon still had to say on stderr. */
static void drain_messages(struct keeper *keeper)
{
    while (keeper->messages >= 0)
        pass_messages(keeper);
}

static void explain_end(const struct keeper *keeper, const char *when)
{
    char text[128];
    if (WIFSIGNALED(keeper->status))
        snprintf(text, sizeof text, "tensorport-mount was killed by signal %d %s",
                 WTERMSIG(keeper->status), when);
    else
        snprintf(text, sizeof text, "tensorport-mount ended with status %d %s",
                 WEXITSTATUS(keeper->status), when);
    say(text);
}

/* ---- the end ---- */

static void pause_ms(long milliseconds)
{
    struct timespec time = {.tv_nsec = milliseconds * 1000000};
    nanosleep(&time, NULL);
}

/* True when nothing is mounted any more and nobody uses it. */
static bool unmount_idle(const struct keeper *keeper)
{
    for (int i = 0; i < BUSY_TRIES; i++) {
        if (!is_mounted(keeper->mount_point) ||
            tp_mounts_unmount(keeper->mount_point, TP_UNMOUNT_IDLE) == 0)
            return true;
        pause_ms(BUSY_PAUSE_MS);
    }
    return !is_mounted(keeper->mount_point);
}

static void unmount_lazily(const struct keeper *keeper)
{
    struct tp_error users, text;
    tp_mount_users_describe(keeper->mount_point, &users);
    int rc = tp_mounts_unmount(keeper->mount_point, TP_UNMOUNT_LAZY);
    if (rc < 0 && is_mounted(keeper->mount_point))
        tp_error_set(&text, 0, "%s: cannot unmount: %s; try 'tensorport umount %s'",
                     keeper->mount_point, strerror(-rc), keeper->mount_point);
    else
        tp_error_set(&text, 0,
                     "%s: unmounted, but still in use%s%s: those files stay readable "
                     "until they are closed",
                     keeper->mount_point, users.text[0] != '\0' ? " by " : "", users.text);
    say(text.text);
}

/* The daemon ends by itself once the kernel has let go of its mount; with `force`, at last by
 * SIGKILL. */
static void wait_for_daemon(struct keeper *keeper, bool force)
{
    for (int64_t end = tp_clock_nanoseconds() / 1000000 + END_PATIENCE_MS;
         !keeper->ended && tp_clock_nanoseconds() / 1000000 < end;)
        wait_for_event(keeper, POLL_MS);
    if (!keeper->ended && force)
        kill(keeper->daemon, SIGKILL);
    while (!keeper->ended && force)
        wait_for_event(keeper, -1);
}

/* Nobody waits for it: with none of the caller's descriptors it stays as long as it is needed. */
static void serve_in_background(struct keeper *keeper)
{
    dup2(STDIN_FILENO, STDERR_FILENO); /* /dev/null */
    report(keeper, REPORT_GONE, "", 0);
    close(keeper->reports);
    while (!keeper->ended)
        wait_for_event(keeper, -1);
}

static void clean_up(struct keeper *keeper)
{
    /* Somebody else may have unmounted it lazily, and files may be open. */
    bool by_others = keeper->serves && !is_mounted(keeper->mount_point);
    if (unmount_idle(keeper))
        wait_for_daemon(keeper, !by_others);
    else
        unmount_lazily(keeper);
    if (keeper->ended)
        drain_messages(keeper);
    rmdir(keeper->mount_point);
    if (!keeper->ended)
        serve_in_background(keeper);
    else
        report(keeper, REPORT_GONE, "", 0);
}

static void keep(struct keeper *keeper)
{
    wait_for_mount(keeper);
    if (keeper->serves) {
        report(keeper, REPORT_READY, "", 0);
        while (!keeper->let_go && !keeper->ended)
            wait_for_event(keeper, -1);
        if (keeper->ended && keeper->status != 0)
            explain_end(keeper, "and its files are gone");
        while (!keeper->let_go)
            wait_for_event(keeper, -1);
    } else if (keeper->ended) {
        drain_messages(keeper);
        if (!WIFEXITED(keeper->status) || WEXITSTATUS(keeper->status) == 0)
            explain_end(keeper, "before the mount was usable");
        int status = WIFEXITED(keeper->status) ? WEXITSTATUS(keeper->status) : 1;
        report_failure(keeper, status == 2 ? 2 : 1);
    } else {
        kill(keeper->daemon, SIGTERM); /* given up before it was usable */
    }
    clean_up(keeper);
}

/* ---- processes ---- */

/* In the child: the daemon's words are run, with stderr into the pipe. */
__attribute__((noreturn)) static void become_daemon(char *const *words, pid_t parent, int messages,
                                                    const sigset_t *mask)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    dup2(messages, STDERR_FILENO);
    sigprocmask(SIG_SETMASK, mask, NULL);
    if (getppid() == parent) {
        execv(words[0], words);
        fprintf(stderr, "tensorport run: %s: %s\n", words[0], strerror(errno));
    }
    _exit(1);
}

/* Three descriptors at known places, and no others: those of the caller are not ours to keep. */
static void take_descriptors(struct keeper *keeper, int hold, int reports)
{
    enum { HOLD = 3, REPORTS, FREE };
    hold = fcntl(hold, F_DUPFD_CLOEXEC, FREE);
    reports = fcntl(reports, F_DUPFD_CLOEXEC, FREE);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    if (fcntl(STDERR_FILENO, F_GETFD) < 0)
        dup2(null, STDERR_FILENO);
    keeper->hold = dup3(hold, HOLD, O_CLOEXEC);
    keeper->reports = dup3(reports, REPORTS, O_CLOEXEC);
    closefrom(FREE);
}

/* The keeper makes it, not the caller: it cannot be killed in between by who kills the caller. */
static bool make_folder(struct keeper *keeper, const char *const *templates)
{
    for (; *templates != NULL; templates++) {
        if (snprintf(keeper->mount_point, PATH_MAX, "%s", *templates) < PATH_MAX &&
            mkdtemp(keeper->mount_point) != NULL) {
            report(keeper, REPORT_MADE, keeper->mount_point, strlen(keeper->mount_point) + 1);
            return true;
        }
    }
    struct tp_error text;
    tp_error_set(&text, 0, "%s: cannot make it: %s", keeper->mount_point, strerror(errno));
    say(text.text);
    return false;
}

static bool start_daemon(struct keeper *keeper, char *const *words, const sigset_t *mask)
{
    int ends[2];
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    keeper->children = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
    keeper->table = open(TP_MOUNTS_FILE, O_RDONLY | O_CLOEXEC);
    pid_t self = getpid();
    bool made = keeper->children >= 0 && pipe2(ends, O_CLOEXEC) == 0;
    keeper->daemon = made ? fork() : -1;
    if (keeper->daemon == 0)
        become_daemon(words, self, ends[1], mask);
    if (keeper->daemon < 0) {
        say(strerror(errno));
        return false;
    }
    close(ends[1]);
    keeper->messages = ends[0];
    return true;
}

__attribute__((noreturn)) static void run_keeper(int hold, int reports, char **words,
                                                 size_t n_words, const char *const *templates,
                                                 const sigset_t *mask)
{
    struct keeper keeper = {.messages = -1, .table = -1};
    setsid();
    prctl(PR_SET_NAME, "tensorport-keep");
    signal(SIGPIPE, SIG_IGN);
    take_descriptors(&keeper, hold, reports);
    bool made = make_folder(&keeper, templates);
    words[n_words] = keeper.mount_point;
    if (!made || !start_daemon(&keeper, words, mask)) {
        report_failure(&keeper, 1);
        if (made)
            rmdir(keeper.mount_point);
        report(&keeper, REPORT_GONE, "", 0);
        _exit(1);
    }
    if (chdir("/") < 0) /* not to keep the caller's folder busy */
        say(strerror(errno));
    keep(&keeper);
    _exit(0);
}

/* ---- the caller's side ---- */

/* Above the standard descriptors: the caller may have closed those, and wants them so. */
static int make_pipe(int ends[2])
{
    int low[2];
    if (pipe2(low, O_CLOEXEC) < 0)
        return -errno;
    ends[0] = fcntl(low[0], F_DUPFD_CLOEXEC, 3);
    ends[1] = fcntl(low[1], F_DUPFD_CLOEXEC, 3);
    int rc = ends[0] < 0 || ends[1] < 0 ? -errno : 0;
    close(low[0]);
    close(low[1]);
    if (rc < 0 && ends[0] >= 0)
        close(ends[0]);
    return rc;
}

static void close_pipe(const int ends[2])
{
    close(ends[0]);
    close(ends[1]);
}

int tp_keeper_start(char **words, size_t n_words, const char *const *templates,
                    const sigset_t *mask, struct tp_keeper *ret_keeper, struct tp_error *error)
{
    int hold[2] = {-1, -1}, reports[2] = {-1, -1};
    int rc = make_pipe(hold);
    if (rc < 0)
        return tp_error_set(error, rc, "cannot make a pipe: %s", strerror(-rc));
    rc = make_pipe(reports);
    if (rc < 0) {
        close_pipe(hold);
        return tp_error_set(error, rc, "cannot make a pipe: %s", strerror(-rc));
    }
    pid_t pid = fork();
    if (pid == 0)
        run_keeper(hold[0], reports[1], words, n_words, templates, mask);
    rc = pid < 0 ? tp_error_set(error, -errno, "cannot start a process: %s", strerror(errno)) : 0;
    close(hold[0]);
    close(reports[1]);
    if (rc < 0) {
        close(hold[1]);
        close(reports[0]);
        return rc;
    }
    *ret_keeper = (struct tp_keeper){.pid = pid, .hold = hold[1], .reports = reports[0]};
    return 0;
}

/* The next byte, or -1 when the keeper has ended. */
static int read_report(const struct tp_keeper *keeper)
{
    unsigned char byte;
    ssize_t n;
    do
        n = read(keeper->reports, &byte, 1);
    while (n < 0 && errno == EINTR);
    return n == 1 ? byte : -1;
}

static void read_mount_point(struct tp_keeper *keeper)
{
    size_t length = 0;
    int byte;
    while ((byte = read_report(keeper)) > 0 && length < PATH_MAX - 1)
        keeper->mount_point[length++] = (char)byte;
    keeper->mount_point[length] = '\0';
}

enum tp_keeper_news tp_keeper_read(struct tp_keeper *keeper, int *ret_status)
{
    int byte = read_report(keeper);
    if (byte == REPORT_MADE) {
        read_mount_point(keeper);
        return TP_KEEPER_WAIT;
    }
    if (byte == REPORT_READY)
        return TP_KEEPER_READY;
    if (byte < 0)
        say("the process that keeps the mount was killed");
    *ret_status = byte == REPORT_FAILED && read_report(keeper) == 2 ? 2 : 1;
    return TP_KEEPER_FAILED;
}

/* What the keeper cannot do any more. Its daemon may be at it as well. */
static void clean_up_after(const struct tp_keeper *keeper)
{
    for (int i = 0; i < 100; i++) {
        if (is_mounted(keeper->mount_point))
            tp_mounts_unmount(keeper->mount_point, TP_UNMOUNT_LAZY);
        if (rmdir(keeper->mount_point) == 0 || errno == ENOENT)
            return;
        pause_ms(BUSY_PAUSE_MS);
    }
}

void tp_keeper_end(struct tp_keeper *keeper)
{
    int byte;
    close(keeper->hold);
    while ((byte = read_report(keeper)) >= 0 && byte != REPORT_GONE) {
        if (byte == REPORT_MADE)
            read_mount_point(keeper);
    }
    close(keeper->reports);
    if (byte < 0 && keeper->mount_point[0] != '\0')
        clean_up_after(keeper);
}
