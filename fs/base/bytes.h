/* Small helpers for strings that may hold any byte, and for small files. */
#ifndef TENSORPORT_FS_BASE_BYTES_H
#define TENSORPORT_FS_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>

#include "decode/error.h"

/* Order of the bytes, then of the lengths. */
int tp_bytes_compare(const char *a, size_t a_length, const char *b, size_t b_length);

bool tp_bytes_end_with(const char *text, size_t length, const char *suffix);

/* How many bytes of a name a message shows, for "%.*s": a long one must not crowd out what is
 * wrong with it. UTF-8 is cut between characters. */
int tp_bytes_shown(const char *text, size_t length);

/* Reads the regular file `name` in `directory` whole, NUL-terminated, if it has at most
 * `maximum` bytes. The caller frees *ret_text. */
int tp_bytes_read_file(int directory, const char *name, size_t maximum, char **ret_text,
                       size_t *ret_length, struct tp_error *error);

#endif
