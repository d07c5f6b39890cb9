/* The command line of tensorport-mount, `-o` options included. */
#ifndef TENSORPORT_FS_MOUNT_OPTIONS_H
#define TENSORPORT_FS_MOUNT_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "decode/error.h"
#include "fs/base/log.h"
#include "fs/base/options.h"
#include "fs/view/arguments.h"

extern const struct tp_program tp_mount_program;

struct tp_mount_options {
    const char *source;
    const char *mount_point;
    struct tp_view_arguments view;
    struct tp_serve_arguments serve;
    unsigned idle_timeout; /* seconds; 0: never */
    bool foreground;
    bool replace;
    bool debug;        /* libfuse prints every request */
    unsigned max_read; /* bytes of a request; 0: no limit */
    uid_t user;        /* who owns the files */
    gid_t group;
    char *kernel_options; /* comma-separated, for the kernel and fusermount3; owned */

    char **words; /* copies that values point into; owned */
    size_t n_words;
};

/* Parses argv. TP_OPTIONS_DONE: help or version was printed. On success the options must be
 * cleared; they point into argv. -EINVAL: a mistake, with a message (exit 2). */
int tp_mount_options_parse(int argc, char **argv, struct tp_mount_options *ret_options,
                           enum tp_options_result *ret_result, struct tp_error *error);

void tp_mount_options_clear(struct tp_mount_options *options);

#endif
