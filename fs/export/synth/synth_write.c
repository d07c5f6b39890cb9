#include "fs/export/synth/synth_write.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fs/base/io.h"
#include "fs/export/common/output.h"
#include "fs/export/synth/synth_fill.h"

enum { MAX_THREADS = 8, REPORT_MILLISECONDS = 100 };

struct job {
    const struct tp_synth_weights *weights;
    const struct tp_synth_plan *plan;
    const int *fds;
    uint64_t seed;
    const struct tp_synth_tensor *embedding, *head; /* head: NULL when there is none */

    atomic_uint_fast64_t done; /* bytes of tensors written */
    atomic_bool stop;          /* something failed: leave the tensor at hand */

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    bool embedding_taken, embedding_done, head_taken;
    size_t next; /* the first tensor, besides those two, that nobody has taken */
    unsigned running;
    int rc; /* the first failure */
    struct tp_error *error;
};

/* One tensor being written. */
struct writing {
    struct job *job;
    int fd;
    off_t at;
};

static int append(void *context, const void *bytes, size_t length)
{
    struct writing *writing = context;
    if (atomic_load_explicit(&writing->job->stop, memory_order_relaxed))
        return -ECANCELED;
    int rc = tp_write_at(writing->fd, bytes, length, (uint64_t)writing->at);
    if (rc < 0)
        return rc;
    /* Only a hint: the disk is busy from the beginning, and the dirty pages stay few, so that
     * neither the flush at the end nor other programs wait for gigabytes of them. */
    sync_file_range(writing->fd, writing->at, (off_t)length, SYNC_FILE_RANGE_WRITE);
    writing->at += (off_t)length;
    atomic_fetch_add_explicit(&writing->job->done, length, memory_order_relaxed);
    return 0;
}

