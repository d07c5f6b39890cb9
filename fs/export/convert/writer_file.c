#include "fs/export/convert/writer_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/base/io.h"
#include "fs/export/convert/losses.h"
#include "fs/export/convert/quantize.h"

enum { CLONE_ALIGNMENT = 4096, INDEX_MAX = 24 };

static void name_in_state(const struct tp_writer_file *file, char name[INDEX_MAX])
{
    snprintf(name, INDEX_MAX, "%zu", file->index);
}

/* Disk full is the failure that users meet; what is done stays done. */
static int fail(const struct tp_writer_file *file, const struct tp_write_options *options,
                const char *what, int rc, struct tp_error *error)
{
    bool full = rc == -ENOSPC || rc == -EDQUOT;
    return tp_error_set(error, rc, "%s/%s: cannot %s: %s%s", options->output, file->artifact->path,
                        what, strerror(-rc), full ? "; make room and continue with --resume" : "");
}

int tp_writer_room_init(struct tp_writer_room *room, const struct tp_write_options *options)
{
    *room = (struct tp_writer_room){.made = malloc(TP_WRITER_PIECE_MAX)};
    if (options->check)
        room->there = malloc(TP_WRITER_PIECE_MAX);
    if (options->exact != NULL)
        room->exact = malloc((TP_WRITER_PIECE_MAX / sizeof(uint16_t) + 2) * sizeof *room->exact);
    if (room->made != NULL && (room->there != NULL || !options->check) &&
        (room->exact != NULL || options->exact == NULL))
        return 0;
    tp_writer_room_clear(room);
    return -ENOMEM;
}

void tp_writer_room_clear(struct tp_writer_room *room)
{
    tp_artifact_scratch_clear(&room->scratch);
    free(room->made);
    free(room->there);
    free(room->exact);
    *room = (struct tp_writer_room){0};
}

/* ---- opening ---- */

/* True if a regular file of the right size is there. */
static bool open_present(struct tp_writer_file *file, const struct tp_write_options *options)
{
    struct stat status;
    int fd = openat(options->folder, file->artifact->path,
                    O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return false;
    if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) ||
        (uint64_t)status.st_size != file->artifact->size) {
        close(fd);
        return false;
    }
    file->fd = fd;
    file->checking = true;
    return true;
}

