#include "infer/model/held.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

int tp_held_init(struct tp_held *held, const size_t *windows, size_t n_layers)
{
    *held = (struct tp_held){.n_layers = n_layers,
                             .windows = windows,
                             .capacities = calloc(n_layers, sizeof *held->capacities),
                             .firsts = calloc(n_layers, sizeof *held->firsts)};
    if (held->capacities != NULL && held->firsts != NULL)
        return 0;
    tp_held_fini(held);
    return -ENOMEM;
}

void tp_held_fini(struct tp_held *held)
{
    free(held->capacities);
    free(held->firsts);
    *held = (struct tp_held){0};
}

size_t tp_held_first(const struct tp_held *held, size_t layer)
{
    size_t capacity = held->capacities[layer], longest = most(held->longest, held->length);
    return most(held->firsts[layer], longest > capacity ? longest - capacity : 0);
}

/* True if every layer has all that the position `length` will look at. */
static bool still_has(const struct tp_held *held, size_t length)
{
    for (size_t i = 0; i < held->n_layers; i++) {
        size_t window = held->windows[i], first = tp_held_first(held, i);
        if (first > 0 && (window == 0 || first > length || length + 1 - first < window))
            return false;
    }
    return true;
}

static void empty(struct tp_held *held)
{
    held->length = held->longest = 0;
    memset(held->firsts, 0, held->n_layers * sizeof *held->firsts);
}

int tp_held_cut(struct tp_held *held, size_t length)
{
    if (length >= held->length)
        return length == held->length ? 0 : -ERANGE;
    if (length == 0) {
        empty(held);
        return 0;
    }
    if (!still_has(held, length))
        return -ERANGE;
    held->longest = most(held->longest, held->length);
    held->length = length;
    return 0;
}

int tp_held_resume(struct tp_held *held, const size_t *firsts, size_t length)
{
    memcpy(held->firsts, firsts, held->n_layers * sizeof *firsts);
    held->length = length;
    if (still_has(held, length))
        return 0;
    empty(held);
    return -ERANGE;
}
