#include "cuda/upload.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fs/base/workers.h"

enum {
    PIECE_BYTES = 4 << 20, /* a tenth of a millisecond on the way: long for a copy's fixed cost */
    PIECES_EACH = 2,
    READERS_MIN = 4, /* a disk wants several requests at once, also where processors are few */
    READERS_MAX = 16,
    SCAN_BYTES = 32 << 10, /* copied, then looked at while a cache has them */
    SCAN_LANES = 64,
};

struct piece {
    void *memory; /* of the host, for the device to read */
    struct tp_device_mark *mark;
};

struct uploading {
    const struct tp_upload *upload;
    size_t n_readers;
    struct piece pieces[READERS_MAX * PIECES_EACH]; /* PIECES_EACH of each reader */

    pthread_mutex_t lock; /* protects the following, and what arrays say of their scales */
    uint64_t next;        /* where the next range begins */
    size_t array;         /* the first that reaches into it */
    int rc;               /* the first error, which `error` describes */
    struct tp_error *error;
};

/* A part of the device's memory, and the first array in it. */
struct range {
    uint64_t begin, end;
    size_t array;
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool take_range(struct uploading *uploading, struct range *ret_range)
{
    const struct tp_upload *upload = uploading->upload;
    pthread_mutex_lock(&uploading->lock);
    bool found = uploading->rc == 0 && uploading->next < upload->bytes;
    if (found) {
        uint64_t begin = uploading->next, end = least(begin + PIECE_BYTES, upload->bytes);
        *ret_range = (struct range){begin, end, uploading->array};
        while (uploading->array < upload->n &&
               upload->arrays[uploading->array].offset + upload->arrays[uploading->array].bytes <=
                   end)
            uploading->array++;
        uploading->next = end;
    }
    pthread_mutex_unlock(&uploading->lock);
    return found;
}

/* ---- reading ---- */

/* Has the kernel map the pages together, and read them first where it must. Where it cannot, the
 * access that follows does it, or is the guard's. */
static void populate(const uint8_t *begin, size_t length)
{
    size_t before = (uintptr_t)begin % (size_t)sysconf(_SC_PAGESIZE);
    (void)madvise((void *)(uintptr_t)(begin - before), length + before, MADV_POPULATE_READ);
}

/* The largest plus 1, where NaN, 255, has become 0. Lanes, for the compiler to make vectors of. */
static uint8_t largest_scale(const uint8_t *scales, size_t n)
{
    uint8_t lanes[SCAN_LANES] = {0}, largest = 0;
    size_t whole = n / SCAN_LANES * SCAN_LANES;
    for (size_t i = 0; i < whole; i += SCAN_LANES) {
        for (size_t j = 0; j < SCAN_LANES; j++) {
            uint8_t next = (uint8_t)(scales[i + j] + 1);
            lanes[j] = next > lanes[j] ? next : lanes[j];
        }
    }
    for (size_t i = whole; i < n; i++)
        lanes[0] = (uint8_t)(scales[i] + 1) > lanes[0] ? (uint8_t)(scales[i] + 1) : lanes[0];
    for (size_t j = 0; j < SCAN_LANES; j++)
        largest = lanes[j] > largest ? lanes[j] : largest;
    return largest;
}

static uint8_t copy_scales(uint8_t *target, const uint8_t *source, size_t n)
{
    uint8_t largest = 0;
    for (size_t done = 0; done < n;) {
        size_t part = (size_t)least(n - done, SCAN_BYTES);
        memcpy(target + done, source + done, part);
        uint8_t found = largest_scale(target + done, part);
        largest = found > largest ? found : largest;
        done += part;
    }
    return largest;
}

/* What the range has of one array, and the padding behind it. */
static void fill_from(struct uploading *uploading, struct tp_upload_array *array,
                      const struct range *range, uint8_t *piece)
{
    uint64_t array_end = array->offset + array->bytes;
    uint64_t begin = array->offset > range->begin ? array->offset : range->begin;
    uint64_t end = least(array_end, range->end);
    const uint8_t *source = (const uint8_t *)array->source + (begin - array->offset);
    uint8_t *target = piece + (begin - range->begin);
    size_t length = (size_t)(end - begin);
    populate(source, length);
    if (array->is_scales) {
        uint8_t largest = copy_scales(target, source, length);
        pthread_mutex_lock(&uploading->lock);
        array->largest = largest > array->largest ? largest : array->largest;
        pthread_mutex_unlock(&uploading->lock);
    } else {
        memcpy(target, source, length);
    }
    uint64_t padded = (array_end + TP_UPLOAD_ALIGNMENT - 1) / TP_UPLOAD_ALIGNMENT;
    padded = least(padded * TP_UPLOAD_ALIGNMENT, range->end);
    if (padded > end)
        memset(target + length, 0, (size_t)(padded - end));
}

static void fill(struct uploading *uploading, const struct range *range, uint8_t *piece)
{
    const struct tp_upload *upload = uploading->upload;
    for (size_t i = range->array; i < upload->n && upload->arrays[i].offset < range->end; i++)
        fill_from(uploading, &upload->arrays[i], range, piece);
}

static void fail(struct uploading *uploading, int rc, const struct tp_error *error)
{
    pthread_mutex_lock(&uploading->lock);
    if (uploading->rc == 0) {
        uploading->rc = rc;
        tp_error_set(uploading->error, rc, "%s", error->text);
    }
    pthread_mutex_unlock(&uploading->lock);
}

/* A reader. */
static int work(void *context, size_t reader)
{
    struct uploading *uploading = context;
    const struct tp_upload *upload = uploading->upload;
    struct tp_error error = {""};
    struct range range;
    int rc = 0;
    for (size_t i = 0; rc == 0; i = (i + 1) % PIECES_EACH) {
        const struct piece *piece = &uploading->pieces[reader * PIECES_EACH + i];
        rc = tp_device_mark_wait(upload->device, piece->mark, &error);
        if (rc < 0 || !take_range(uploading, &range))
            break;
        fill(uploading, &range, piece->memory);
        rc = tp_device_upload(upload->device, (uint8_t *)upload->memory + range.begin,
                              piece->memory, (size_t)(range.end - range.begin), &error);
        if (rc == 0)
            rc = tp_device_mark_set(upload->device, piece->mark, &error);
        if (rc == 0 && upload->see_loaded != NULL)
            upload->see_loaded(upload->see_context, range.end - range.begin);
    }
    if (rc < 0)
        fail(uploading, rc, &error);
    return rc;
}

/* ---- the whole ---- */

/* No more than there are ranges. */
static size_t readers_of(const struct tp_upload *upload)
{
    uint64_t n_ranges = (upload->bytes + PIECE_BYTES - 1) / PIECE_BYTES;
    size_t n = upload->n_readers;
    if (n == 0) {
        n = tp_workers_default();
        n = n < READERS_MIN ? READERS_MIN : n;
    }
    return (size_t)least(n_ranges, least(n, READERS_MAX));
}

static int allocate(struct uploading *uploading, struct tp_error *error)
{
    struct tp_device *device = uploading->upload->device;
    size_t bytes = (size_t)least(PIECE_BYTES, uploading->upload->bytes);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < uploading->n_readers * PIECES_EACH; i++) {
        struct piece *piece = &uploading->pieces[i];
        void *memory = NULL;
        rc = tp_device_allocate_host(device, bytes, &memory, error);
        piece->memory = rc == 0 ? memory : NULL;
        if (rc == 0)
            rc = tp_device_mark_new(device, &piece->mark, error);
    }
    return rc;
}

static void release(struct uploading *uploading)
{
    for (size_t i = 0; i < uploading->n_readers * PIECES_EACH; i++) {
        tp_device_mark_free(uploading->upload->device, uploading->pieces[i].mark);
        tp_device_free_host(uploading->upload->device, uploading->pieces[i].memory);
    }
}

int tp_upload_run(const struct tp_upload *upload, struct tp_error *error)
{
    struct uploading uploading = {.upload = upload,
                                  .n_readers = readers_of(upload),
                                  .lock = PTHREAD_MUTEX_INITIALIZER,
                                  .error = error};
    struct tp_error late = {""};
    if (upload->see_loaded != NULL)
        upload->see_loaded(upload->see_context, 0);
    int rc = allocate(&uploading, error);
    if (rc == 0) {
        tp_workers_run(uploading.n_readers, work, &uploading);
        rc = uploading.rc;
        /* Also after an error: pieces must not be freed while they are read. */
        int waited = tp_device_wait(upload->device, &late);
        if (rc == 0 && waited < 0)
            rc = tp_error_set(error, waited, "%s", late.text);
    }
    release(&uploading);
    return rc;
}
