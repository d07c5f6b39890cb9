/* Headers of safetensors files, parsed and validated in full.
 *
 * Source: the format's text (safetensors README, "Format") and, where that is silent, the
 * verdicts of the official library, with one exception on purpose: a name that appears twice
 * in the header, or a field that appears twice in an entry, is refused.
 *
 *     u64 little endian N | N bytes of JSON, spaces at the end | data
 */
#ifndef TENSORPORT_DECODE_SAFETENSORS_H
#define TENSORPORT_DECODE_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "decode/dtype.h"
#include "decode/error.h"

enum { TP_SAFETENSORS_LENGTH_BYTES = 8 };
#define TP_SAFETENSORS_HEADER_MAX UINT64_C(100000000)

/* One tensor. The strings and shapes belong to the header. */
struct tp_safetensors_entry {
    const char *name; /* UTF-8; may contain NUL, so always with its length; NUL-terminated too */
    size_t name_length;
    const uint64_t *shape; /* [rank] */
    size_t rank;
    enum tp_dtype dtype;
    uint64_t begin, end; /* bytes [begin, end) after the header */
};

struct tp_safetensors {
    size_t n_entries;
    struct tp_safetensors_entry *entries; /* in the order of their offsets (then of the header) */
    void *storage;                        /* names and shapes */
};

/* Checks the length field: N from its 8 bytes against the file's size.
 * -EINVAL with a message when the header cannot lie in the file. */
int tp_safetensors_length(const uint8_t field[TP_SAFETENSORS_LENGTH_BYTES], uint64_t file_size,
                          uint64_t *ret_header_length, struct tp_error *error);

/* Parses the JSON part (`length` bytes); `data_size` is what remains of the file behind it.
 * Memory in proportion to `length`. -EINVAL with a message that names the tensor, -ENOMEM. */
int tp_safetensors_parse(const char *text, size_t length, uint64_t data_size,
                         struct tp_safetensors *ret_header, struct tp_error *error);

void tp_safetensors_clear(struct tp_safetensors *header);

#endif
