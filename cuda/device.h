/* What the host side of the backend asks of a device. There are two: CUDA's runtime
 * (device_cuda.c), and in the tests the harness that runs kernels on the CPU. All work goes to one
 * stream, in order, and nothing waits for it but what says so. */
#ifndef TENSORPORT_CUDA_DEVICE_H
#define TENSORPORT_CUDA_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "decode/error.h"

struct tp_device;

struct tp_device_facts {
    char name[256];            /* "NVIDIA H200" */
    unsigned architecture;     /* 90: compute capability 9.0 */
    bool has_tiles;            /* tp_multiply_tiles() works: tensor cores with BF16 */
    size_t n_multiprocessors;  /* blocks that run at the same time, at least */
    size_t shared_bytes_max;   /* of one block */
    uint64_t memory_bytes;     /* all of it */
    uint64_t memory_available; /* for allocations, when the device was opened */
};

/* The address of a kernel: a function of kernels.h. */
typedef void tp_kernel_fn(void);

struct tp_launch {
    tp_kernel_fn *kernel;
    const void *arguments; /* the kernel's struct, copied before the launch returns */
    size_t argument_bytes;
    unsigned grid[3];
    unsigned threads; /* of a block; a multiple of 32 */
    size_t shared_bytes;
    bool follows; /* calls tp_wait_for_previous(): may begin while the one before still runs */
};

/* Every function but close and free returns 0 or a negative errno with a message: -ENODEV when
 * there is no device, no driver, or one that is too old; -ENOMEM when it has no room; -EIO when it
 * failed. A device that has failed once fails from then on. One thread at a time, but where it says
 * otherwise. */

/* The first device, or the one that CUDA_VISIBLE_DEVICES makes the first. */
int tp_device_open(struct tp_device **ret_device, struct tp_device_facts *ret_facts,
                   struct tp_error *error);

/* Waits for what is in progress. Memory must have been freed. NULL is allowed. */
void tp_device_close(struct tp_device *device);

/* The device that the calling thread uses, for launches on a stream that is somebody else's; it is
 * neither waited for nor destroyed. Facts are looked up once for each device, memory_available
 * among them. Any thread; the device belongs to it. */
int tp_device_adopt(void *stream, struct tp_device **ret_device,
                    const struct tp_device_facts **ret_facts, struct tp_error *error);
void tp_device_release(struct tp_device *device);

/* Memory of the device, aligned to 256, of any content. */
int tp_device_allocate(struct tp_device *device, size_t bytes, void **ret_memory,
                       struct tp_error *error);
void tp_device_free(struct tp_device *device, void *memory);

/* Bytes that allocations can have now. */
int tp_device_memory_available(struct tp_device *device, uint64_t *ret_bytes,
                               struct tp_error *error);

/* Memory of the host that copies can use while it is read or written elsewhere. */
int tp_device_allocate_host(struct tp_device *device, size_t bytes, void **ret_memory,
                            struct tp_error *error);
void tp_device_free_host(struct tp_device *device, void *memory);

/* In the order of the stream. `source` or `target` on the host must stay until a wait, unless it is
 * no memory of tp_device_allocate_host(): then the call itself waits until it was read or written.
 * Several threads may upload at once. */
int tp_device_upload(struct tp_device *device, void *target, const void *source, size_t bytes,
                     struct tp_error *error);
int tp_device_download(struct tp_device *device, void *target, const void *source, size_t bytes,
                       struct tp_error *error);
int tp_device_zero(struct tp_device *device, void *target, size_t bytes, struct tp_error *error);

int tp_device_launch(struct tp_device *device, const struct tp_launch *launch,
                     struct tp_error *error);

/* Until all work is done. What a kernel did wrong is told here at the latest. */
int tp_device_wait(struct tp_device *device, struct tp_error *error);

/* A point of the stream: what was asked for before tp_device_mark_set() is done when
 * tp_device_mark_wait() returns; at once, if it was never set. Threads may set and wait for marks
 * of their own at once. */
struct tp_device_mark;
int tp_device_mark_new(struct tp_device *device, struct tp_device_mark **ret_mark,
                       struct tp_error *error);
void tp_device_mark_free(struct tp_device *device, struct tp_device_mark *mark);
int tp_device_mark_set(struct tp_device *device, struct tp_device_mark *mark,
                       struct tp_error *error);
int tp_device_mark_wait(struct tp_device *device, struct tp_device_mark *mark,
                        struct tp_error *error);

/* Launches between begin and end are not made but recorded, and made together by replay, with the
 * arguments that they had. One recording at a time; memory must not be allocated meanwhile. */
struct tp_recording;
int tp_device_record_begin(struct tp_device *device, struct tp_error *error);
int tp_device_record_end(struct tp_device *device, struct tp_recording **ret_recording,
                         struct tp_error *error);
int tp_device_replay(struct tp_device *device, struct tp_recording *recording,
                     struct tp_error *error);
void tp_device_recording_free(struct tp_device *device, struct tp_recording *recording);

/* Seconds between two points of the stream. */
struct tp_device_clock;
int tp_device_clock_new(struct tp_device *device, struct tp_device_clock **ret_clock,
                        struct tp_error *error);
void tp_device_clock_free(struct tp_device *device, struct tp_device_clock *clock);
int tp_device_clock_start(struct tp_device *device, struct tp_device_clock *clock,
                          struct tp_error *error);
/* Waits. */
int tp_device_clock_stop(struct tp_device *device, struct tp_device_clock *clock,
                         double *ret_seconds, struct tp_error *error);

#ifdef __cplusplus
}
#endif

#endif
