/* cuda/device.h without a device: memory is the host's, and kernels run in the harness, at once.
 *
 * The environment says what device it is, for tests:
 *
 *     TENSORPORT_HARNESS_SEED    of the order in which threads run (default 1)
 *     TENSORPORT_HARNESS_TILES   0: without tensor cores
 *     TENSORPORT_HARNESS_MEMORY  bytes that it has (default 1 GiB)
 *     TENSORPORT_HARNESS_FAIL    "open", or how many launches succeed before one fails
 */
#include "cuda/device.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/clock.h"
#include "tests/cuda/grid.h"
#include "tests/cuda/watch.h"

enum { ALIGNMENT = 256, POISON = 0xff };

struct tp_device {
    uint64_t memory_bytes, taken;
    uint64_t seed, launches, launches_until_fault;
    bool failed;
    struct tp_recording *recording; /* in progress */
};

/* In front of each allocation. */
struct header {
    uint64_t bytes;
    uint8_t rest[ALIGNMENT - sizeof(uint64_t)];
};

static uint64_t number_in(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL && text[0] >= '0' && text[0] <= '9' ? strtoull(text, NULL, 10) : otherwise;
}

int tp_device_open(struct tp_device **ret_device, struct tp_device_facts *ret_facts,
                   struct tp_error *error)
{
    const char *fault = getenv("TENSORPORT_HARNESS_FAIL");
    if (fault != NULL && strcmp(fault, "open") == 0)
        return tp_error_set(error, -ENODEV, "no device was found");
    struct tp_device *device = calloc(1, sizeof *device);
    if (device == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    device->seed = number_in("TENSORPORT_HARNESS_SEED", 1);
    device->memory_bytes = number_in("TENSORPORT_HARNESS_MEMORY", UINT64_C(1) << 30);
    device->launches_until_fault = number_in("TENSORPORT_HARNESS_FAIL", UINT64_MAX);
    *ret_facts = (struct tp_device_facts){
        .name = "harness",
        .architecture = 90,
        .has_tiles = number_in("TENSORPORT_HARNESS_TILES", 1) != 0,
        .n_multiprocessors = 2,
        .shared_bytes_max = TP_GRID_SHARED_MAX,
        .memory_bytes = device->memory_bytes,
        .memory_available = device->memory_bytes,
    };
    *ret_device = device;
    return 0;
}

void tp_device_close(struct tp_device *device)
{
    free(device);
}

int tp_device_allocate(struct tp_device *device, size_t bytes, void **ret_memory,
                       struct tp_error *error)
{
    struct header *header = NULL;
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (bytes > device->memory_bytes - device->taken)
        return tp_error_set(error, -ENOMEM,
                            "harness: no memory for %zu bytes: %" PRIu64 " of %" PRIu64 " are free",
                            bytes, device->memory_bytes - device->taken, device->memory_bytes);
    header = aligned_alloc(ALIGNMENT, sizeof *header + rounded);
    if (header == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    header->bytes = bytes;
    device->taken += bytes;
    memset(header + 1, POISON, rounded);
    tp_watch_add(header + 1, bytes);
    *ret_memory = header + 1;
    return 0;
}

void tp_device_free(struct tp_device *device, void *memory)
{
    if (memory == NULL)
        return;
    struct header *header = (struct header *)memory - 1;
    tp_watch_remove(memory);
    device->taken -= header->bytes;
    free(header);
}

int tp_device_allocate_host(struct tp_device *device, size_t bytes, void **ret_memory,
                            struct tp_error *error)
{
    (void)device;
    *ret_memory = calloc(1, bytes + 1);
    return *ret_memory != NULL ? 0 : tp_error_set(error, -ENOMEM, "out of memory");
}

void tp_device_free_host(struct tp_device *device, void *memory)
{
    (void)device;
    free(memory);
}

/* ---- work ---- */

static int check(const struct tp_device *device, struct tp_error *error)
{
    return device->failed ? tp_error_set(error, -EIO, "harness: the device has failed") : 0;
}

int tp_device_upload(struct tp_device *device, void *target, const void *source, size_t bytes,
                     struct tp_error *error)
{
    int rc = check(device, error);
    tp_watch_settle();
    if (rc == 0)
        memcpy(target, source, bytes);
    return rc;
}

int tp_device_download(struct tp_device *device, void *target, const void *source, size_t bytes,
                       struct tp_error *error)
{
    return tp_device_upload(device, target, source, bytes, error);
}

int tp_device_zero(struct tp_device *device, void *target, size_t bytes, struct tp_error *error)
{
    int rc = check(device, error);
    tp_watch_settle();
    if (rc == 0)
        memset(target, 0, bytes);
    return rc;
}

int tp_device_wait(struct tp_device *device, struct tp_error *error)
{
    return check(device, error);
}

/* A launch with arguments of its own. */
struct recorded {
    struct tp_launch launch;
    void *arguments;
};

struct tp_recording {
    struct recorded *launches;
    size_t n;
};

static int record(struct tp_recording *recording, const struct tp_launch *launch,
                  struct tp_error *error)
{
    struct recorded *launches =
        realloc(recording->launches, (recording->n + 1) * sizeof *recording->launches);
    void *arguments = malloc(launch->argument_bytes);
    if (launches != NULL)
        recording->launches = launches;
    if (launches == NULL || arguments == NULL) {
        free(arguments);
        return tp_error_set(error, -ENOMEM, "out of memory");
    }
    memcpy(arguments, launch->arguments, launch->argument_bytes);
    launches[recording->n] = (struct recorded){*launch, arguments};
    launches[recording->n++].launch.arguments = arguments;
    return 0;
}

static int run(struct tp_device *device, const struct tp_launch *launch, struct tp_error *error)
{
    struct tp_grid grid = {
        .kernel = (tp_grid_kernel_fn *)launch->kernel,
        .arguments = launch->arguments,
        .argument_bytes = launch->argument_bytes,
        .blocks = {launch->grid[0], launch->grid[1], launch->grid[2]},
        .threads = launch->threads,
        .shared_bytes = launch->shared_bytes,
        .follows = launch->follows,
        .seed = device->seed * UINT64_C(0x9e3779b97f4a7c15) + device->launches,
    };
    if (device->launches++ == device->launches_until_fault) {
        device->failed = true;
        return tp_error_set(error, -EIO, "harness: an error in a kernel, as was asked for");
    }
    int rc = tp_grid_run(&grid, error);
    device->failed = rc < 0;
    return rc;
}

int tp_device_launch(struct tp_device *device, const struct tp_launch *launch,
                     struct tp_error *error)
{
    int rc = check(device, error);
    if (rc < 0)
        return rc;
    return device->recording != NULL ? record(device->recording, launch, error)
                                     : run(device, launch, error);
}

int tp_device_record_begin(struct tp_device *device, struct tp_error *error)
{
    device->recording = calloc(1, sizeof *device->recording);
    return device->recording != NULL ? 0 : tp_error_set(error, -ENOMEM, "out of memory");
}

int tp_device_record_end(struct tp_device *device, struct tp_recording **ret_recording,
                         struct tp_error *error)
{
    (void)error;
    *ret_recording = device->recording;
    device->recording = NULL;
    return 0;
}

int tp_device_replay(struct tp_device *device, struct tp_recording *recording,
                     struct tp_error *error)
{
    int rc = check(device, error);
    for (size_t i = 0; rc == 0 && i < recording->n; i++)
        rc = run(device, &recording->launches[i].launch, error);
    return rc;
}

void tp_device_recording_free(struct tp_device *device, struct tp_recording *recording)
{
    (void)device;
    for (size_t i = 0; recording != NULL && i < recording->n; i++)
        free(recording->launches[i].arguments);
    if (recording != NULL)
        free(recording->launches);
    free(recording);
}

/* ---- time ---- */

struct tp_device_clock {
    double start;
};

int tp_device_clock_new(struct tp_device *device, struct tp_device_clock **ret_clock,
                        struct tp_error *error)
{
    (void)device;
    *ret_clock = calloc(1, sizeof **ret_clock);
    return *ret_clock != NULL ? 0 : tp_error_set(error, -ENOMEM, "out of memory");
}

void tp_device_clock_free(struct tp_device *device, struct tp_device_clock *clock)
{
    (void)device;
    free(clock);
}

int tp_device_clock_start(struct tp_device *device, struct tp_device_clock *clock,
                          struct tp_error *error)
{
    clock->start = tp_clock_seconds();
    return check(device, error);
}

int tp_device_clock_stop(struct tp_device *device, struct tp_device_clock *clock,
                         double *ret_seconds, struct tp_error *error)
{
    *ret_seconds = tp_clock_seconds() - clock->start;
    return check(device, error);
}
