/* A file of the checkpoint, opened once and trusted only as long as it stays what it was.
 *
 * It is a file as it lies on disk, or what a packed file NAME.tpk unpacks to
 * (fs/checkpoint/packed.h): readers see no difference, and `name` and `size` are those of the
 * original.
 *
 * The file is read with pread and never mapped, so that a truncated file is an error code and
 * not a signal. After every read its identity (device, inode, size, modification time) is
 * compared with that of the moment it was opened: bytes of a file that was truncated,
 * rewritten or replaced meanwhile are never delivered.
 */
#ifndef TENSORPORT_FS_CHECKPOINT_SOURCE_H
#define TENSORPORT_FS_CHECKPOINT_SOURCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "decode/error.h"
#include "fs/base/log.h"

struct tp_blocks;
struct tp_packed;

struct tp_source {
    char *name;        /* relative to the checkpoint's folder; owned */
    char *stored_name; /* the same, or NAME.tpk; owned */
    int directory;     /* the folder; borrowed */
    int fd;            /* of the stored file: its bytes are the source's only if it is not packed */
    dev_t device;
    ino_t inode;
    uint64_t size;
    uint64_t stored_size;
    struct tp_packed *packed; /* NULL: a plain file */
    struct timespec modified;
    bool in_memory; /* on tmpfs: no read has to wait for a disk */
    const struct tp_log *log;
    atomic_bool reported; /* the fault was logged: one line for each file */
};

/* Opens `name` in `directory`. Everything but a regular file is refused. `source` keeps
 * `directory` and `log` as long as it lives. */
int tp_source_open(struct tp_source *source, int directory, const char *name,
                   const struct tp_log *log, struct tp_error *error);

/* Opens the packed file NAME.tpk as NAME. What all packed files of a checkpoint share, `blocks`,
 * must outlive it. -EINVAL when it is no packed file. */
int tp_source_open_packed(struct tp_source *source, int directory, const char *name,
                          struct tp_blocks *blocks, const struct tp_log *log,
                          struct tp_error *error);

void tp_source_close(struct tp_source *source);

/* Reads exactly `length` bytes. -EIO when the file no longer is what was opened, is too short
 * or cannot be read; the first time this is logged. Thread-safe. */
int tp_source_read(struct tp_source *source, void *target, size_t length, uint64_t offset);

/* The same without the check of identity, for a caller that reads in pieces and calls
 * tp_source_verify() after the last one, before it hands anything on. */
int tp_source_read_unverified(struct tp_source *source, void *target, size_t length,
                              uint64_t offset);
int tp_source_verify(struct tp_source *source);

/* The stored bytes of the file, packed or not; without the check of identity. */
int tp_source_read_stored(struct tp_source *source, void *target, size_t length, uint64_t offset);

/* The bytes were delivered: the kernel need not keep its copy of them. */
void tp_source_forget(struct tp_source *source, uint64_t offset, uint64_t length);

/* The bytes are wanted soon: the kernel may begin to read them. */
void tp_source_expect(struct tp_source *source, uint64_t offset, uint64_t length);

#endif
