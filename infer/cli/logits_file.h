/* Logits of every position in a file that numpy.load reads: float32 [positions, vocabulary].
 *
 * Rows are written as they come, so a file may be larger than memory. It gets its name when it is
 * complete: nobody finds half of one. */
#ifndef TENSORPORT_INFER_CLI_LOGITS_FILE_H
#define TENSORPORT_INFER_CLI_LOGITS_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"

struct tp_logits_file {
    const char *path; /* the caller's; NULL: no file is open */
    char *partial;    /* private: a name in the same folder, until then */
    bool has_name;    /* private: that one */
    int fd;
    size_t vocabulary;
    uint64_t n_rows;
    uint64_t header_bytes;
};

/* Begins the file `path`; one that is there stays until the new one is complete. A negative errno
 * with a message. */
int tp_logits_file_open(struct tp_logits_file *file, const char *path, size_t vocabulary,
                        struct tp_error *error);

/* Appends rows [n][vocabulary]. -ENOSPC and the like with a message. */
int tp_logits_file_append(struct tp_logits_file *file, const float *rows, size_t n,
                          struct tp_error *error);

/* Gives the file its header and its name. */
int tp_logits_file_commit(struct tp_logits_file *file, struct tp_error *error);

/* Closes the file, and removes what has not been committed. Of a struct that is all zeros, too. */
void tp_logits_file_close(struct tp_logits_file *file);

#endif
