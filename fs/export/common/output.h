/* A new folder whose files appear together when all of them are complete, or not at all.
 *
 * Each file is written as NAME.partial, or another name that ends so if that would be too long. The
 * commit flushes all of them to the disk, then
 * renames them; until then a failure, or whoever finds the folder after a crash, sees partial
 * files only. Not safe for several threads, except for writing to the descriptors.
 */
#ifndef TENSORPORT_FS_EXPORT_COMMON_OUTPUT_H
#define TENSORPORT_FS_EXPORT_COMMON_OUTPUT_H

#include <stddef.h>
#include <sys/types.h>
#include <time.h>

#include "decode/error.h"

struct tp_output;

/* Makes the folder, or takes an empty one. -ENOTEMPTY, -ENOTDIR or what mkdir() says. */
int tp_output_open(const char *path, struct tp_output **ret_output, struct tp_error *error);

/* Adds a file, empty and open for reading and writing; the descriptor belongs to the output. `name`
 * may lead through folders, which are made. -EEXIST: it has a file of that name. */
int tp_output_create(struct tp_output *output, const char *name, int *ret_fd,
                     struct tp_error *error);

/* The file is complete: sets its modification time, flushes it to the disk and closes it. Files
 * that are never said to be complete are, at the commit. */
int tp_output_complete(struct tp_output *output, int fd, struct timespec modified,
                       struct tp_error *error);

/* Adds a whole file. */
int tp_output_add(struct tp_output *output, const char *name, const char *bytes, size_t length,
                  struct tp_error *error);

/* Adds copies of the regular files of a folder (a link counts as what it points to). */
int tp_output_copy(struct tp_output *output, const char *folder, struct tp_error *error);

/* Gives all files their names. */
int tp_output_commit(struct tp_output *output, struct tp_error *error);

/* Frees the output. What was not committed is removed again, and so is a folder that
 * tp_output_open() made for it. */
void tp_output_close(struct tp_output *output);

#endif
