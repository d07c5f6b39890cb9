#include "infer/weights/load.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fs/base/bytes.h"
#include "fs/base/clock.h"
#include "fs/base/io.h"
#include "fs/base/workers.h"

enum {
    PIECE_BYTES = 8 << 20, /* large for the file system, small against a slow thread at the end */
    HUGE_PAGE_BYTES = 2 << 20,
    PLACE_ALIGNMENT = 64, /* as in the files */
    PAGE_BYTES_MIN = 4096,
    SAMPLE_BYTES = 1 << 20, /* of each SAMPLE_EVERY: the kernel looks at 5 million pages a second */
    SAMPLE_EVERY = 16 << 20,
};

const char *const tp_placement_names[] = {"mapped", "huge", NULL};

struct loading {
    struct tp_weights_view *view;
    bool copy;
    struct tp_progress *progress;

    pthread_mutex_t lock; /* protects the following */
    size_t next;          /* the array that the next piece is of */
    uint64_t offset;      /* where in its data */
    int rc;               /* the first error, which `error` describes */
    struct tp_error *error;
};

struct piece {
    struct tp_weights_array *array;
    uint64_t offset;
    size_t length;
};

static bool take_piece(struct loading *loading, struct piece *ret_piece)
{
    const struct tp_weights_view *view = loading->view;
    bool found = false;
    pthread_mutex_lock(&loading->lock);
    while (loading->rc == 0 && !found && loading->next < view->manifest.n_tensors) {
        struct tp_weights_array *array = &view->arrays[loading->next];
        uint64_t left = array->tensor->nbytes - loading->offset;
        size_t length = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        *ret_piece = (struct piece){array, loading->offset, length};
        found = length > 0;
        loading->offset += length;
        if (length == left) {
            loading->next++;
            loading->offset = 0;
        }
    }
    pthread_mutex_unlock(&loading->lock);
    return found;
}

static int fail(struct loading *loading, const struct piece *piece, int rc, const char *what)
{
    const struct tp_manifest_tensor *tensor = piece->array->tensor;
    pthread_mutex_lock(&loading->lock);
    if (loading->rc == 0) {
        loading->rc = rc;
        tp_error_set(loading->error, rc, "%s/%s: tensor \"%.*s\" %s", loading->view->path,
                     tensor->file, tp_bytes_shown(tensor->name, tensor->name_length), tensor->name,
                     what);
    }
    pthread_mutex_unlock(&loading->lock);
    return rc;
}

/* Reads every page through the mapping; a fault is the guard's. */
static void touch(const uint8_t *begin, size_t length)
{
    volatile uint8_t sink = 0;
    for (size_t i = 0; i < length; i += PAGE_BYTES_MIN)
        sink ^= begin[i];
    (void)sink;
}

/* Has the kernel map the piece's pages, and read them first where it must. */
static int populate(struct loading *loading, const struct piece *piece)
{
    const uint8_t *begin = (const uint8_t *)piece->array->data + piece->offset;
    size_t before = (uintptr_t)begin % (size_t)sysconf(_SC_PAGESIZE);
    void *page = (void *)(begin - before);
    size_t length = piece->length + before;
    if (madvise(page, length, MADV_POPULATE_READ) == 0)
        return 0;
    if (errno == EFAULT || errno == EIO)
        return fail(loading, piece, -EIO, "disappeared or was truncated while it was loaded");
    touch(begin, piece->length); /* a kernel before 5.14 */
    return 0;
}

static int copy(struct loading *loading, const struct piece *piece, int fd)
{
    uint8_t *target = (uint8_t *)piece->array->data + piece->offset;
    size_t length = 0;
    int rc =
        tp_read_at(fd, target, piece->length, piece->array->data_offset + piece->offset, &length);
    if (rc < 0 || length < piece->length)
        return fail(loading, piece, rc < 0 ? rc : -EIO,
                    "disappeared or was truncated while it was loaded");
    return 0;
}

