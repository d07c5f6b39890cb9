#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "decode/packed.h"
#include "fs/base/bytes.h"
#include "fs/base/io.h"
#include "fs/base/workers.h"
#include "fs/checkpoint/packed.h"
#include "fs/checkpoint/source.h"
#include "fs/export/pack/pack.h"
#include "fs/export/pack/pack_copy.h"
#include "fs/export/pack/turns.h"

/* Who hears of faults; when nobody does, the first one is an error. */
struct listener {
    tp_packed_fault *fault;
    void *context;
};

struct unpacking {
    struct tp_pack_run *run;
    struct listener *listener; /* NULL: unpack; otherwise verify, and write nothing */
    struct tp_source source;
    const struct tp_packed_layout *layout;
    int fd;
    struct tp_turns turns;
    XXH3_state_t *hash; /* of the bytes so far; like the next, of whose turn it is */
    bool is_damaged;    /* a block was at fault */
};

static int fail(struct unpacking *unpacking, int rc)
{
    struct tp_error error;
    tp_error_set(&error, rc, "%s/%s: cannot read it, or it changed while it was read: %s",
                 unpacking->run->files.folder, unpacking->source.stored_name, strerror(-rc));
    return tp_turns_fail(&unpacking->turns, rc, &error);
}

/* Tells the listener, or fails. */
static int tell(struct unpacking *unpacking, const char *text)
{
    struct listener *listener = unpacking->listener;
    const char *file = unpacking->source.stored_name;
    if (listener == NULL) {
        struct tp_error error;
        tp_error_format(&error, "%s/%s: %s", unpacking->run->files.folder, file, text);
        return tp_turns_fail(&unpacking->turns, -EIO, &error);
    }
    listener->fault(listener->context, file, text);
    return 0;
}

static int tell_block(struct unpacking *unpacking, uint64_t index, int rc)
{
    struct tp_packed_block block;
    struct tp_error error;
    tp_packed_block(unpacking->layout, index, &block);
    tp_error_format(&error, "block %llu, bytes %llu to %llu of the original, %s",
                    (unsigned long long)index, (unsigned long long)block.start,
                    (unsigned long long)(block.start + block.length - 1),
                    rc == -EBADMSG ? "is corrupt" : "cannot be read");
    unpacking->is_damaged = true;
    return tell(unpacking, error.text);
}

/* A piece in memory: blocks [first, end), and which of them are at fault. */
struct piece {
    uint64_t number, first, end;
    uint64_t start; /* in the original */
    size_t length;
    uint8_t *bytes;
    int faults[TP_PACK_PIECE_BLOCKS];
};

static int read_blocks(struct unpacking *unpacking, struct piece *piece)
{
    struct tp_packed_block block;
    tp_packed_block(unpacking->layout, piece->first, &block);
    piece->start = block.start;
    piece->length = 0;
    for (uint64_t i = piece->first; i < piece->end; i++) {
        int rc = tp_packed_check_block(&unpacking->source, i, piece->bytes + piece->length);
        piece->faults[i - piece->first] = rc;
        if (rc < 0 && rc != -EBADMSG && rc != -EIO)
            return fail(unpacking, rc);
        tp_packed_block(unpacking->layout, i, &block);
        piece->length += block.length;
    }
    int rc = tp_source_verify(&unpacking->source);
    if (rc == 0)
        rc = tp_pack_run_check_stop(unpacking->run);
    return rc < 0 ? fail(unpacking, rc) : 0;
}

/* In its turn: faults are told in order, and one at a time. */
static int take_turn(struct unpacking *unpacking, const struct piece *piece)
{
    int rc = tp_turns_wait(&unpacking->turns, piece->number);
    for (uint64_t i = piece->first; rc == 0 && i < piece->end; i++) {
        if (piece->faults[i - piece->first] < 0)
            rc = tell_block(unpacking, i, piece->faults[i - piece->first]);
    }
    if (rc < 0)
        return rc;
    XXH3_128bits_update(unpacking->hash, piece->bytes, piece->length);
    tp_turns_pass(&unpacking->turns);
    return 0;
}

