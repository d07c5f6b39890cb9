/* cuda/device.h by CUDA's runtime, which is linked statically and looks for the driver at run time.
 */
#include "cuda/device.h"

#include <cuda_runtime_api.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ARCHITECTURE_MIN = 75,
    ARCHITECTURE_WITH_TILES = 80,
    ARCHITECTURE_WITH_DEPENDENT_LAUNCH = 90,
    SHARED_BYTES_ALWAYS = 48 << 10, /* a kernel gets more only if it asks before */
    MEMORY_KEPT = 64 << 20,         /* for kernels' code, which is loaded later, and for graphs */
};

struct tp_device {
    struct tp_device_facts facts;
    cudaStream_t stream;
    _Atomic(cudaError_t) fault; /* all that follows fails with it; any thread may meet it */
    bool recording;
};

struct tp_recording {
    cudaGraphExec_t graph;
};

struct tp_device_mark {
    cudaEvent_t event;
};

struct tp_device_clock {
    cudaEvent_t start, stop;
};

static int code_of(cudaError_t fault)
{
    switch (fault) {
    case cudaSuccess:
        return 0;
    case cudaErrorMemoryAllocation:
        return -ENOMEM;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
    case cudaErrorSystemDriverMismatch:
        return -ENODEV;
    default:
        return -EIO;
    }
}

/* What failed, in CUDA's words and ours. Running out of memory breaks nothing. */
static int judge(struct tp_device *device, cudaError_t fault, const char *what,
                 struct tp_error *error)
{
    if (fault == cudaSuccess)
        return 0;
    (void)cudaGetLastError(); /* which would be told again otherwise */
    if (device != NULL && fault != cudaErrorMemoryAllocation)
        device->fault = fault;
    return tp_error_set(error, code_of(fault), "%s: cannot %s: %s (%s)",
                        device != NULL ? device->facts.name : "CUDA", what,
                        cudaGetErrorString(fault), cudaGetErrorName(fault));
}

static int check(struct tp_device *device, struct tp_error *error)
{
    return judge(device, device->fault, "go on after an error", error);
}

/* ---- opening ---- */

static int read_facts(int number, struct tp_device_facts *facts, struct tp_error *error)
{
    struct cudaDeviceProp properties;
    size_t available, all;
    int rc =
        judge(NULL, cudaGetDeviceProperties(&properties, number), "ask what the GPU is", error);
    if (rc == 0)
        rc = judge(NULL, cudaMemGetInfo(&available, &all), "use the GPU", error);
    if (rc < 0)
        return rc;
    unsigned architecture = (unsigned)(10 * properties.major + properties.minor);
    *facts = (struct tp_device_facts){
        .architecture = architecture,
        .has_tiles = architecture >= ARCHITECTURE_WITH_TILES,
        .n_multiprocessors = (size_t)properties.multiProcessorCount,
        .shared_bytes_max = properties.sharedMemPerBlockOptin,
        .memory_bytes = all,
        .memory_available = available > MEMORY_KEPT ? available - MEMORY_KEPT : 0,
    };
    snprintf(facts->name, sizeof facts->name, "%s", properties.name);
    if (architecture < ARCHITECTURE_MIN)
        return tp_error_set(error, -ENODEV,
                            "%s: expected compute capability 7.5 at least, found %d.%d",
                            facts->name, properties.major, properties.minor);
    return 0;
}

static int find_device(struct tp_error *error)
{
    int n = 0;
    cudaError_t fault = cudaGetDeviceCount(&n);
    int version = 0;
    if (fault == cudaErrorInsufficientDriver && cudaDriverGetVersion(&version) == cudaSuccess &&
        version > 0)
        return tp_error_set(error, -ENOTSUP,
                            "the NVIDIA driver is too old: expected one for CUDA %d, found %d.%d",
                            CUDART_VERSION / 1000, version / 1000, version % 1000 / 10);
    if (fault == cudaErrorInsufficientDriver)
        return tp_error_set(error, -ENODEV, "no NVIDIA driver was found");
    if (fault != cudaSuccess)
        return judge(NULL, fault, "find a GPU", error);
    return n > 0 ? 0 : tp_error_set(error, -ENODEV, "no GPU was found");
}

int tp_device_open(struct tp_device **ret_device, struct tp_device_facts *ret_facts,
                   struct tp_error *error)
{
    struct tp_device *device = calloc(1, sizeof *device);
    if (device == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    int rc = find_device(error);
    if (rc == 0)
        rc = judge(NULL, cudaSetDevice(0), "use the GPU", error);
    if (rc == 0)
        rc = read_facts(0, &device->facts, error);
    if (rc == 0)
        rc = judge(NULL, cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking),
                   "use the GPU", error);
    if (rc < 0) {
        free(device);
        return rc;
    }
    *ret_device = device;
    *ret_facts = device->facts;
    return 0;
}

void tp_device_close(struct tp_device *device)
{
    if (device == NULL)
        return;
    cudaStreamSynchronize(device->stream);
    cudaStreamDestroy(device->stream);
    free(device);
}

