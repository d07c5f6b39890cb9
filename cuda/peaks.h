/* What a device can do at most: copying its memory, and multiplying in registers. */
#ifndef TENSORPORT_CUDA_PEAKS_H
#define TENSORPORT_CUDA_PEAKS_H

#include <stdint.h>

#include "cuda/device.h"

struct tp_peaks {
    double copy_bandwidth; /* bytes a second, those read and those written together */
    double multiply_adds;  /* a second, by tp_multiply_tiles(); 0 where there is none */
};

/* The best of several, in less than a second. Takes up to 1/32 of the device's memory meanwhile,
 * less if there is less. -ENOMEM and what a device fails with, with a message. */
int tp_peaks_of_device(struct tp_device *device, const struct tp_device_facts *facts,
                       struct tp_peaks *ret_peaks, struct tp_error *error);

#endif
