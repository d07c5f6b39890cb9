/* cuda/device.h without a device: memory is the host's, and kernels run in the harness, at once.
 *
 * Copies from memory of tp_device_allocate_host() are made as late as the interface allows, when
 * somebody waits for them or needs what they bring: memory that is written again before shows as
 * wrong bytes on the device. Freeing it before ends the program.
 *
 * The environment says what device it is, for tests:
 *
 *     TENSORPORT_HARNESS_SEED    of the order in which threads run (default 1)
 *     TENSORPORT_HARNESS_TILES   0: without tensor cores
 *     TENSORPORT_HARNESS_MEMORY  bytes that it has (default 1 GiB)
 *     TENSORPORT_HARNESS_FAIL    "open", or how many launches succeed before one fails; in the same
 *                                manner "allocate:N", "allocate_host:N" and "upload:N"
 *
 *     TENSORPORT_HARNESS_HOLD    a FIFO: the first allocation of the host's memory, which is for
 *                                loading, waits until somebody has opened it for writing, and
 *                                closed it
 */
#include "cuda/device.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/clock.h"
#include "tests/cuda/grid.h"
#include "tests/cuda/watch.h"

enum { ALIGNMENT = 256, POISON = 0xff };

/* What can be made to fail. */
enum { LAUNCH, ALLOCATE, ALLOCATE_HOST, UPLOAD, N_FALLIBLE };

/* A copy that has been asked for. */
struct copy {
    void *target;
    const void *source;
    size_t bytes;
    bool fails;
    struct copy *next;
};

/* In front of each allocation of the device's memory, and of the host's. */
struct header {
    uint64_t bytes;
    struct header *next; /* of the host's */
    uint8_t rest[ALIGNMENT - sizeof(uint64_t) - sizeof(struct header *)];
};

struct tp_device {
    uint64_t memory_bytes, taken;
    uint64_t seed, launches;
    struct tp_recording *recording; /* in progress */
    bool was_held;

    pthread_mutex_t lock; /* protects the following: what several threads may ask for at once */
    uint64_t left[N_FALLIBLE]; /* how often each will succeed */
    bool failed;               /* with the error `failure`, and so does all that follows */
    struct tp_error failure;
    struct header *host; /* all of the host's memory that copies can use later */
    struct copy *copies, **last;
    uint64_t n_asked, n_made; /* copies so far */
};

struct tp_device_mark {
    uint64_t n_asked; /* copies that came before */
};

static uint64_t number_in(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL && text[0] >= '0' && text[0] <= '9' ? strtoull(text, NULL, 10) : otherwise;
}

/* "upload:3", or "3" of launches. */
static void read_faults(uint64_t left[N_FALLIBLE])
{
    static const char *const names[] = {"", "allocate:", "allocate_host:", "upload:"};
    const char *fault = getenv("TENSORPORT_HARNESS_FAIL");
    for (size_t i = 0; i < N_FALLIBLE; i++) {
        size_t n = strlen(names[i]);
        bool named = fault != NULL && strncmp(fault, names[i], n) == 0;
        left[i] = named && fault[n] >= '0' && fault[n] <= '9' ? strtoull(fault + n, NULL, 10)
                                                              : UINT64_MAX;
    }
}

/* False when this one is to fail, as are all that follow. */
static bool succeeds(struct tp_device *device, size_t what)
{
    bool any = device->left[what] > 0;
    device->left[what] -= any && device->left[what] != UINT64_MAX;
    return any;
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
    device->last = &device->copies;
    pthread_mutex_init(&device->lock, NULL);
    read_faults(device->left);
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
    if (device == NULL)
        return;
    if (device->taken != 0 || device->host != NULL) {
        fprintf(stderr, "harness: closed before all memory was freed\n");
        abort();
    }
    pthread_mutex_destroy(&device->lock);
    free(device);
}