/* ---- streams of others ---- */

enum { DEVICES_MAX = 64 };

/* What device `number` is, looked up once: it takes longer than a kernel. */
static int find_facts(int number, const struct tp_device_facts **ret_facts, struct tp_error *error)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct tp_device_facts known[DEVICES_MAX];
    static bool is_known[DEVICES_MAX];
    int rc = 0;
    if (number < 0 || number >= DEVICES_MAX)
        return tp_error_set(error, -ENODEV, "expected a GPU below number %d, found %d", DEVICES_MAX,
                            number);
    pthread_mutex_lock(&lock);
    if (!is_known[number])
        rc = read_facts(number, &known[number], error);
    is_known[number] |= rc == 0;
    pthread_mutex_unlock(&lock);
    if (rc == 0)
        *ret_facts = &known[number];
    return rc;
}

int tp_device_adopt(void *stream, struct tp_device **ret_device,
                    const struct tp_device_facts **ret_facts, struct tp_error *error)
{
    int number = 0;
    int rc = judge(NULL, cudaGetDevice(&number), "find the GPU in use", error);
    if (rc == 0)
        rc = find_facts(number, ret_facts, error);
    if (rc < 0)
        return rc;
    struct tp_device *device = calloc(1, sizeof *device);
    if (device == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    device->facts = **ret_facts;
    device->stream = stream;
    *ret_device = device;
    return 0;
}

void tp_device_release(struct tp_device *device)
{
    free(device);
}

/* ---- memory ---- */

int tp_device_allocate(struct tp_device *device, size_t bytes, void **ret_memory,
                       struct tp_error *error)
{
    void *memory = NULL;
    int rc = check(device, error);
    if (rc == 0)
        rc = judge(device, cudaMalloc(&memory, bytes), "give memory", error);
    if (rc == 0)
        *ret_memory = memory;
    return rc;
}

void tp_device_free(struct tp_device *device, void *memory)
{
    (void)device;
    cudaFree(memory);
}

int tp_device_memory_available(struct tp_device *device, uint64_t *ret_bytes,
                               struct tp_error *error)
{
    size_t available, all;
    int rc = check(device, error);
    if (rc == 0)
        rc = judge(device, cudaMemGetInfo(&available, &all), "ask for its memory", error);
    if (rc == 0)
        *ret_bytes = available > MEMORY_KEPT ? available - MEMORY_KEPT : 0;
    return rc;
}

int tp_device_allocate_host(struct tp_device *device, size_t bytes, void **ret_memory,
                            struct tp_error *error)
{
    void *memory = NULL;
    int rc = check(device, error);
    if (rc == 0)
        rc = judge(device, cudaMallocHost(&memory, bytes), "lock memory of the host", error);
    if (rc == 0)
        *ret_memory = memory;
    return rc;
}

void tp_device_free_host(struct tp_device *device, void *memory)
{
    (void)device;
    cudaFreeHost(memory);
}

/* ---- work ---- */

int tp_device_upload(struct tp_device *device, void *target, const void *source, size_t bytes,
                     struct tp_error *error)
{
    int rc = check(device, error);
    return rc < 0 ? rc
                  : judge(device,
                          cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice,
                                          device->stream),
                          "copy to it", error);
}

int tp_device_download(struct tp_device *device, void *target, const void *source, size_t bytes,
                       struct tp_error *error)
{
    int rc = check(device, error);
    return rc < 0 ? rc
                  : judge(device,
                          cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost,
                                          device->stream),
                          "copy from it", error);
}

int tp_device_zero(struct tp_device *device, void *target, size_t bytes, struct tp_error *error)
{
    int rc = check(device, error);
    return rc < 0 ? rc
                  : judge(device, cudaMemsetAsync(target, 0, bytes, device->stream), "clear memory",
                          error);
}

int tp_device_launch(struct tp_device *device, const struct tp_launch *launch,
                     struct tp_error *error)
{
    const void *kernel = (const void *)launch->kernel;
    void *arguments[] = {(void *)(uintptr_t)launch->arguments};
    cudaLaunchAttribute follows = {.id = cudaLaunchAttributeProgrammaticStreamSerialization};
    follows.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {
        .gridDim = {launch->grid[0], launch->grid[1], launch->grid[2]},
        .blockDim = {launch->threads, 1, 1},
        .dynamicSmemBytes = launch->shared_bytes,
        .stream = device->stream,
        .attrs = &follows,
        .numAttrs =
            launch->follows && device->facts.architecture >= ARCHITECTURE_WITH_DEPENDENT_LAUNCH,
    };
    int rc = check(device, error);
    if (rc == 0 && launch->shared_bytes > SHARED_BYTES_ALWAYS)
        rc = judge(device,
                   cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        (int)launch->shared_bytes),
                   "give a kernel shared memory", error);
    return rc < 0 ? rc
                  : judge(device, cudaLaunchKernelExC(&config, kernel, arguments), "start a kernel",
                          error);
}

