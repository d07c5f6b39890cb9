/* The bytes of one file of the view, wherever they come from.
 *
 *     [ head: bytes in memory ][ data: copied or decoded from the checkpoint ]
 *
 * A tensor has its npy header as head; manifest.json is all head; the checkpoint's other files
 * are all data. Any range costs work in proportion to its length: the source bytes it needs
 * are read in pieces that stay in the processor's cache, and decoded from there.
 */
#ifndef TENSORPORT_FS_VIEW_CONTENT_H
#define TENSORPORT_FS_VIEW_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/codec.h"
#include "fs/checkpoint/source.h"

enum tp_content_kind { TP_CONTENT_COPY, TP_CONTENT_CONVERT, TP_CONTENT_MXFP4 };

struct tp_content {
    const char *head;
    size_t head_length;
    uint64_t data_length;

    enum tp_content_kind kind;
    struct tp_source *source; /* of the data, or of the blocks; NULL when data_length is 0 */
    uint64_t offset;
    struct tp_source *scales_source; /* MXFP4 only */
    uint64_t scales_offset;
    size_t source_width; /* bytes of an element; for MXFP4 of a block */
    size_t target_width; /* bytes of a decoded element */
    tp_convert_fn *convert;
    tp_mxfp4_fn *mxfp4;
};

static inline uint64_t tp_content_size(const struct tp_content *content)
{
    return content->head_length + content->data_length;
}

/* Writes the bytes [offset, offset + length) to `target`; the range lies inside the file.
 * 0, or -EIO when the source is not what it was. Thread-safe. */
int tp_content_read(const struct tp_content *content, uint64_t offset, size_t length, void *target);

/* Where the byte `offset` of the file lies in the checkpoint as it is, and those behind it: false
 * for heads, for what is decoded, and for packed files. Whoever reads there himself calls
 * tp_source_verify() after. */
bool tp_content_stored(const struct tp_content *content, uint64_t offset,
                       struct tp_source **ret_source, uint64_t *ret_offset);

/* Tells the kernel that the source bytes behind that range have been delivered. */
void tp_content_forget(const struct tp_content *content, uint64_t offset, size_t length);

/* Tells the kernel that the source bytes behind that range are wanted soon. */
void tp_content_expect(const struct tp_content *content, uint64_t offset, size_t length);

#endif
