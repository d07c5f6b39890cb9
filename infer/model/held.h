/* Which positions of a sequence a backend still holds, layer by layer: a layer with a window keeps
 * its keys and values in a ring, so that going back is possible only as far as the rings reach. */
#ifndef TENSORPORT_INFER_MODEL_HELD_H
#define TENSORPORT_INFER_MODEL_HELD_H

#include <stdbool.h>
#include <stddef.h>

struct tp_held {
    size_t length;  /* tokens the sequence has */
    size_t longest; /* that it had at most since it was empty: what rings have dropped */
    size_t n_layers;
    const size_t *windows; /* [n_layers], the configuration's */
    size_t *capacities;    /* [n_layers]: positions a layer has room for */
    size_t *firsts; /* [n_layers]: positions before were never stored; not 0 after an import */
};

/* An empty sequence with capacities 0, to be set by the caller. -ENOMEM. */
int tp_held_init(struct tp_held *held, const size_t *windows, size_t n_layers);
void tp_held_fini(struct tp_held *held);

/* The first position that the layer still has. */
size_t tp_held_first(const struct tp_held *held, size_t layer);

/* sequence_cut and sequence_resume of struct tp_backend_kind. */
int tp_held_cut(struct tp_held *held, size_t length);
int tp_held_resume(struct tp_held *held, const size_t *firsts, size_t length);

#endif