int tp_writer_open(struct tp_writer_file *file, const struct tp_write_options *options, bool check,
                   struct tp_error *error)
{
    char name[INDEX_MAX];
    atomic_store(&file->differs, false);
    file->checking = false;
    if (options->xxh3 || options->sha256) {
        file->hashes = tp_hashes_new(options->xxh3, options->sha256);
        if (file->hashes == NULL)
            return tp_error_set(error, -ENOMEM, "out of memory");
    }
    if (check && open_present(file, options))
        return 0;
    name_in_state(file, name);
    file->fd =
        openat(options->state, name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    return file->fd < 0 ? fail(file, options, "make it", -errno, error) : 0;
}

void tp_writer_close(struct tp_writer_file *file)
{
    tp_hashes_free(file->hashes);
    file->hashes = NULL;
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}

void tp_writer_abandon(struct tp_writer_file *file, const struct tp_write_options *options)
{
    char name[INDEX_MAX];
    if (file->fd >= 0 && !file->checking) {
        name_in_state(file, name);
        unlinkat(options->state, name, 0);
    }
    tp_writer_close(file);
}

/* ---- pieces ---- */

/* Whole blocks, and whole rows where that matters: what is lost is then summed up value by value. A
 * piece of scales takes the reading of as much as one of blocks does. */
static size_t quantized_piece(const struct tp_segment *segment)
{
    const struct tp_quantized_tensor *tensor = segment->quantized;
    bool is_blocks = segment->kind == TP_SEGMENT_BLOCKS;
    size_t unit = is_blocks ? TP_MXFP4_BLOCK_BYTES : 1;
    size_t most = tensor->turned ? TP_WRITER_PIECE_MAX : TP_WRITER_PIECE;
    if (!is_blocks)
        most /= TP_MXFP4_BLOCK_BYTES;
    size_t row = (size_t)(tensor->columns / TP_MXFP4_BLOCK_ELEMENTS) * unit;
    return tensor->turned ? most / row * row : most;
}

size_t tp_writer_piece(const struct tp_writer_file *file, uint64_t offset)
{
    uint64_t left = file->artifact->size - offset;
    size_t most = TP_WRITER_PIECE;
    if (left == 0)
        return 0;
    const struct tp_segment *segment = tp_artifact_segment(file->artifact, offset);
    if (segment->kind == TP_SEGMENT_TRANSPOSED)
        most = TP_WRITER_PIECE_MAX;
    else if (segment->kind == TP_SEGMENT_BLOCKS || segment->kind == TP_SEGMENT_SCALES)
        most = quantized_piece(segment);
    if (file->artifact->by_segments)
        left = segment->start + segment->length - offset;
    return left < most ? (size_t)left : most;
}

/* The source bytes that a piece is, if all of it is copied from one file. */
static bool find_stored(const struct tp_writer_file *file, uint64_t offset, size_t length,
                        struct tp_source **ret_source, uint64_t *ret_offset)
{
    if (length == 0)
        return false;
    const struct tp_segment *segment = tp_artifact_segment(file->artifact, offset);
    uint64_t inside = offset - segment->start;
    return segment->kind == TP_SEGMENT_CONTENT && segment->length - inside >= length &&
           tp_content_stored(segment->content, segment->offset + inside, ret_source, ret_offset);
}

static bool try_clone(const struct tp_writer_file *file, struct tp_writer_abilities *abilities,
                      const struct tp_source *source, uint64_t from, uint64_t offset, size_t length)
{
    bool to_end = from + length == source->size;
    if (atomic_load(&abilities->cannot_clone) || from % CLONE_ALIGNMENT != 0 ||
        offset % CLONE_ALIGNMENT != 0 || (length % CLONE_ALIGNMENT != 0 && !to_end))
        return false;
    struct file_clone_range range = {
        .src_fd = source->fd, .src_offset = from, .src_length = length, .dest_offset = offset};
    if (ioctl(file->fd, FICLONERANGE, &range) == 0)
        return true;
    atomic_store(&abilities->cannot_clone, true);
    return false;
}

/* 1 if all was copied, 0 if the kernel cannot, or an error. */
static int try_copy(const struct tp_writer_file *file, struct tp_writer_abilities *abilities,
                    const struct tp_source *source, uint64_t from, uint64_t offset, size_t length)
{
    off_t at = (off_t)from, to = (off_t)offset;
    while (length > 0 && !atomic_load(&abilities->cannot_copy)) {
        ssize_t n = copy_file_range(source->fd, &at, file->fd, &to, length, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
            return -errno;
        if (n <= 0)
            atomic_store(&abilities->cannot_copy, true); /* or it shows why in an ordinary read */
        else
            length -= (size_t)n;
    }
    return length == 0;
}

int tp_writer_make(struct tp_writer_file *file, const struct tp_write_options *options,
                   struct tp_writer_abilities *abilities, uint64_t offset, size_t length,
                   struct tp_writer_room *room, bool *ret_made, bool *ret_cloned, bool *ret_placed,
                   struct tp_error *error)
{
    struct tp_source *source;
    uint64_t from;
    *ret_cloned = *ret_placed = false;
    if (!file->checking && find_stored(file, offset, length, &source, &from)) {
        *ret_cloned = *ret_placed = try_clone(file, abilities, source, from, offset, length);
        if (!*ret_placed && file->hashes == NULL) {
            int copied = try_copy(file, abilities, source, from, offset, length);
            if (copied < 0)
                return fail(file, options, "write", copied, error);
            *ret_placed = copied == 1;
        }
        *ret_made = !*ret_placed || file->hashes != NULL;
        if (!*ret_made)
            return tp_source_verify(source);
    }
    *ret_made = true;
    int rc = tp_artifact_read(file->artifact, offset, length, room->made, &room->scratch);
    return rc == -EDOM ? tp_quantize_blame(tp_artifact_segment(file->artifact, offset),
                                           room->scratch.unfit, error)
                       : rc;
}

/* Starts to write what is in the kernel's memory, so that the flush at the end finds little left.
 */
static void start_writeback(int fd, uint64_t offset, size_t length)
{
    sync_file_range(fd, (off_t)offset, (off_t)length, SYNC_FILE_RANGE_WRITE);
}

int tp_writer_place(struct tp_writer_file *file, const struct tp_write_options *options,
                    uint64_t offset, size_t length, struct tp_writer_room *room,
                    struct tp_error *error)
{
    if (file->checking) {
        size_t got;
        int rc = tp_read_at(file->fd, room->there, length, offset, &got);
        if (rc < 0 || got != length || memcmp(room->made, room->there, length) != 0)
            atomic_store(&file->differs, true); /* unreadable is not right either */
        return 0;
    }
    int rc = tp_write_at(file->fd, room->made, length, offset);
    if (rc < 0)
        return fail(file, options, "write", rc, error);
    start_writeback(file->fd, offset, length);
    return 0;
}

/* ---- the end ---- */

int tp_writer_sync(const struct tp_writer_file *file, const struct tp_write_options *options,
                   struct tp_error *error)
{
    return fsync(file->fd) < 0 ? fail(file, options, "write", -errno, error) : 0;
}

int tp_writer_rename(const struct tp_writer_file *file, const struct tp_write_options *options,
                     struct tp_error *error)
{
    const char *path = file->artifact->path, *slash = strchr(path, '/');
    char name[INDEX_MAX];
    name_in_state(file, name);
    if (slash != NULL) {
        char folder[TP_FILE_PATH_MAX];
        snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
        if (mkdirat(options->folder, folder, 0777) < 0 && errno != EEXIST)
            return fail(file, options, "make its folder", -errno, error);
    }
    if (renameat(options->state, name, options->folder, path) < 0)
        return fail(file, options, "put it in place", -errno, error);
    return 0;
}