static int unpack_piece(struct unpacking *unpacking, struct piece *piece)
{
    piece->first = piece->number * TP_PACK_PIECE_BLOCKS;
    piece->end = piece->first + TP_PACK_PIECE_BLOCKS;
    if (piece->end > unpacking->layout->header.n_blocks)
        piece->end = unpacking->layout->header.n_blocks;
    int rc = read_blocks(unpacking, piece);
    if (rc == 0)
        rc = take_turn(unpacking, piece);
    if (rc == 0 && unpacking->listener == NULL) {
        rc = tp_write_at(unpacking->fd, piece->bytes, piece->length, piece->start);
        if (rc < 0) {
            struct tp_error error;
            tp_error_set(&error, rc, "%s/%s: cannot write: %s", unpacking->run->options->output,
                         unpacking->source.name, strerror(-rc));
            return tp_turns_fail(&unpacking->turns, rc, &error);
        }
        /* Only a hint: the disk is busy from the beginning, and the flush at the end short. */
        sync_file_range(unpacking->fd, (off_t)piece->start, (off_t)piece->length,
                        SYNC_FILE_RANGE_WRITE);
    }
    return rc;
}

/* Progress counts bytes of the input. */
static void count(struct unpacking *unpacking, const struct piece *piece)
{
    uint64_t bytes = 0;
    for (uint64_t i = piece->first; i < piece->end; i++)
        bytes += unpacking->layout->lengths[i];
    tp_progress_add(unpacking->run->progress, bytes);
}

static int work(void *context, size_t worker)
{
    struct unpacking *unpacking = context;
    size_t bytes = (size_t)TP_PACK_PIECE_BLOCKS * unpacking->layout->header.block_size;
    struct piece piece = {.bytes = malloc(bytes)};
    int rc = piece.bytes == NULL ? fail(unpacking, -ENOMEM) : 0;
    (void)worker;
    while (rc == 0 && tp_turns_take(&unpacking->turns, &piece.number)) {
        rc = unpack_piece(unpacking, &piece);
        if (rc == 0)
            count(unpacking, &piece);
    }
    free(piece.bytes);
    return rc;
}

static int check_hash(struct unpacking *unpacking)
{
    const uint64_t *expected = unpacking->layout->header.original_hash;
    XXH128_hash_t found = XXH3_128bits_digest(unpacking->hash);
    if (unpacking->is_damaged || (found.low64 == expected[0] && found.high64 == expected[1]))
        return 0;
    struct tp_error error;
    tp_error_format(&error,
                    "its blocks are whole, but not those of the file that was packed: expected "
                    "XXH3 %016llx%016llx, found %016llx%016llx",
                    (unsigned long long)expected[1], (unsigned long long)expected[0],
                    (unsigned long long)found.high64, (unsigned long long)found.low64);
    return tell(unpacking, error.text);
}

static int unpack_blocks(struct unpacking *unpacking)
{
    uint64_t n_blocks = unpacking->layout->header.n_blocks;
    tp_turns_init(&unpacking->turns, (n_blocks + TP_PACK_PIECE_BLOCKS - 1) / TP_PACK_PIECE_BLOCKS);
    XXH3_128bits_reset(unpacking->hash);
    tp_workers_run(unpacking->run->options->workers, work, unpacking);
    if (unpacking->turns.error == 0)
        check_hash(unpacking);
    int rc = unpacking->turns.error;
    if (rc < 0)
        *unpacking->run->error = unpacking->turns.message;
    tp_turns_clear(&unpacking->turns);
    return rc;
}

static int unpack_opened(struct unpacking *unpacking)
{
    struct tp_pack_run *run = unpacking->run;
    const struct tp_packed_header *header = &unpacking->layout->header;
    bool writes = unpacking->listener == NULL;
    int rc = 0;
    unpacking->hash = XXH3_createState();
    if (unpacking->hash == NULL)
        rc = tp_pack_run_fail(run, unpacking->source.name, -ENOMEM);
    if (rc == 0 && writes)
        rc = tp_output_create(run->output, unpacking->source.name, &unpacking->fd, run->error);
    if (rc == 0)
        rc = unpack_blocks(unpacking);
    if (rc == 0 && writes)
        rc = tp_output_complete(run->output, unpacking->fd, unpacking->source.modified, run->error);
    XXH3_freeState(unpacking->hash);
    if (rc == 0) {
        run->summary.n_files++;
        run->summary.n_packed++;
        run->summary.original_bytes += header->original_size;
        run->summary.packed_bytes += unpacking->source.stored_size;
    }
    return rc;
}

