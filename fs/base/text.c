#include "fs/base/text.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

int tp_text_open(struct tp_text *text)
{
    text->bytes = NULL;
    text->stream = open_memstream(&text->bytes, &text->length);
    return text->stream == NULL ? -ENOMEM : 0;
}

int tp_text_close(struct tp_text *text, int rc, char **ret_bytes, size_t *ret_length)
{
    if (text->stream == NULL)
        return -ENOMEM;
    bool failed = ferror(text->stream) != 0;
    failed |= fclose(text->stream) != 0;
    if (rc == 0 && (failed || text->bytes == NULL)) /* glibc may fail to trim it at the end */
        rc = -ENOMEM;
    if (rc < 0) {
        free(text->bytes);
        return rc;
    }
    *ret_bytes = text->bytes;
    *ret_length = text->length;
    return 0;
}
