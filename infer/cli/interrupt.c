#include "infer/cli/interrupt.h"

#include <stdbool.h>
#include <stddef.h>

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_SIGNALS = sizeof signals / sizeof *signals };

/* A signal handler has no other way to tell. */
static volatile sig_atomic_t came;
static struct sigaction before[N_SIGNALS];
static bool is_catching;

static void handle(int number)
{
    came = number;
}

const volatile sig_atomic_t *tp_interrupt_catch(void)
{
    struct sigaction action = {.sa_handler = handle, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    sigemptyset(&action.sa_mask);
    signal(SIGXFSZ, SIG_IGN);
    came = 0;
    is_catching = true;
    for (size_t i = 0; i < N_SIGNALS; i++) {
        sigaction(signals[i], NULL, &before[i]);
        if (before[i].sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL);
    }
    return &came;
}

void tp_interrupt_release(void)
{
    for (size_t i = 0; is_catching && i < N_SIGNALS; i++)
        sigaction(signals[i], &before[i], NULL);
    if (came != 0)
        raise(came);
}
