#include "cuda/peaks.h"

#include <errno.h>

#include "cuda/kernels.h"

enum {
    MEMORY_SHARE = 64, /* of each of two buffers */
    COPY_BLOCKS_PER_MULTIPROCESSOR = 8,
    MULTIPLY_BLOCKS_PER_MULTIPROCESSOR = 2,
    N_PASSES = 5,
    STEPS_MAX = 1 << 18,
    TILE_MULTIPLY_ADDS = 16 * 8 * 16,
};

/* Far above any cache; below the least, a buffer that has room says nothing of memory. */
static const uint64_t BYTES_MAX = UINT64_C(1) << 30, BYTES_LEAST = UINT64_C(1) << 16;

/* Long beside what a launch takes. */
static const double LONG_ENOUGH_SECONDS = 1e-3;

struct measuring {
    struct tp_device *device;
    const struct tp_device_facts *facts;
    struct tp_device_clock *clock;
    struct tp_error *error;
};

/* The least time of several launches. */
static int time_launch(const struct measuring *m, const struct tp_launch *launch, size_t n,
                       double *ret_seconds)
{
    double least = 0, seconds = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = tp_device_clock_start(m->device, m->clock, m->error);
        if (rc == 0)
            rc = tp_device_launch(m->device, launch, m->error);
        if (rc == 0)
            rc = tp_device_clock_stop(m->device, m->clock, &seconds, m->error);
        if (i == 0 || seconds < least)
            least = seconds;
    }
    if (rc == 0)
        *ret_seconds = least > 0 ? least : 1e-9;
    return rc;
}

/* Two buffers in one piece, halved until there is room. */
static int allocate_buffers(const struct measuring *m, uint64_t *ret_bytes, void **ret_memory)
{
    uint64_t bytes = m->facts->memory_bytes / MEMORY_SHARE;
    bytes = bytes > BYTES_MAX ? BYTES_MAX : bytes;
    bytes = bytes < BYTES_LEAST ? BYTES_LEAST : bytes / BYTES_LEAST * BYTES_LEAST;
    int rc = tp_device_allocate(m->device, 2 * bytes, ret_memory, m->error);
    while (rc == -ENOMEM && bytes / 2 >= BYTES_LEAST) {
        bytes = bytes / 2 / BYTES_LEAST * BYTES_LEAST;
        rc = tp_device_allocate(m->device, 2 * bytes, ret_memory, m->error);
    }
    if (rc == 0)
        *ret_bytes = bytes;
    return rc;
}

static int measure_copying(const struct measuring *m, double *ret_bandwidth)
{
    uint64_t bytes = 0;
    double seconds = 0;
    void *memory = NULL;
    int rc = allocate_buffers(m, &bytes, &memory);
    if (rc < 0)
        return rc;
    struct tp_peak_copy a = {.source = memory, .target = (uint8_t *)memory + bytes, .bytes = bytes};
    struct tp_launch launch = {
        .kernel = tp_peak_copy,
        .arguments = &a,
        .argument_bytes = sizeof a,
        .grid = {(unsigned)m->facts->n_multiprocessors * COPY_BLOCKS_PER_MULTIPROCESSOR, 1, 1},
        .threads = TP_PEAK_THREADS};
    rc = tp_device_zero(m->device, memory, 2 * bytes, m->error);
    if (rc == 0)
        rc = time_launch(m, &launch, N_PASSES, &seconds);
    if (rc == 0)
        *ret_bandwidth = 2 * (double)bytes / seconds;
    tp_device_free(m->device, memory);
    return rc;
}

static int measure_multiplying(const struct measuring *m, double *ret_multiply_adds)
{
    unsigned blocks = (unsigned)m->facts->n_multiprocessors * MULTIPLY_BLOCKS_PER_MULTIPROCESSOR;
    struct tp_peak_multiply a = {.steps = 1};
    struct tp_launch launch = {.kernel = tp_peak_multiply,
                               .arguments = &a,
                               .argument_bytes = sizeof a,
                               .grid = {blocks, 1, 1},
                               .threads = TP_PEAK_THREADS};
    double seconds = 0;
    void *sums;
    int rc =
        tp_device_allocate(m->device, blocks * TP_PEAK_THREADS * sizeof *a.sums, &sums, m->error);
    if (rc < 0)
        return rc;
    a.sums = sums;
    rc = time_launch(m, &launch, 1, &seconds);
    for (; rc == 0 && seconds < LONG_ENOUGH_SECONDS && a.steps < STEPS_MAX;) {
        a.steps *= 4;
        rc = time_launch(m, &launch, 1, &seconds);
    }
    /* What was slow enough at once is not worth waiting for again. */
    if (rc == 0 && a.steps > 1)
        rc = time_launch(m, &launch, N_PASSES, &seconds);
    if (rc == 0)
        *ret_multiply_adds = (double)blocks * (TP_PEAK_THREADS / 32.0) * TP_PEAK_CHAINS * a.steps *
                             TILE_MULTIPLY_ADDS / seconds;
    tp_device_free(m->device, sums);
    return rc;
}

int tp_peaks_of_device(struct tp_device *device, const struct tp_device_facts *facts,
                       struct tp_peaks *ret_peaks, struct tp_error *error)
{
    struct measuring m = {.device = device, .facts = facts, .error = error};
    struct tp_peaks peaks = {0};
    int rc = tp_device_clock_new(device, &m.clock, error);
    if (rc < 0)
        return rc;
    rc = measure_copying(&m, &peaks.copy_bandwidth);
    if (rc == 0 && facts->has_tiles)
        rc = measure_multiplying(&m, &peaks.multiply_adds);
    tp_device_clock_free(device, m.clock);
    if (rc == 0)
        *ret_peaks = peaks;
    return rc;
}
