/* Texts that go on by themselves: steps are queued ahead of what the host has seen of them. */
#ifndef TENSORPORT_CUDA_DECODING_H
#define TENSORPORT_CUDA_DECODING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda/runner.h"
#include "infer/backend.h"

/* Steps whose tokens nobody has asked for: one that runs, and one to go on with. They can be taken
 * back: rings of layers with a window have room for steps of at least TP_FEW tokens. */
enum { TP_DECODING_AHEAD = 2 };

/* Private. */
struct tp_decoding {
    struct tp_runner *runner;
    size_t n;                   /* texts; 0: none go on */
    struct tp_step_item *items; /* [n], in room for a step's tokens, like the next */
    uint64_t *seeds;
    size_t n_left;    /* steps to be queued */
    size_t n_ahead;   /* that were, and whose tokens nobody has asked for */
    size_t next;      /* place of the next to be queued */
    uint32_t *tokens; /* [TP_DECODING_AHEAD][capacity]: the host's, for the device to write */
    size_t capacity;
    struct tp_device_mark *marks[TP_DECODING_AHEAD]; /* tokens are there */
};

/* For up to `capacity` texts. tp_decoding_free() is to be called whatever came of it. */
int tp_decoding_allocate(struct tp_decoding *decoding, struct tp_runner *runner, size_t capacity,
                         struct tp_error *error);
void tp_decoding_free(struct tp_decoding *decoding);

/* See struct tp_backend_kind. */
int tp_decoding_begin(struct tp_decoding *decoding, const struct tp_decoding_text *texts, size_t n,
                      const struct tp_sampling *sampling, size_t n_most, struct tp_error *error);
int tp_decoding_next(struct tp_decoding *decoding, uint32_t *ret_tokens, struct tp_error *error);
int tp_decoding_end(struct tp_decoding *decoding, struct tp_error *error);

#endif
