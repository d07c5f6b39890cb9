/* Who does what when.
 *
 * Pieces of a file are taken in order, hashed in order, and made and written in any order. Whoever
 * waits for his turn to hash waits for pieces that were taken before his, so somebody always goes
 * on. Complete files are flushed and renamed a batch at a time: the first flush of a batch brings
 * the others' metadata to the disk as well. */
#include "fs/export/convert/writer.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/workers.h"
#include "fs/export/convert/losses.h"
#include "fs/export/convert/quantize.h"
#include "fs/export/convert/writer_file.h"

enum {
    BATCH_FILES = 32,
    BATCH_BYTES = 256 << 20,
};

struct file {
    struct tp_writer_file file;
    uint64_t taken;                   /* pieces up to here are somebody's */
    uint64_t hashed;                  /* pieces up to here are in the hash */
    size_t in_flight;                 /* pieces taken and not done */
    uint64_t overflowed, became_zero; /* so far, in float16 */
    struct file *next;                /* in the list that it is in */
};

struct job {
    const struct tp_write_options *options;
    struct tp_written *written;
    struct tp_writer_abilities abilities;

    pthread_mutex_t lock; /* protects the following */
    pthread_cond_t changed;
    size_t next_artifact;  /* not taken by anybody yet */
    struct file *redo;     /* to be written anew */
    struct file *open;     /* pieces of them may be left to take */
    struct file *complete; /* to be flushed and renamed */
    size_t n_complete;
    uint64_t complete_bytes;
    struct tp_write_totals totals;
    int rc; /* the first error; everybody stops */
    struct tp_error error;
};

struct piece {
    struct file *file;
    uint64_t offset;
    size_t length;
};

static void stop_all(struct job *job, int rc, const struct tp_error *error)
{
    pthread_mutex_lock(&job->lock);
    if (job->rc == 0) {
        job->rc = rc;
        job->error = *error;
    }
    pthread_cond_broadcast(&job->changed);
    pthread_mutex_unlock(&job->lock);
}

/* ---- taking pieces; the lock is held ---- */

static void remove_from(struct file **list, const struct file *file)
{
    while (*list != file)
        list = &(*list)->next;
    *list = file->next;
}

static void push(struct file **list, struct file *file)
{
    file->next = *list;
    *list = file;
}

static bool has_pieces(const struct file *file)
{
    uint64_t size = file->file.artifact->size;
    return file->taken < size || (size == 0 && file->hashed == 0 && file->in_flight == 0);
}

static struct file *find_largest_rest(struct job *job)
{
    struct file *best = NULL;
    for (struct file *file = job->open; file != NULL; file = file->next) {
        if (has_pieces(file) && (best == NULL || file->file.artifact->size - file->taken >
                                                     best->file.artifact->size - best->taken))
            best = file;
    }
    return best;
}

/* The next file nobody has begun; NULL with *ret_rc 0 when there is none. */
static struct file *begin_file(struct job *job, int *ret_rc, struct tp_error *error)
{
    const struct tp_export_plan *plan = job->options->plan;
    struct file *file = job->redo;
    bool redo = file != NULL;
    *ret_rc = 0;
    if (redo) {
        job->redo = file->next;
    } else if (job->next_artifact < plan->n_artifacts) {
        file = calloc(1, sizeof *file);
        if (file == NULL) {
            *ret_rc = tp_error_set(error, -ENOMEM, "out of memory");
            return NULL;
        }
        size_t i = job->next_artifact++;
        file->file = (struct tp_writer_file){.artifact = &plan->artifacts[i], .index = i, .fd = -1};
    } else {
        return NULL;
    }
    *ret_rc = tp_writer_open(&file->file, job->options, job->options->check && !redo, error);
    if (*ret_rc < 0) {
        tp_writer_close(&file->file);
        free(file);
        return NULL;
    }
    push(&job->open, file);
    return file;
}

/* 1 with a piece, 0 when nothing is left to take, or an error. `*current` is the file that the
 * worker was at; it may be gone. */
static int take_piece(struct job *job, struct file **current, struct piece *ret_piece,
                      struct tp_error *error)
{
    struct file *file = job->open;
    while (file != NULL && file != *current)
        file = file->next;
    int rc = 0;
    if (file == NULL || !has_pieces(file))
        file = begin_file(job, &rc, error);
    if (rc < 0)
        return rc;
    if (file == NULL)
        file = find_largest_rest(job);
    if (file == NULL)
        return 0;
    *ret_piece = (struct piece){file, file->taken, tp_writer_piece(&file->file, file->taken)};
    file->taken += ret_piece->length;
    file->in_flight++;
    *current = file;
    return 1;
}

