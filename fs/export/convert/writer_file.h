/* One file of an export while it is written or checked: what fs/export/convert/writer.c does to it,
 * without a word of who does it when. */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_WRITER_FILE_H
#define TENSORPORT_FS_EXPORT_CONVERT_WRITER_FILE_H

#include <stdatomic.h>

#include "fs/export/convert/writer.h"

struct tp_writer_file {
    const struct tp_artifact *artifact;
    size_t index; /* its name in the folder `state` */
    int fd;       /* -1: not open */
    bool checking;
    atomic_bool differs; /* what is there is not what should be */
    struct tp_hashes *hashes;
};

/* What a kernel and two file systems turn out not to be able to do is tried once. */
struct tp_writer_abilities {
    atomic_bool cannot_clone, cannot_copy;
};

/* What a worker needs. */
struct tp_writer_room {
    struct tp_artifact_scratch scratch;
    uint8_t *made;  /* [TP_WRITER_PIECE_MAX] */
    uint8_t *there; /* [TP_WRITER_PIECE_MAX], when checking */
    float *exact;   /* [TP_WRITER_PIECE_MAX / 2], when counting what float16 loses */
};

/* Bytes worked on at a time: made, hashed and written while they are in the processor's cache. Of a
 * transposed tensor several strips of a matrix, because those at both ends are made twice. */
enum { TP_WRITER_PIECE = 512 << 10, TP_WRITER_PIECE_MAX = 4 << 20 };
size_t tp_writer_piece(const struct tp_writer_file *file, uint64_t offset);

int tp_writer_room_init(struct tp_writer_room *room, const struct tp_write_options *options);
void tp_writer_room_clear(struct tp_writer_room *room);

/* Opens what is there, if it is to be checked and may be right, else a new file. */
int tp_writer_open(struct tp_writer_file *file, const struct tp_write_options *options, bool check,
                   struct tp_error *error);

/* Makes the piece [offset, offset + length), or has the kernel copy it. `*ret_made` says whether
 * its bytes are in room->made, to be hashed; `*ret_placed` whether they are in the file. */
int tp_writer_make(struct tp_writer_file *file, const struct tp_write_options *options,
                   struct tp_writer_abilities *abilities, uint64_t offset, size_t length,
                   struct tp_writer_room *room, bool *ret_made, bool *ret_cloned, bool *ret_placed,
                   struct tp_error *error);

/* Writes or compares the made piece. */
int tp_writer_place(struct tp_writer_file *file, const struct tp_write_options *options,
                    uint64_t offset, size_t length, struct tp_writer_room *room,
                    struct tp_error *error);

/* Renames it to its place, after it has been flushed to the disk. */
int tp_writer_sync(const struct tp_writer_file *file, const struct tp_write_options *options,
                   struct tp_error *error);
int tp_writer_rename(const struct tp_writer_file *file, const struct tp_write_options *options,
                     struct tp_error *error);

/* Closes and frees; a file that was being written, and is not renamed, is removed. */
void tp_writer_abandon(struct tp_writer_file *file, const struct tp_write_options *options);
void tp_writer_close(struct tp_writer_file *file);

#endif
