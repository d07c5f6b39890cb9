/* Pieces of a file are taken in order and read and compared in any order; whoever hashes waits for
 * his turn, which comes, for pieces before his were taken before. */
#include "fs/export/verify/verify_read.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decode/npy.h"
#include "fs/base/io.h"
#include "fs/base/workers.h"
#include "fs/export/common/hashes.h"
#include "fs/export/verify/differences.h"

/* Small enough for the second-level cache, twice; aligned, which copying from the kernel likes. */
enum { PIECE = 256 << 10, PAGE = 4096 };

struct open_file {
    const struct tp_inventory_file *file;
    int fd;
    struct tp_hashes *hashes; /* NULL: no checksum is known */
    /* Under the job's lock: */
    uint64_t taken;   /* bytes up to here are somebody's */
    uint64_t hashed;  /* bytes up to here are in the hash */
    size_t in_flight; /* pieces taken and not done */
    bool failed;      /* could not be read, which has been said */
    struct tp_differences differences;
    struct open_file *next;
};

struct job {
    const struct tp_inventory *inventory;
    int folder;
    struct tp_progress *progress;
    struct tp_faults *faults;

    pthread_mutex_t lock; /* protects the following, and what is said above */
    pthread_cond_t hashed;
    size_t next;            /* file of the inventory that nobody took yet */
    struct open_file *open; /* pieces of them may be left to take */
    int rc;
};

struct piece {
    struct open_file *file;
    uint64_t offset;
    size_t length;
};

struct room {
    uint8_t *found, *expected;
    struct tp_artifact_scratch scratch;
};

static bool is_read(const struct tp_inventory_file *file)
{
    return file->is_there && S_ISREG(file->mode) && tp_inventory_size_is_right(file) &&
           (file->tensor != NULL || file->is_container || file->xxh3 != NULL ||
            file->sha256 != NULL || file->artifact != NULL);
}

void tp_verify_read_totals(const struct tp_inventory *inventory, size_t *ret_n_files,
                           uint64_t *ret_bytes)
{
    size_t n = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < inventory->n; i++) {
        if (!is_read(&inventory->files[i]))
            continue;
        n++;
        bytes += inventory->files[i].size;
    }
    *ret_n_files = n;
    *ret_bytes = bytes;
}

/* ---- taking pieces ---- */