/* A file that cannot even be opened is a fault among others to a listener. */
static int unpack_file(struct tp_pack_run *run, struct tp_blocks *blocks, const char *stored_name,
                       struct listener *listener)
{
    struct unpacking unpacking = {.run = run, .listener = listener};
    char *name = strndup(stored_name, strlen(stored_name) - strlen(TP_PACKED_SUFFIX));
    if (name == NULL)
        return tp_pack_run_fail(run, stored_name, -ENOMEM);
    int rc = tp_source_open_packed(&unpacking.source, run->files.directory, name, blocks, NULL,
                                   run->error);
    free(name);
    if (rc < 0 && (listener == NULL || rc == -ENOMEM))
        return tp_error_prefix(run->error, rc, "%s", run->files.folder);
    if (rc < 0) {
        listener->fault(listener->context, stored_name, run->error->text);
        return 0;
    }
    unpacking.layout = tp_packed_layout(unpacking.source.packed);
    tp_progress_item(run->progress, unpacking.source.name, strlen(unpacking.source.name));
    rc = unpack_opened(&unpacking);
    tp_source_close(&unpacking.source);
    return rc;
}

/* ---- all files ---- */

static bool is_packed_name(const char *name, bool only_one)
{
    return tp_bytes_end_with(name, strlen(name),
                             only_one ? TP_PACKED_SUFFIX : ".safetensors" TP_PACKED_SUFFIX);
}

static bool is_file(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

/* Whether the list has the file that the packed one will be. */
static bool is_there_unpacked(const struct tp_file_list *files, const char *packed)
{
    size_t length = strlen(packed) - strlen(TP_PACKED_SUFFIX);
    for (size_t i = 0; i < files->n; i++) {
        if (strlen(files->names[i]) == length && memcmp(files->names[i], packed, length) == 0)
            return true;
    }
    return false;
}

/* Something to do, and no two files of one name. */
static int check_files(struct tp_pack_run *run, bool only_one)
{
    bool any = false;
    for (size_t i = 0; i < run->files.n; i++) {
        const char *name = run->files.names[i];
        if (!is_packed_name(name, only_one))
            continue;
        any = true;
        if (is_there_unpacked(&run->files, name))
            return tp_error_set(run->error, -EEXIST,
                                "%s: expected %s or the file that it unpacks to, found both: "
                                "remove one",
                                run->files.folder, name);
    }
    return any ? 0
               : tp_error_set(run->error, -EINVAL,
                              "%s: expected a packed checkpoint, found no *.safetensors%s",
                              run->options->input, TP_PACKED_SUFFIX);
}

static int unpack_all(struct tp_pack_run *run, struct listener *listener)
{
    struct tp_blocks *blocks = NULL;
    bool only_one = is_file(run->options->input);
    int rc = check_files(run, only_one);
    if (rc == 0 && listener == NULL)
        rc = tp_output_open(run->options->output, &run->output, run->error);
    if (rc == 0 && tp_blocks_new(&blocks) < 0)
        rc = tp_error_set(run->error, -ENOMEM, "out of memory");
    for (size_t i = 0; rc == 0 && i < run->files.n; i++) {
        if (is_packed_name(run->files.names[i], only_one))
            rc = unpack_file(run, blocks, run->files.names[i], listener);
        else if (listener == NULL)
            rc = tp_pack_run_copy(run, i);
        else
            tp_progress_add(run->progress, run->files.sizes[i]);
    }
    tp_blocks_free(blocks);
    return rc;
}

static int unpack(const struct tp_pack_options *options, const char *verb,
                  struct listener *listener, struct tp_pack_summary *ret_summary,
                  struct tp_error *error)
{
    struct tp_pack_run run = {.options = options, .files = {.directory = -1}, .error = error};
    int rc = tp_pack_run_start(&run, verb);
    if (rc == 0)
        rc = unpack_all(&run, listener);
    rc = tp_pack_run_end(&run, rc);
    if (rc == 0)
        *ret_summary = run.summary;
    return rc;
}

int tp_unpack(const struct tp_pack_options *options, struct tp_pack_summary *ret_summary,
              struct tp_error *error)
{
    return unpack(options, "unpacking", NULL, ret_summary, error);
}

int tp_packed_verify(const struct tp_pack_options *options, tp_packed_fault *fault, void *context,
                     struct tp_pack_summary *ret_summary, struct tp_error *error)
{
    struct listener listener = {fault, context};
    return unpack(options, "verifying", &listener, ret_summary, error);
}

bool tp_is_packed(const char *path)
{
    struct tp_file_list list;
    bool found = false;
    if (is_file(path))
        return is_packed_name(path, true);
    if (tp_file_list_open(path, NULL, &list, NULL) < 0)
        return false;
    for (size_t i = 0; !found && i < list.n; i++)
        found = strchr(list.names[i], '/') == NULL && is_packed_name(list.names[i], false);
    tp_file_list_close(&list);
    return found;
}
