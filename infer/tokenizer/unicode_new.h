/* Characters that are newer than the Unicode version of the PCRE2 library that is installed.
 *
 * Debian 12's PCRE2 knows Unicode 14, the reference tokenizers know 16, and how a text is split
 * depends on what is a letter. So a text that has characters of Unicode 15 or 16 is matched in a
 * copy in which older ones stand for them: of the same general category and as many bytes, so that
 * every match lies at the same place. That costs a look at each character beyond ASCII, and nothing
 * else.
 */
#ifndef TENSORPORT_INFER_TOKENIZER_UNICODE_NEW_H
#define TENSORPORT_INFER_TOKENIZER_UNICODE_NEW_H

#include "infer/tokenizer/buffer.h"

/* Gives the text to match in the place of valid UTF-8: `text` itself, or a copy of the same length
 * in `copy`. -ENOMEM. */
int tp_unicode_substitute(const char *text, size_t length, struct tp_buffer *copy,
                          const char **ret_text);

#endif