static int read_embedding(void *context, uint64_t offset, void *target, size_t length)
{
    struct writing *writing = context;
    const struct tp_synth_tensor *embedding = writing->job->embedding;
    int fd = writing->job->fds[embedding->file];
    off_t at = (off_t)(embedding->offset + offset);
    for (char *to = target; length > 0;) {
        ssize_t n = pread(fd, to, length, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        to += n;
        at += n;
        length -= (size_t)n;
    }
    return 0;
}

/* The next tensor to make; NULL when there is no more, or no sense in going on. */
static const struct tp_synth_tensor *take_tensor(struct job *job)
{
    const struct tp_synth_tensor *taken = NULL;
    const struct tp_synth_weights *weights = job->weights;
    pthread_mutex_lock(&job->lock);
    while (taken == NULL && job->rc == 0) {
        while (job->next < weights->n_tensors && (&weights->tensors[job->next] == job->embedding ||
                                                  &weights->tensors[job->next] == job->head))
            job->next++;
        if (!job->embedding_taken) {
            job->embedding_taken = true;
            taken = job->embedding;
        } else if (job->head != NULL && !job->head_taken && job->embedding_done) {
            job->head_taken = true;
            taken = job->head;
        } else if (job->next < weights->n_tensors) {
            taken = &weights->tensors[job->next++];
        } else if (job->head != NULL && !job->head_taken) {
            pthread_cond_wait(&job->changed, &job->lock);
        } else {
            break;
        }
    }
    pthread_mutex_unlock(&job->lock);
    return taken;
}

/* Under the lock. The first failure counts. */
static void fail(struct job *job, int rc, const char *file, const char *tensor)
{
    if (job->rc == 0)
        job->rc =
            tp_error_set(job->error, rc, "%s: cannot write %s: %s", file, tensor, strerror(-rc));
    atomic_store(&job->stop, true);
    pthread_cond_broadcast(&job->changed);
}

static int make_tensor(struct job *job, struct tp_synth_filler *filler,
                       const struct tp_synth_tensor *tensor)
{
    struct writing writing = {job, job->fds[tensor->file], (off_t)tensor->offset};
    const struct tp_synth_sink sink = {&writing, append, read_embedding};
    int rc = tp_synth_fill(filler, job->weights, tensor, job->seed, &sink);

    pthread_mutex_lock(&job->lock);
    if (rc < 0) {
        fail(job, rc, job->plan->files[tensor->file].name, tensor->name);
    } else if (tensor == job->embedding) {
        job->embedding_done = true;
        pthread_cond_broadcast(&job->changed);
    }
    pthread_mutex_unlock(&job->lock);
    return rc;
}

static void *work(void *context)
{
    struct job *job = context;
    const struct tp_synth_tensor *tensor;
    struct tp_synth_filler *filler = tp_synth_filler_new();
    if (filler == NULL) {
        pthread_mutex_lock(&job->lock);
        fail(job, -ENOMEM, "the checkpoint", "its tensors");
        pthread_mutex_unlock(&job->lock);
    }
    while (filler != NULL && (tensor = take_tensor(job)) != NULL) {
        if (make_tensor(job, filler, tensor) < 0)
            break;
    }
    tp_synth_filler_free(filler);
    pthread_mutex_lock(&job->lock);
    job->running--;
    pthread_cond_broadcast(&job->changed);
    pthread_mutex_unlock(&job->lock);
    return NULL;
}

/* As many threads as processors we may use: `taskset -c 0` gives one. */
static unsigned thread_count(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < MAX_THREADS ? (unsigned)n : MAX_THREADS;
}

static struct timespec report_time(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_nsec += REPORT_MILLISECONDS * 1000000L;
    if (time.tv_nsec >= 1000000000L) {
        time.tv_sec++;
        time.tv_nsec -= 1000000000L;
    }
    return time;
}

static void wait_and_report(struct job *job, tp_synth_report *report, void *context)
{
    pthread_mutex_lock(&job->lock);
    while (job->running > 0) {
        struct timespec time = report_time();
        while (job->running > 0 &&
               pthread_cond_timedwait(&job->changed, &job->lock, &time) != ETIMEDOUT)
            ;
        pthread_mutex_unlock(&job->lock);
        int rc = report == NULL ? 0 : report(context, job->done, job->weights->bytes);
        pthread_mutex_lock(&job->lock);
        if (rc < 0)
            fail(job, rc, "the checkpoint", "its tensors");
    }
    pthread_mutex_unlock(&job->lock);
}

static void run_threads(struct job *job, tp_synth_report *report, void *report_context)
{
    pthread_t threads[MAX_THREADS];
    unsigned n = thread_count(), started = 0;

    job->running = n;
    while (started < n && pthread_create(&threads[started], NULL, work, job) == 0)
        started++;
    pthread_mutex_lock(&job->lock);
    job->running -= n - started; /* fewer do as well, but one there must be */
    if (started == 0)
        fail(job, -EAGAIN, "the checkpoint", "its tensors");
    pthread_mutex_unlock(&job->lock);
    wait_and_report(job, report, report_context);
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
}

static int write_headers(const struct job *job)
{
    for (size_t i = 0; i < job->plan->n_files; i++) {
        const struct tp_synth_file *file = &job->plan->files[i];
        int rc = tp_write_at(job->fds[i], file->header, file->header_bytes, 0);
        if (rc < 0)
            return tp_error_set(job->error, rc, "%s: cannot write the header: %s", file->name,
                                strerror(-rc));
    }
    return 0;
}

static void find_ends(struct job *job)
{
    for (size_t i = 0; i < job->weights->n_tensors; i++) {
        const struct tp_synth_tensor *tensor = &job->weights->tensors[i];
        if (tensor->fill == TP_SYNTH_HEAD)
            job->head = tensor;
        else if (strcmp(tensor->name, "model.embed_tokens.weight") == 0)
            job->embedding = tensor;
    }
}

int tp_synth_write(const struct tp_synth_weights *weights, const struct tp_synth_plan *plan,
                   const int *fds, uint64_t seed, tp_synth_report *report, void *report_context,
                   struct tp_error *error)
{
    struct job job = {
        .weights = weights,
        .plan = plan,
        .fds = fds,
        .seed = seed,
        .error = error,
    };
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&job.changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&job.lock, NULL);

    find_ends(&job);
    int rc = write_headers(&job);
    if (rc == 0) {
        run_threads(&job, report, report_context);
        rc = job.rc;
    }
    pthread_mutex_destroy(&job.lock);
    pthread_cond_destroy(&job.changed);
    return rc;
}
