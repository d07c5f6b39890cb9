/* Copying arrays of the host into one piece of a device's memory, by several threads: while the
 * device fetches what was read, the next is read.
 *
 *     mapped files ──readers──▶ pieces that the device can read ──stream──▶ its memory
 *
 * A reader has two pieces. It fills one while the other is on its way, and fills that again when a
 * mark behind its copy says that it has arrived. So arrays are read once, in order, in long pieces;
 * files that are not in the page cache are read by all threads at once. */
#ifndef TENSORPORT_CUDA_UPLOAD_H
#define TENSORPORT_CUDA_UPLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda/device.h"
#include "decode/error.h"

enum { TP_UPLOAD_ALIGNMENT = 256 }; /* of arrays on the device */

struct tp_upload_array {
    const void *source;
    uint64_t bytes;  /* at least 1 */
    uint64_t offset; /* in the device's memory; a multiple of the alignment, ascending */
    bool is_scales;  /* E8M0: of these the largest is wanted, NaN left aside */
    uint8_t largest; /* comes out: plus 1; 0 if there is none */
};

struct tp_upload {
    struct tp_device *device;
    void *memory; /* the device's */
    uint64_t bytes;
    struct tp_upload_array *arrays; /* [n] */
    size_t n;
    size_t n_readers;                                  /* 0: as many as suit the machine */
    void (*see_loaded)(void *context, uint64_t bytes); /* see struct tp_backend_options */
    void *see_context;
};

/* Returns when all is there, padding between the arrays as zeros. -ENOMEM and what a device fails
 * with, with a message; a file that cannot be read is the mapping's guard's. */
int tp_upload_run(const struct tp_upload *upload, struct tp_error *error);

#endif