int tp_device_wait(struct tp_device *device, struct tp_error *error)
{
    int rc = check(device, error);
    return rc < 0 ? rc
                  : judge(device, cudaStreamSynchronize(device->stream), "finish a kernel", error);
}

/* ---- marks: events ---- */

int tp_device_mark_new(struct tp_device *device, struct tp_device_mark **ret_mark,
                       struct tp_error *error)
{
    struct tp_device_mark *mark = calloc(1, sizeof *mark);
    if (mark == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    unsigned how = cudaEventDisableTiming | cudaEventBlockingSync; /* waits without spinning */
    int rc = judge(device, cudaEventCreateWithFlags(&mark->event, how), "mark its work", error);
    if (rc < 0)
        free(mark);
    else
        *ret_mark = mark;
    return rc;
}

void tp_device_mark_free(struct tp_device *device, struct tp_device_mark *mark)
{
    (void)device;
    if (mark != NULL)
        cudaEventDestroy(mark->event);
    free(mark);
}

int tp_device_mark_set(struct tp_device *device, struct tp_device_mark *mark,
                       struct tp_error *error)
{
    int rc = check(device, error);
    return rc < 0 ? rc
                  : judge(device, cudaEventRecord(mark->event, device->stream), "mark its work",
                          error);
}

int tp_device_mark_wait(struct tp_device *device, struct tp_device_mark *mark,
                        struct tp_error *error)
{
    int rc = check(device, error);
    return rc < 0 ? rc : judge(device, cudaEventSynchronize(mark->event), "finish a copy", error);
}

/* ---- recordings: graphs ---- */

int tp_device_record_begin(struct tp_device *device, struct tp_error *error)
{
    int rc = check(device, error);
    return rc < 0 ? rc
                  : judge(device,
                          cudaStreamBeginCapture(device->stream, cudaStreamCaptureModeThreadLocal),
                          "record kernels", error);
}

int tp_device_record_end(struct tp_device *device, struct tp_recording **ret_recording,
                         struct tp_error *error)
{
    cudaGraph_t graph = NULL;
    int rc = judge(device, cudaStreamEndCapture(device->stream, &graph), "record kernels", error);
    if (rc < 0)
        return rc;
    struct tp_recording *recording = calloc(1, sizeof *recording);
    if (recording == NULL)
        rc = tp_error_set(error, -ENOMEM, "out of memory");
    else
        rc = judge(device, cudaGraphInstantiate(&recording->graph, graph, 0), "record kernels",
                   error);
    cudaGraphDestroy(graph);
    if (rc < 0)
        free(recording);
    else
        *ret_recording = recording;
    return rc;
}

int tp_device_replay(struct tp_device *device, struct tp_recording *recording,
                     struct tp_error *error)
{
    int rc = check(device, error);
    return rc < 0 ? rc
                  : judge(device, cudaGraphLaunch(recording->graph, device->stream),
                          "start recorded kernels", error);
}

void tp_device_recording_free(struct tp_device *device, struct tp_recording *recording)
{
    (void)device;
    if (recording != NULL)
        cudaGraphExecDestroy(recording->graph);
    free(recording);
}

/* ---- time ---- */

int tp_device_clock_new(struct tp_device *device, struct tp_device_clock **ret_clock,
                        struct tp_error *error)
{
    struct tp_device_clock *clock = calloc(1, sizeof *clock);
    if (clock == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    int rc = judge(device, cudaEventCreate(&clock->start), "measure time", error);
    if (rc == 0)
        rc = judge(device, cudaEventCreate(&clock->stop), "measure time", error);
    if (rc < 0)
        tp_device_clock_free(device, clock);
    else
        *ret_clock = clock;
    return rc;
}

void tp_device_clock_free(struct tp_device *device, struct tp_device_clock *clock)
{
    (void)device;
    if (clock != NULL && clock->start != NULL)
        cudaEventDestroy(clock->start);
    if (clock != NULL && clock->stop != NULL)
        cudaEventDestroy(clock->stop);
    free(clock);
}

int tp_device_clock_start(struct tp_device *device, struct tp_device_clock *clock,
                          struct tp_error *error)
{
    int rc = check(device, error);
    return rc < 0 ? rc
                  : judge(device, cudaEventRecord(clock->start, device->stream), "measure time",
                          error);
}

int tp_device_clock_stop(struct tp_device *device, struct tp_device_clock *clock,
                         double *ret_seconds, struct tp_error *error)
{
    float milliseconds = 0;
    int rc = check(device, error);
    if (rc == 0)
        rc = judge(device, cudaEventRecord(clock->stop, device->stream), "measure time", error);
    if (rc == 0)
        rc = judge(device, cudaEventSynchronize(clock->stop), "finish a kernel", error);
    if (rc == 0)
        rc = judge(device, cudaEventElapsedTime(&milliseconds, clock->start, clock->stop),
                   "measure time", error);
    if (rc == 0)
        *ret_seconds = 1e-3 * milliseconds;
    return rc;
}
