#include "infer/jax/process.h"

#include <pthread.h>
#include <stdbool.h>

/* Global, since XLA gives a handler no place of its own that outlives the call. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static struct tp_process process; /* with its turn */
static bool started, watches_fork;

/* What the parent had is left alone: a thread of it may have been in the middle of it. */
static void begin_anew(void)
{
    turn = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    process = (struct tp_process){.workspace.kernels = NULL};
    started = false;
}

static int start(struct tp_error *error)
{
    if (!watches_fork)
        watches_fork = pthread_atfork(NULL, NULL, begin_anew) == 0;
    /* The calling threads are XLA's: not ours to pin. */
    return tp_workspace_init(&process.workspace, tp_kernels(), 0, false, error);
}

int tp_process_enter(struct tp_process **ret_process, struct tp_error *error)
{
    pthread_mutex_lock(&turn);
    int rc = started ? 0 : start(error);
    if (rc < 0) {
        pthread_mutex_unlock(&turn);
        return rc;
    }
    started = true;
    *ret_process = &process;
    return 0;
}

void tp_process_leave(void)
{
    pthread_mutex_unlock(&turn);
}
