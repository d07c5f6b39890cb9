/* Whole writes and reads: what is short or interrupted goes on. */
#ifndef TENSORPORT_FS_BASE_IO_H
#define TENSORPORT_FS_BASE_IO_H

#include <stddef.h>
#include <stdint.h>

/* Writes all bytes at `offset`. 0 or a negative errno. */
int tp_write_at(int fd, const void *bytes, size_t length, uint64_t offset);

/* Reads up to `length` bytes at `offset`; fewer only at the end of the file, and says how many.
 * 0 or a negative errno. */
int tp_read_at(int fd, void *target, size_t length, uint64_t offset, size_t *ret_length);

#endif
