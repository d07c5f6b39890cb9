/* A new folder whose files appear together when all of them are complete, or not at all.
 *
 * Each file is written as NAME.partial. The commit flushes all of them to the disk, then
 * renames them; until then a failure, or whoever finds the folder after a crash, sees partial
 * files only. Not safe for several threads, except for writing to the descriptors.
 */
#ifndef TENSORPORT_FS_EXPORT_SYNTH_OUTPUT_H
#define TENSORPORT_FS_EXPORT_SYNTH_OUTPUT_H

#include <stddef.h>
#include <sys/types.h>

#include "decode/error.h"

struct tp_synth_output;

/* Makes the folder, or takes an empty one. -ENOTEMPTY, -ENOTDIR or what mkdir() says. */
int tp_synth_output_open(const char *path, struct tp_synth_output **ret_output,
                         struct tp_error *error);

/* Adds a file, empty and open for reading and writing; the descriptor belongs to the output.
 * -EEXIST: it has a file of that name. */
int tp_synth_output_create(struct tp_synth_output *output, const char *name, int *ret_fd,
                           struct tp_error *error);

/* Adds a whole file. */
int tp_synth_output_add(struct tp_synth_output *output, const char *name, const char *bytes,
                        size_t length, struct tp_error *error);

/* Adds copies of the regular files of a folder (a link counts as what it points to). */
int tp_synth_output_copy(struct tp_synth_output *output, const char *folder,
                         struct tp_error *error);

int tp_synth_output_commit(struct tp_synth_output *output, struct tp_error *error);

/* Frees the output. What was not committed is removed again, and so is a folder that
 * tp_synth_output_open() made for it. */
void tp_synth_output_close(struct tp_synth_output *output);

#endif