/* A stream is any address but NULL. What it was asked to do before has been done. */
int tp_device_adopt(void *stream, struct tp_device **ret_device,
                    const struct tp_device_facts **ret_facts, struct tp_error *error)
{
    static struct tp_device_facts facts;
    if (stream == NULL)
        return tp_error_set(error, -EIO, "harness: no stream");
    int rc = tp_device_open(ret_device, &facts, error);
    if (rc == 0)
        *ret_facts = &facts;
    return rc;
}

void tp_device_release(struct tp_device *device)
{
    tp_device_close(device);
}

/* ---- memory ---- */

/* Where a test wants something to happen while weights are loaded. */
static void hold(struct tp_device *device)
{
    const char *fifo = getenv("TENSORPORT_HARNESS_HOLD");
    int fd = fifo != NULL && !device->was_held ? open(fifo, O_RDONLY | O_CLOEXEC) : -1;
    char byte;
    device->was_held = true;
    while (fd >= 0 && read(fd, &byte, 1) > 0)
        continue;
    if (fd >= 0)
        close(fd);
}

static struct header *allocate(size_t bytes)
{
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    struct header *header = aligned_alloc(ALIGNMENT, sizeof *header + rounded);
    if (header == NULL)
        return NULL;
    header->bytes = bytes;
    memset(header + 1, POISON, rounded);
    return header;
}

