/* model.safetensors.index.json: which shard holds which tensor. */
#ifndef TENSORPORT_FS_CHECKPOINT_INDEX_H
#define TENSORPORT_FS_CHECKPOINT_INDEX_H

#include <stdbool.h>
#include <stddef.h>

#include "decode/error.h"

struct tp_index_entry {
    const char *name; /* of the tensor; may contain NUL */
    size_t name_length;
    const char *file;
};

struct tp_index {
    size_t n_entries;
    struct tp_index_entry *entries; /* sorted by name; names are unique */
    size_t n_files;
    const char **files; /* sorted, unique */
    char *storage;
};

/* Reads and validates `name` in the folder `directory`. A file name that is absolute or leaves
 * the folder is refused. */
int tp_index_read(int directory, const char *name, struct tp_index *ret_index,
                  struct tp_error *error);

void tp_index_clear(struct tp_index *index);

/* The shard of a tensor, or NULL. */
const char *tp_index_find(const struct tp_index *index, const char *name, size_t name_length);

#endif