/* ---- doing them ---- */

/* Pieces of a tensor come here in order, so that its sums do not depend on who is first; and anew
 * when a file is. The lock is held. */
static void add_sums(const struct piece *piece, const struct tp_quantize_sums *sums)
{
    if (piece->length == 0)
        return;
    const struct tp_segment *segment =
        tp_artifact_segment(piece->file->file.artifact, piece->offset);
    if (segment->kind != TP_SEGMENT_BLOCKS)
        return;
    if (segment->start == piece->offset)
        segment->quantized->sums = (struct tp_quantize_sums){0};
    tp_quantize_sums_add(&segment->quantized->sums, sums);
}

static int hash_in_turn(struct job *job, const struct piece *piece, const uint8_t *bytes,
                        const struct tp_quantize_sums *sums)
{
    struct file *file = piece->file;
    pthread_mutex_lock(&job->lock);
    while (file->hashed != piece->offset && job->rc == 0)
        pthread_cond_wait(&job->changed, &job->lock);
    bool stopped = job->rc < 0;
    pthread_mutex_unlock(&job->lock);
    if (stopped)
        return -ECANCELED;
    if (file->file.hashes != NULL)
        tp_hashes_update(file->file.hashes, bytes, piece->length);
    pthread_mutex_lock(&job->lock);
    add_sums(piece, sums);
    file->hashed += piece->length;
    pthread_cond_broadcast(&job->changed);
    pthread_mutex_unlock(&job->lock);
    return 0;
}

static int count_losses(struct job *job, const struct piece *piece, struct tp_writer_room *room)
{
    uint64_t overflowed = 0, became_zero = 0;
    if (job->options->exact == NULL)
        return 0;
    int rc = tp_count_losses(piece->file->file.artifact, piece->offset, piece->length,
                             job->options->exact, job->options->plan->view, room->exact,
                             &overflowed, &became_zero);
    if (rc == 0 && overflowed + became_zero > 0) {
        pthread_mutex_lock(&job->lock);
        piece->file->overflowed += overflowed;
        piece->file->became_zero += became_zero;
        pthread_mutex_unlock(&job->lock);
    }
    return rc;
}

static void show_item(struct job *job, const struct piece *piece)
{
    const struct tp_artifact *artifact = piece->file->file.artifact;
    const struct tp_segment *segment =
        piece->length > 0 ? tp_artifact_segment(artifact, piece->offset) : NULL;
    if (segment != NULL && segment->tensor != NULL)
        tp_progress_item(job->options->progress, segment->tensor->name,
                         segment->tensor->name_length);
    else
        tp_progress_item(job->options->progress, artifact->path, strlen(artifact->path));
}

static int do_piece(struct job *job, const struct piece *piece, struct tp_writer_room *room,
                    struct tp_error *error)
{
    struct tp_writer_file *file = &piece->file->file;
    bool made, cloned, placed;
    if (job->options->stop != NULL && tp_stop_is_wanted(job->options->stop))
        return tp_error_set(error, -EINTR, "interrupted; continue with --resume");
    show_item(job, piece);
    int rc = tp_writer_make(file, job->options, &job->abilities, piece->offset, piece->length, room,
                            &made, &cloned, &placed, error);
    if (rc == 0)
        rc = hash_in_turn(job, piece, made ? room->made : NULL, &room->scratch.sums);
    if (rc == 0 && !placed)
        rc = tp_writer_place(file, job->options, piece->offset, piece->length, room, error);
    if (rc == 0)
        rc = count_losses(job, piece, room);
    if (rc == 0 && cloned) {
        pthread_mutex_lock(&job->lock);
        job->totals.cloned += piece->length;
        pthread_mutex_unlock(&job->lock);
    }
    if (rc == -ENOMEM)
        tp_error_set(error, rc, "out of memory");
    tp_progress_add(job->options->progress, piece->length);
    return rc;
}

/* ---- complete files ---- */

static int commit(struct job *job, struct file *batch, struct tp_error *error)
{
    int rc = 0;
    for (struct file *file = batch; rc == 0 && file != NULL; file = file->next)
        rc = tp_writer_sync(&file->file, job->options, error);
    while (batch != NULL) {
        struct file *file = batch;
        batch = file->next;
        if (rc == 0)
            rc = tp_writer_rename(&file->file, job->options, error);
        if (rc == 0)
            tp_writer_close(&file->file);
        else
            tp_writer_abandon(&file->file, job->options);
        free(file);
    }
    return rc;
}

