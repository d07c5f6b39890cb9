#include "infer/cli/prompt_signals.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { ALWAYS = 3, N_SIGNALS = 6 };
static const int signals[N_SIGNALS] = {SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT, SIGWINCH};

/* Signal handlers have no other way to tell. */
static volatile sig_atomic_t came[N_SIGNALS];
static volatile sig_atomic_t asked_to_stop; /* by one of the first ALWAYS */
static int wake = -1;
static struct sigaction before[N_SIGNALS];

static void handle(int number)
{
    int kept = errno;
    const uint64_t one = 1;
    for (size_t i = 0; i < N_SIGNALS; i++) {
        if (signals[i] != number)
            continue;
        came[i] = 1;
        if (i < ALWAYS)
            asked_to_stop = 1;
    }
    if (write(wake, &one, sizeof one) < 0)
        errno = kept; /* full: whoever waits is awake already */
    errno = kept;
}

static void catch_signals(size_t first, size_t end)
{
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t i = first; i < end; i++) {
        sigaction(signals[i], NULL, &before[i]);
        if (before[i].sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL);
    }
}

static void restore_signals(size_t first, size_t end)
{
    for (size_t i = first; i < end; i++)
        sigaction(signals[i], &before[i], NULL);
}

int tp_prompt_signals_open(struct tp_error *error)
{
    wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake < 0)
        return tp_error_set(error, -errno, "cannot wait for signals: %s", strerror(errno));
    catch_signals(0, ALWAYS);
    return 0;
}

void tp_prompt_signals_close(void)
{
    if (wake < 0)
        return;
    restore_signals(0, ALWAYS);
    close(wake);
    wake = -1;
    if (tp_prompt_signals_take(SIGHUP))
        raise(SIGHUP);
    if (tp_prompt_signals_take(SIGTERM))
        raise(SIGTERM);
}

void tp_prompt_signals_edit(bool on)
{
    if (on)
        catch_signals(ALWAYS, N_SIGNALS);
    else
        restore_signals(ALWAYS, N_SIGNALS);
    for (size_t i = ALWAYS; i < N_SIGNALS; i++)
        came[i] = 0;
}

static size_t index_of(int number)
{
    size_t i = 0;
    while (signals[i] != number)
        i++;
    return i;
}

bool tp_prompt_signals_take(int number)
{
    size_t i = index_of(number);
    if (came[i] == 0)
        return false;
    came[i] = 0;
    asked_to_stop = 0; /* in this order: what comes in between is seen below */
    for (size_t k = 0; k < ALWAYS; k++) {
        if (came[k] != 0)
            asked_to_stop = 1;
    }
    return true;
}

const volatile sig_atomic_t *tp_prompt_signals_flag(void)
{
    return &asked_to_stop;
}

bool tp_prompt_signals_end(void)
{
    return came[index_of(SIGTERM)] != 0 || came[index_of(SIGHUP)] != 0;
}

bool tp_prompt_signals_wait(int fd)
{
    struct pollfd ends[] = {{.fd = fd, .events = POLLIN}, {.fd = wake, .events = POLLIN}};
    uint64_t count;
    for (;;) {
        for (size_t i = 0; i < N_SIGNALS; i++) {
            if (came[i] != 0)
                return false;
        }
        if (poll(ends, wake >= 0 ? 2 : 1, -1) < 0 && errno != EINTR)
            return true; /* reading will say what is wrong */
        if (wake >= 0 && (ends[1].revents & POLLIN) != 0 &&
            read(wake, &count, sizeof count) == (ssize_t)sizeof count)
            continue;
        if (ends[0].revents != 0)
            return true;
    }
}
