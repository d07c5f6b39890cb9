/* A text that grows while it is written with stdio. */
#ifndef TENSORPORT_FS_BASE_TEXT_H
#define TENSORPORT_FS_BASE_TEXT_H

#include <stddef.h>
#include <stdio.h>

struct tp_text {
    FILE *stream; /* to write to; NULL when there was no memory */
    char *bytes;
    size_t length;
};

/* The struct must not move until it is closed. -ENOMEM. */
int tp_text_open(struct tp_text *text);

/* Ends the text and gives it to the caller, who frees it. Gives nothing, and frees what there
 * is, when `rc` is an error, or when memory ran out on the way: -ENOMEM. Returns the error. */
int tp_text_close(struct tp_text *text, int rc, char **ret_bytes, size_t *ret_length);

#endif
