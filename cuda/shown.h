/* What a trace is shown of a step (struct tp_trace). The step runs in pieces, so values are
 * collected from the device as they are made, and shown in order when the step is done. */
#ifndef TENSORPORT_CUDA_SHOWN_H
#define TENSORPORT_CUDA_SHOWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda/device.h"
#include "infer/backend.h"

struct tp_shown_values; /* of one name and layer */

struct tp_shown {
    const struct tp_trace *trace; /* NULL: nothing is collected */
    size_t n_rows;                /* tokens of the step */
    size_t first;                 /* the piece's first */
    struct tp_shown_values *values;
    size_t n;
};

/* Rows [n][columns] of the piece, which are on the device; or numbers, which become float. Waits
 * for them. -ENOMEM and what a device fails with, with a message. */
int tp_shown_add(struct tp_shown *shown, struct tp_device *device, const char *name, size_t layer,
                 const float *rows, size_t n, size_t columns, struct tp_error *error);
int tp_shown_add_numbers(struct tp_shown *shown, struct tp_device *device, const char *name,
                         size_t layer, const uint32_t *rows, size_t n, size_t columns,
                         struct tp_error *error);

/* True if the chosen experts are all that is wanted: then a step need not stop for each layer, and
 * tp_shown_add() does nothing. They are added when the step is done: [n_layers][stride], of which
 * the first n * k numbers are a layer's. */
bool tp_shown_wants_experts_only(const struct tp_shown *shown);
int tp_shown_add_experts(struct tp_shown *shown, struct tp_device *device, const uint32_t *chosen,
                         size_t n_layers, size_t stride, size_t n, size_t k,
                         struct tp_error *error);

/* Shows all of it. */
void tp_shown_emit(const struct tp_shown *shown);
void tp_shown_free(struct tp_shown *shown);

#endif
