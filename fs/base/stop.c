#include "fs/base/stop.h"

#include <pthread.h>
#include <stddef.h>

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_SIGNALS = sizeof signals / sizeof *signals };

void tp_stop_hold(struct tp_stop *ret_stop)
{
    sigemptyset(&ret_stop->held);
    for (size_t i = 0; i < N_SIGNALS; i++) {
        struct sigaction action;
        if (sigaction(signals[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN)
            sigaddset(&ret_stop->held, signals[i]);
    }
    signal(SIGXFSZ, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, &ret_stop->held, &ret_stop->before);
}

bool tp_stop_is_wanted(const struct tp_stop *stop)
{
    sigset_t pending;
    sigpending(&pending);
    for (size_t i = 0; i < N_SIGNALS; i++) {
        if (sigismember(&stop->held, signals[i]) == 1 && sigismember(&pending, signals[i]) == 1)
            return true;
    }
    return false;
}

void tp_stop_release(const struct tp_stop *stop)
{
    pthread_sigmask(SIG_SETMASK, &stop->before, NULL);
}
