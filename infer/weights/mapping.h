/* Files mapped into memory, and what happens when one of them goes away.
 *
 * A mapping is the only way to use the page cache where it is, and it has one danger: if the file
 * is truncated, its mount's daemon ends or its source breaks, touching a page that is not yet in
 * memory raises SIGBUS. tp_mapping_guard() makes of that what a failed read would be: one line that
 * names the file and the tensor, and exit status 1. Nothing else can be done there, because the
 * load that failed can be anywhere in a kernel.
 */
#ifndef TENSORPORT_INFER_WEIGHTS_MAPPING_H
#define TENSORPORT_INFER_WEIGHTS_MAPPING_H

#include <stddef.h>
#include <stdint.h>

struct tp_mapping {
    const uint8_t *bytes; /* [length], read-only, shared with every process that maps the file */
    size_t length;
    char *message;           /* private: the line that the guard writes */
    size_t message_length;   /* private */
    struct tp_mapping *next; /* private */
};

/* Maps the first `length` bytes (at least 1) of `fd`, which may be closed afterwards. `path` and
 * `tensor` are for the message. A negative errno. Thread-safe. */
int tp_mapping_new(int fd, size_t length, const char *path, const char *tensor,
                   size_t tensor_length, struct tp_mapping **ret_mapping);

/* No thread may be using the mapping. NULL does nothing. Thread-safe. */
void tp_mapping_free(struct tp_mapping *mapping);

/* Guards all mappings of the process, present and future. A SIGBUS at any other address does what
 * it would have done before. `program` is the prefix of the line; it must stay where it is. */
void tp_mapping_guard(const char *program);

#endif