int tp_device_allocate(struct tp_device *device, size_t bytes, void **ret_memory,
                       struct tp_error *error)
{
    if (bytes > device->memory_bytes - device->taken || !succeeds(device, ALLOCATE))
        return tp_error_set(error, -ENOMEM,
                            "harness: no memory for %zu bytes: %" PRIu64 " of %" PRIu64 " are free",
                            bytes, device->memory_bytes - device->taken, device->memory_bytes);
    struct header *header = allocate(bytes);
    if (header == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    device->taken += bytes;
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

int tp_device_memory_available(struct tp_device *device, uint64_t *ret_bytes,
                               struct tp_error *error)
{
    (void)error;
    *ret_bytes = device->memory_bytes - device->taken;
    return 0;
}

int tp_device_allocate_host(struct tp_device *device, size_t bytes, void **ret_memory,
                            struct tp_error *error)
{
    hold(device);
    if (!succeeds(device, ALLOCATE_HOST))
        return tp_error_set(error, -ENOMEM, "harness: cannot lock %zu bytes of the host's memory",
                            bytes);
    struct header *header = allocate(bytes);
    if (header == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    header->next = device->host;
    device->host = header;
    *ret_memory = header + 1;
    return 0;
}

static bool is_within(const struct header *header, const void *memory)
{
    const uint8_t *at = memory, *begin = (const uint8_t *)(header + 1);
    return at >= begin && at < begin + header->bytes;
}

void tp_device_free_host(struct tp_device *device, void *memory)
{
    if (memory == NULL)
        return;
    struct header **link = &device->host, *header = (struct header *)memory - 1;
    for (const struct copy *copy = device->copies; copy != NULL; copy = copy->next) {
        if (is_within(header, copy->source)) {
            fprintf(stderr, "harness: memory was freed before it was copied\n");
            abort();
        }
    }
    while (*link != header)
        link = &(*link)->next;
    *link = header->next;
    free(header);
}

/* ---- copies; all with the lock ---- */

static int check(const struct tp_device *device, struct tp_error *error)
{
    return device->failed ? tp_error_set(error, -EIO, "%s", device->failure.text) : 0;
}

static bool is_host(const struct tp_device *device, const void *memory)
{
    const struct header *header = device->host;
    while (header != NULL && !is_within(header, memory))
        header = header->next;
    return header != NULL;
}

static int ask_for_copy(struct tp_device *device, void *target, const void *source, size_t bytes,
                        struct tp_error *error)
{
    struct copy *copy = malloc(sizeof *copy);
    if (copy == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    *copy = (struct copy){target, source, bytes, !succeeds(device, UPLOAD), NULL};
    *device->last = copy;
    device->last = &copy->next;
    device->n_asked++;
    return 0;
}

/* Makes copies until `n` have been made since the beginning; after a failure, none. */
static int make_copies(struct tp_device *device, uint64_t n, struct tp_error *error)
{
    int rc = check(device, error);
    while (device->copies != NULL && (rc < 0 || device->n_made < n)) {
        struct copy *copy = device->copies;
        if (rc == 0 && copy->fails) {
            device->failed = true;
            tp_error_set(&device->failure, -EIO, "harness: an error in a copy, as was asked for");
            rc = check(device, error);
        }
        if (rc == 0)
            memcpy(copy->target, copy->source, copy->bytes);
        device->copies = copy->next;
        if (device->copies == NULL)
            device->last = &device->copies;
        device->n_made++;
        free(copy);
    }
    return rc;
}

int tp_device_upload(struct tp_device *device, void *target, const void *source, size_t bytes,
                     struct tp_error *error)
{
    pthread_mutex_lock(&device->lock);
    int rc = check(device, error);
    tp_watch_settle();
    if (rc == 0)
        rc = ask_for_copy(device, target, source, bytes, error);
    if (rc == 0 && !is_host(device, source))
        rc = make_copies(device, device->n_asked, error);
    pthread_mutex_unlock(&device->lock);
    return rc;
}

int tp_device_wait(struct tp_device *device, struct tp_error *error)
{
    pthread_mutex_lock(&device->lock);
    int rc = make_copies(device, device->n_asked, error);
    pthread_mutex_unlock(&device->lock);
    return rc;
}

int tp_device_download(struct tp_device *device, void *target, const void *source, size_t bytes,
                       struct tp_error *error)
{
    int rc = tp_device_wait(device, error);
    if (rc == 0)
        memcpy(target, source, bytes);
    return rc;
}

int tp_device_zero(struct tp_device *device, void *target, size_t bytes, struct tp_error *error)
{
    int rc = tp_device_wait(device, error);
    tp_watch_settle();
    if (rc == 0)
        memset(target, 0, bytes);
    return rc;
}

/* ---- marks ---- */

int tp_device_mark_new(struct tp_device *device, struct tp_device_mark **ret_mark,
                       struct tp_error *error)
{
    (void)device;
    *ret_mark = calloc(1, sizeof **ret_mark);
    return *ret_mark != NULL ? 0 : tp_error_set(error, -ENOMEM, "out of memory");
}

void tp_device_mark_free(struct tp_device *device, struct tp_device_mark *mark)
{
    (void)device;
    free(mark);
}

int tp_device_mark_set(struct tp_device *device, struct tp_device_mark *mark,
                       struct tp_error *error)
{
    pthread_mutex_lock(&device->lock);
    mark->n_asked = device->n_asked;
    int rc = check(device, error);
    pthread_mutex_unlock(&device->lock);
    return rc;
}

int tp_device_mark_wait(struct tp_device *device, struct tp_device_mark *mark,
                        struct tp_error *error)
{
    pthread_mutex_lock(&device->lock);
    int rc = make_copies(device, mark->n_asked, error);
    pthread_mutex_unlock(&device->lock);
    return rc;
}

/* ---- launches ---- */

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
    device->launches++;
    if (!succeeds(device, LAUNCH)) {
        device->failed = true;
        tp_error_set(&device->failure, -EIO, "harness: an error in a kernel, as was asked for");
        return check(device, error);
    }
    int rc = tp_grid_run(&grid, &device->failure);
    device->failed = rc < 0;
    return rc < 0 ? tp_error_set(error, rc, "%s", device->failure.text) : 0;
}

int tp_device_launch(struct tp_device *device, const struct tp_launch *launch,
                     struct tp_error *error)
{
    int rc = tp_device_wait(device, error);
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
    int rc = tp_device_wait(device, error);
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
    int rc = tp_device_wait(device, error);
    clock->start = tp_clock_seconds();
    return rc;
}

int tp_device_clock_stop(struct tp_device *device, struct tp_device_clock *clock,
                         double *ret_seconds, struct tp_error *error)
{
    int rc = tp_device_wait(device, error);
    *ret_seconds = tp_clock_seconds() - clock->start;
    return rc;
}
