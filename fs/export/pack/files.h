/* The regular files below a folder: what is packed and unpacked. */
#ifndef TENSORPORT_FS_EXPORT_PACK_FILES_H
#define TENSORPORT_FS_EXPORT_PACK_FILES_H

#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "fs/base/log.h"

struct tp_file_list {
    char *folder;  /* the folder given, or the one that the file given is in */
    int directory; /* the same, open */
    size_t n;
    char **names;    /* [n] relative to it, sorted */
    uint64_t *sizes; /* [n] */
};

/* Lists the folder `path` and all folders in it, or the single file `path`. A link to a file counts
 * as that file; a link to a folder and what is neither are left out, with a warning. -ENOENT and
 * whatever else opening gives, with a message; -ENOMEM. */
int tp_file_list_open(const char *path, const struct tp_log *log, struct tp_file_list *ret_list,
                      struct tp_error *error);

void tp_file_list_close(struct tp_file_list *list);

#endif