static struct file *take_batch(struct job *job)
{
    struct file *batch = job->complete;
    job->complete = NULL;
    job->n_complete = 0;
    job->complete_bytes = 0;
    return batch;
}

static void finish_file(struct job *job, struct file *file)
{
    if (file->file.hashes != NULL)
        tp_hashes_finish(file->file.hashes, &job->written[file->file.index].digests);
    job->totals.overflowed += file->overflowed;
    job->totals.became_zero += file->became_zero;
}

/* A checked file that is right needs nothing more; one that is not begins anew. */
static void finish_checked(struct job *job, struct file *file)
{
    bool right = !atomic_load(&file->file.differs);
    if (right) {
        finish_file(job, file);
        job->written[file->file.index].was_there = true;
        job->totals.n_kept++;
    }
    tp_writer_close(&file->file);
    if (right) {
        free(file);
        return;
    }
    job->totals.n_redone++;
    file->taken = file->hashed = 0;
    file->overflowed = file->became_zero = 0;
    push(&job->redo, file);
}

/* The lock is held; returns a batch for the caller to commit, or NULL. */
static struct file *finish_piece(struct job *job, struct file *file)
{
    file->in_flight--;
    if (file->file.checking && atomic_load(&file->file.differs))
        file->taken = file->file.artifact->size; /* the rest of it need not be looked at */
    if (file->in_flight > 0 || file->taken < file->file.artifact->size)
        return NULL;
    remove_from(&job->open, file);
    if (file->file.checking) {
        finish_checked(job, file);
        return NULL;
    }
    finish_file(job, file);
    push(&job->complete, file);
    job->n_complete++;
    job->complete_bytes += file->file.artifact->size;
    return job->n_complete >= BATCH_FILES || job->complete_bytes >= BATCH_BYTES ? take_batch(job)
                                                                                : NULL;
}

/* ---- workers ---- */

/* 1 to go on, 0 at the end, or an error. */
static int do_next(struct job *job, struct file **current, struct tp_writer_room *room,
                   struct tp_error *error)
{
    struct piece piece;
    pthread_mutex_lock(&job->lock);
    int rc = job->rc < 0 ? 0 : take_piece(job, current, &piece, error);
    pthread_mutex_unlock(&job->lock);
    if (rc <= 0)
        return rc;
    rc = do_piece(job, &piece, room, error);
    pthread_mutex_lock(&job->lock);
    struct file *batch = NULL;
    if (rc == 0)
        batch = finish_piece(job, piece.file);
    pthread_mutex_unlock(&job->lock);
    if (rc == 0 && batch != NULL)
        rc = commit(job, batch, error);
    return rc < 0 ? rc : 1;
}

static int work(void *context, size_t worker)
{
    struct job *job = context;
    struct file *current = NULL;
    struct tp_writer_room room;
    struct tp_error error = {""};
    (void)worker;
    int rc = tp_writer_room_init(&room, job->options);
    if (rc < 0)
        tp_error_set(&error, rc, "out of memory");
    else
        rc = 1;
    while (rc > 0)
        rc = do_next(job, &current, &room, &error);
    if (rc < 0 && rc != -ECANCELED)
        stop_all(job, rc, &error);
    tp_writer_room_clear(&room);
    return rc;
}

static void abandon_all(struct job *job, struct file *list)
{
    while (list != NULL) {
        struct file *file = list;
        list = file->next;
        tp_writer_abandon(&file->file, job->options);
        free(file);
    }
}

int tp_write_artifacts(const struct tp_write_options *options, struct tp_written *ret_written,
                       struct tp_write_totals *ret_totals, struct tp_error *error)
{
    struct job job = {.options = options, .written = ret_written};
    memset(ret_written, 0, options->plan->n_artifacts * sizeof *ret_written);
    pthread_mutex_init(&job.lock, NULL);
    pthread_cond_init(&job.changed, NULL);
    int rc = 0;
    /* A worker that finds nothing to take ends; what turns out wrong after that is done here. */
    do {
        tp_workers_run(options->n_workers, work, &job);
        rc = job.rc;
    } while (rc == 0 && (job.redo != NULL || job.next_artifact < options->plan->n_artifacts));
    if (rc == 0)
        rc = commit(&job, take_batch(&job), &job.error);
    abandon_all(&job, job.open);
    abandon_all(&job, job.redo);
    abandon_all(&job, job.complete);
    pthread_cond_destroy(&job.changed);
    pthread_mutex_destroy(&job.lock);
    *ret_totals = job.totals;
    if (rc < 0)
        *error = job.error;
    return rc;
}
