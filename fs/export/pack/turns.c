#include "fs/export/pack/turns.h"

void tp_turns_init(struct tp_turns *turns, uint64_t n)
{
    *turns = (struct tp_turns){.n = n};
    pthread_mutex_init(&turns->lock, NULL);
    pthread_cond_init(&turns->changed, NULL);
}

void tp_turns_clear(struct tp_turns *turns)
{
    pthread_cond_destroy(&turns->changed);
    pthread_mutex_destroy(&turns->lock);
}

bool tp_turns_take(struct tp_turns *turns, uint64_t *ret_piece)
{
    pthread_mutex_lock(&turns->lock);
    bool is_there = turns->error == 0 && turns->taken < turns->n;
    if (is_there)
        *ret_piece = turns->taken++;
    pthread_mutex_unlock(&turns->lock);
    return is_there;
}

int tp_turns_wait(struct tp_turns *turns, uint64_t piece)
{
    pthread_mutex_lock(&turns->lock);
    while (turns->error == 0 && turns->passed != piece)
        pthread_cond_wait(&turns->changed, &turns->lock);
    int rc = turns->error;
    pthread_mutex_unlock(&turns->lock);
    return rc;
}

void tp_turns_pass(struct tp_turns *turns)
{
    pthread_mutex_lock(&turns->lock);
    turns->passed++;
    pthread_cond_broadcast(&turns->changed);
    pthread_mutex_unlock(&turns->lock);
}

int tp_turns_fail(struct tp_turns *turns, int rc, const struct tp_error *error)
{
    pthread_mutex_lock(&turns->lock);
    if (turns->error == 0) {
        turns->error = rc;
        turns->message = *error;
    }
    pthread_cond_broadcast(&turns->changed);
    pthread_mutex_unlock(&turns->lock);
    return rc;
}