static int open_and_copy(struct loading *loading, const struct piece *piece)
{
    int fd = openat(loading->view->directory, piece->array->tensor->file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail(loading, piece, -errno, "disappeared while it was loaded");
    int rc = copy(loading, piece, fd);
    close(fd);
    return rc;
}

static int work(void *context, size_t worker)
{
    struct loading *loading = context;
    struct piece piece;
    (void)worker;
    while (take_piece(loading, &piece)) {
        const struct tp_manifest_tensor *tensor = piece.array->tensor;
        tp_progress_item(loading->progress, tensor->name, tensor->name_length);
        int rc = loading->copy ? open_and_copy(loading, &piece) : populate(loading, &piece);
        if (rc < 0)
            return rc;
        tp_progress_add(loading->progress, piece.length);
    }
    return 0;
}

/* Gives each array its place in one region of huge pages, still empty, in place of its mapping. */
static int place(struct tp_weights_view *view, struct tp_error *error)
{
    size_t length = HUGE_PAGE_BYTES;
    for (size_t i = 0; i < view->manifest.n_tensors; i++) {
        uint64_t nbytes = view->manifest.tensors[i].nbytes;
        if (nbytes > SIZE_MAX / 2 - length - PLACE_ALIGNMENT)
            return tp_error_set(error, -ENOMEM, "the weights do not fit into memory");
        length += (nbytes + PLACE_ALIGNMENT - 1) / PLACE_ALIGNMENT * PLACE_ALIGNMENT;
    }
    uint8_t *memory =
        mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return tp_error_set(error, -errno, "cannot have %zu bytes of memory for the weights: %s",
                            length, strerror(errno));
    madvise(memory, length, MADV_HUGEPAGE); /* without huge pages it works as well, only slower */
    view->memory = memory;
    view->memory_length = length;
    uint8_t *at = memory + (HUGE_PAGE_BYTES - (uintptr_t)memory % HUGE_PAGE_BYTES);
    for (size_t i = 0; i < view->manifest.n_tensors; i++) {
        struct tp_weights_array *array = &view->arrays[i];
        tp_mapping_free(array->mapping);
        array->mapping = NULL;
        array->data = at;
        at += (array->tensor->nbytes + PLACE_ALIGNMENT - 1) / PLACE_ALIGNMENT * PLACE_ALIGNMENT;
    }
    return 0;
}

/* ---- what is there ---- */

static void count_cached(const uint8_t *begin, size_t length, size_t *ret_cached, size_t *ret_all)
{
    unsigned char present[SAMPLE_BYTES / PAGE_BYTES_MIN + 1];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), before = (uintptr_t)begin % page;
    size_t n = (length + before + page - 1) / page;
    if (mincore((void *)(begin - before), length + before, present) < 0)
        memset(present, 1, n);
    *ret_all += n;
    for (size_t i = 0; i < n; i++)
        *ret_cached += present[i] & 1;
}

double tp_weights_view_cached(const struct tp_weights_view *view)
{
    size_t cached = 0, all = 0;
    for (size_t i = 0; i < view->manifest.n_tensors; i++) {
        const struct tp_weights_array *array = &view->arrays[i];
        uint64_t nbytes = array->mapping != NULL ? array->tensor->nbytes : 0;
        for (uint64_t at = 0; at < nbytes; at += SAMPLE_EVERY) {
            size_t length = nbytes - at < SAMPLE_BYTES ? (size_t)(nbytes - at) : SAMPLE_BYTES;
            count_cached((const uint8_t *)array->data + at, length, &cached, &all);
        }
    }
    return all > 0 ? (double)cached / (double)all : 1;
}

/* ---- loading ---- */

int tp_weights_view_load(struct tp_weights_view *view, enum tp_placement placement,
                         size_t n_workers, enum tp_progress_style progress,
                         struct tp_load_report *ret_report, struct tp_error *error)
{
    struct loading loading = {
        .view = view,
        .copy = placement == TP_PLACEMENT_HUGE_PAGES,
        .error = error,
        .lock = PTHREAD_MUTEX_INITIALIZER,
    };
    double start = tp_clock_seconds();
    int rc = loading.copy ? place(view, error) : 0;
    if (rc < 0)
        return rc;
    loading.progress = tp_progress_start(progress, "loading", view->total_bytes);
    tp_workers_run(n_workers, work, &loading);
    tp_progress_finish(loading.progress);
    if (loading.rc < 0)
        return loading.rc;
    if (loading.copy)
        mprotect(view->memory, view->memory_length, PROT_READ);
    *ret_report = (struct tp_load_report){
        .bytes = view->total_bytes,
        .private_bytes = view->memory_length,
        .seconds = tp_clock_seconds() - start,
    };
    return 0;
}