static int open_file(struct job *job, const struct tp_inventory_file *file,
                     struct open_file **ret_file)
{
    struct open_file *opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        return -ENOMEM;
    opened->file = file;
    if (file->xxh3 != NULL || file->sha256 != NULL) {
        opened->hashes = tp_hashes_new(file->xxh3 != NULL, file->sha256 != NULL);
        if (opened->hashes == NULL) {
            free(opened);
            return -ENOMEM;
        }
    }
    opened->fd = openat(job->folder, file->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (opened->fd < 0) {
        tp_faults_add(job->faults, TP_FAULT_UNREADABLE, file->path, "cannot open: %s",
                      strerror(errno));
        opened->failed = true;
    } else {
        posix_fadvise(opened->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    }
    *ret_file = opened;
    return 0;
}

static void take_from(struct open_file *file, struct piece *ret_piece)
{
    uint64_t left = file->file->size - file->taken;
    *ret_piece = (struct piece){file, file->taken, left < PIECE ? (size_t)left : PIECE};
    file->taken += ret_piece->length;
    file->in_flight++;
}

/* The open file of which most is left, or NULL. */
static struct open_file *largest(const struct job *job)
{
    struct open_file *best = NULL;
    for (struct open_file *file = job->open; file != NULL; file = file->next) {
        uint64_t left = file->file->size - file->taken;
        if (!file->failed && left > 0 && (best == NULL || left > best->file->size - best->taken))
            best = file;
    }
    return best;
}

/* Opens the next file and takes its first piece, which may be empty. Called and left with the lock
 * held; false when there is none. */
static bool take_next(struct job *job, struct piece *ret_piece)
{
    const struct tp_inventory *inventory = job->inventory;
    while (job->next < inventory->n && !is_read(&inventory->files[job->next]))
        job->next++;
    if (job->next == inventory->n)
        return false;
    const struct tp_inventory_file *file = &inventory->files[job->next++];
    struct open_file *opened;
    pthread_mutex_unlock(&job->lock);
    int rc = open_file(job, file, &opened);
    pthread_mutex_lock(&job->lock);
    if (rc < 0) {
        job->rc = rc;
        return false;
    }
    opened->next = job->open;
    job->open = opened;
    take_from(opened, ret_piece);
    return true;
}

/* From a new file, else from anybody's. */
static bool take(struct job *job, struct piece *ret_piece)
{
    pthread_mutex_lock(&job->lock);
    bool found = job->rc == 0 && take_next(job, ret_piece);
    struct open_file *other = found || job->rc < 0 ? NULL : largest(job);
    if (other != NULL)
        take_from(other, ret_piece);
    pthread_mutex_unlock(&job->lock);
    return found || other != NULL;
}

/* ---- looking at a piece ---- */

static void fail(struct job *job, struct open_file *file)
{
    pthread_mutex_lock(&job->lock);
    file->failed = true;
    pthread_mutex_unlock(&job->lock);
}

static bool read_piece(struct job *job, const struct piece *piece, uint8_t *target)
{
    const char *path = piece->file->file->path;
    size_t length = 0;
    int rc = piece->file->fd < 0
                 ? -EBADF
                 : tp_read_at(piece->file->fd, target, piece->length, piece->offset, &length);
    if (rc == 0 && length == piece->length)
        return true;
    pthread_mutex_lock(&job->lock);
    bool said = piece->file->failed;
    piece->file->failed = true;
    pthread_mutex_unlock(&job->lock);
    if (!said && rc < 0)
        tp_faults_add(job->faults, TP_FAULT_UNREADABLE, path, "cannot read: %s", strerror(-rc));
    else if (!said)
        tp_faults_add(job->faults, TP_FAULT_UNREADABLE, path,
                      "ends at byte %" PRIu64 "; it became shorter meanwhile",
                      piece->offset + length);
    return false;
}

/* The header must be the very bytes that numpy writes. */
static int check_head(struct job *job, const struct tp_inventory_file *file, const uint8_t *found,
                      size_t length)
{
    const struct tp_manifest_tensor *tensor = file->tensor;
    size_t head = tp_npy_header_length(tensor->dtype, tensor->shape, tensor->rank), at = 0;
    uint8_t *expected = malloc(head);
    if (expected == NULL)
        return -ENOMEM;
    tp_npy_header_write(tensor->dtype, tensor->shape, tensor->rank, (char *)expected);
    head = head < length ? head : length;
    while (at < head && found[at] == expected[at])
        at++;
    if (at < head)
        tp_faults_add(
            job->faults, TP_FAULT_HEADER, file->path,
            "byte %zu of the npy header is 0x%02x, numpy writes 0x%02x for this dtype and "
            "shape",
            at, found[at], expected[at]);
    free(expected);
    return 0;
}

static int compare(struct job *job, const struct piece *piece, struct room *room)
{
    struct open_file *file = piece->file;
    const struct tp_artifact *artifact = file->file->artifact;
    int rc =
        tp_artifact_read(artifact, piece->offset, piece->length, room->expected, &room->scratch);
    if (rc == -ENOMEM)
        return rc;
    if (rc < 0) {
        tp_faults_add(job->faults, TP_FAULT_SOURCE, file->file->path,
                      "the source of its bytes from %" PRIu64 " on cannot be read", piece->offset);
        fail(job, file);
        return 0;
    }
    if (memcmp(room->found, room->expected, piece->length) == 0)
        return 0;
    pthread_mutex_lock(&job->lock);
    rc = tp_differences_find(&file->differences, artifact, room->found, room->expected,
                             piece->offset, piece->length);
    pthread_mutex_unlock(&job->lock);
    return rc;
}

/* In its turn, also when there is nothing to hash: others wait for theirs. */
static void hash(struct job *job, const struct piece *piece, const uint8_t *bytes)
{
    struct open_file *file = piece->file;
    if (file->hashes == NULL)
        return;
    pthread_mutex_lock(&job->lock);
    while (file->hashed != piece->offset)
        pthread_cond_wait(&job->hashed, &job->lock);
    pthread_mutex_unlock(&job->lock);
    if (bytes != NULL)
        tp_hashes_update(file->hashes, bytes, piece->length);
    pthread_mutex_lock(&job->lock);
    file->hashed += piece->length;
    pthread_cond_broadcast(&job->hashed);
    pthread_mutex_unlock(&job->lock);
}

static int look_at(struct job *job, const struct piece *piece, struct room *room)
{
    const struct tp_inventory_file *file = piece->file->file;
    bool whole = read_piece(job, piece, room->found);
    int rc = 0;
    if (whole && piece->offset == 0 && file->tensor != NULL)
        rc = check_head(job, file, room->found, piece->length);
    if (whole && rc == 0 && file->artifact != NULL)
        rc = compare(job, piece, room);
    hash(job, piece, whole ? room->found : NULL);
    tp_progress_add(job->progress, piece->length);
    return rc;
}

/* ---- ending ---- */

static void say_digest(struct job *job, const char *path, const char *name, const uint8_t *expected,
                       const uint8_t *found, size_t length)
{
    char text[2][2 * TP_SHA256_BYTES + 1];
    if (memcmp(expected, found, length) == 0)
        return;
    for (size_t i = 0; i < length; i++) {
        snprintf(text[0] + 2 * i, 3, "%02x", expected[i]);
        snprintf(text[1] + 2 * i, 3, "%02x", found[i]);
    }
    tp_faults_add(job->faults, TP_FAULT_CHECKSUM, path, "%s has %s, the file's is %s", name,
                  text[0], text[1]);
}

/* The file is no longer in the list. */
static void finish(struct job *job, struct open_file *file, struct room *room)
{
    struct tp_digests digests;
    if (file->hashes != NULL && !file->failed) {
        tp_hashes_finish(file->hashes, &digests);
        if (file->file->xxh3 != NULL)
            say_digest(job, file->file->path, "XXH3SUMS", file->file->xxh3, digests.xxh3,
                       TP_XXH3_BYTES);
        if (file->file->sha256 != NULL)
            say_digest(job, file->file->path, "SHA256SUMS", file->file->sha256, digests.sha256,
                       TP_SHA256_BYTES);
    }
    if (file->differences.n > 0)
        tp_differences_report(&file->differences, file->file->artifact, file->file->path, file->fd,
                              &room->scratch, job->faults);
    tp_hashes_free(file->hashes);
    if (file->fd >= 0)
        close(file->fd);
    free(file);
}

static void remove_from_list(struct job *job, const struct open_file *file)
{
    struct open_file **at = &job->open;
    while (*at != file)
        at = &(*at)->next;
    *at = file->next;
}

/* The piece is done: takes the next of its file, if there is one. Otherwise gives the file to who
 * did its last piece, to be finished, or NULL. */
static bool take_more(struct job *job, struct piece *piece, struct open_file **ret_done)
{
    struct open_file *file = piece->file;
    pthread_mutex_lock(&job->lock);
    file->in_flight--;
    *ret_done = NULL;
    bool more = job->rc == 0 && !file->failed && file->taken < file->file->size;
    if (more) {
        take_from(file, piece);
    } else if (file->in_flight == 0) {
        file->failed |= file->taken < file->file->size;
        remove_from_list(job, file);
        *ret_done = file;
    }
    pthread_mutex_unlock(&job->lock);
    return more;
}

static void stop(struct job *job, int rc)
{
    pthread_mutex_lock(&job->lock);
    job->rc = rc;
    pthread_mutex_unlock(&job->lock);
}

static void work_in(struct job *job, struct room *room)
{
    struct piece piece;
    while (take(job, &piece)) {
        struct open_file *done;
        tp_progress_item(job->progress, piece.file->file->path, strlen(piece.file->file->path));
        do {
            int rc = look_at(job, &piece, room);
            if (rc < 0)
                stop(job, rc);
        } while (take_more(job, &piece, &done));
        if (done != NULL)
            finish(job, done, room);
    }
}

static int work(void *context, size_t worker)
{
    struct job *job = context;
    struct room room = {.found = aligned_alloc(PAGE, PIECE),
                        .expected = aligned_alloc(PAGE, PIECE)};
    (void)worker;
    if (room.found == NULL || room.expected == NULL)
        stop(job, -ENOMEM);
    else
        work_in(job, &room);
    free(room.found);
    free(room.expected);
    tp_artifact_scratch_clear(&room.scratch);
    return 0;
}

int tp_verify_read(const struct tp_inventory *inventory, int folder, size_t n_workers,
                   struct tp_progress *progress, struct tp_faults *faults)
{
    struct job job = {
        .inventory = inventory, .folder = folder, .progress = progress, .faults = faults};
    pthread_mutex_init(&job.lock, NULL);
    pthread_cond_init(&job.hashed, NULL);
    tp_workers_run(n_workers, work, &job);
    pthread_cond_destroy(&job.hashed);
    pthread_mutex_destroy(&job.lock);
    return job.rc;
}
