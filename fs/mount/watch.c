#include "fs/mount/watch.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fs/mount/mount_point.h"

struct tp_watch {
    const char *mount_point;
    unsigned idle_timeout;
    struct tp_mount *mount;
    pthread_t thread;
};

/* SIGUSR1 is the order of tp_watch_stop(). */
static sigset_t watched_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    return set;
}

void tp_watch_block_signals(void)
{
    sigset_t set = watched_signals();
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static bool is_idle(const struct tp_watch *watch)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return watch->idle_timeout > 0 && atomic_load(&watch->mount->tree->activity.open_files) == 0 &&
           now.tv_sec - atomic_load(&watch->mount->last_used) >= (int64_t)watch->idle_timeout;
}

/* True once the kernel has been told. */
static bool detach(const struct tp_watch *watch, const char *why)
{
    const struct tp_log *log = watch->mount->tree->log;
    int rc = tp_mount_point_detach(watch->mount_point);
    if (rc < 0)
        tp_log(log, TP_LOG_ERROR, "%s: cannot unmount: %s", watch->mount_point, strerror(-rc));
    else
        tp_log(log, TP_LOG_INFO, "%s: unmounted: %s", watch->mount_point, why);
    return rc == 0;
}

static void *run(void *context)
{
    struct tp_watch *watch = context;
    sigset_t set = watched_signals();
    bool detached = false;
    for (;;) {
        struct timespec second = {.tv_sec = 1};
        int signal_number = watch->idle_timeout > 0 && !detached ? sigtimedwait(&set, NULL, &second)
                                                                 : sigwaitinfo(&set, NULL);
        if (signal_number == SIGUSR1)
            return NULL;
        if (signal_number > 0 && detached)
            _exit(0); /* asked twice: those who still have files open lose them */
        if (signal_number > 0)
            detached = detach(watch, "on a signal");
        else if (!detached && is_idle(watch))
            detached = detach(watch, "idle");
    }
}

int tp_watch_start(const char *mount_point, unsigned idle_timeout, struct tp_mount *mount,
                   struct tp_watch **ret_watch)
{
    struct tp_watch *watch = calloc(1, sizeof *watch);
    if (watch == NULL)
        return -ENOMEM;
    *watch =
        (struct tp_watch){.mount_point = mount_point, .idle_timeout = idle_timeout, .mount = mount};
    int rc = pthread_create(&watch->thread, NULL, run, watch);
    if (rc != 0) {
        free(watch);
        return -rc;
    }
    *ret_watch = watch;
    return 0;
}

void tp_watch_stop(struct tp_watch *watch)
{
    pthread_kill(watch->thread, SIGUSR1);
    pthread_join(watch->thread, NULL);
    free(watch);
}
