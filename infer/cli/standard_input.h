/* Standard input, or a file, whole. */
#ifndef TENSORPORT_INFER_CLI_STANDARD_INPUT_H
#define TENSORPORT_INFER_CLI_STANDARD_INPUT_H

#include "decode/error.h"
#include "infer/tokenizer/buffer.h"

/* Append all of it, up to what can be encoded. -EIO, -EFBIG and the like, with a message. */
int tp_read_standard_input(struct tp_buffer *buffer, struct tp_error *error);
int tp_read_text_file(const char *path, struct tp_buffer *buffer, struct tp_error *error);

/* Ids as people and programs write them: numbers with blanks, commas, line ends or brackets
 * between. -EINVAL with the place of what is neither. */
int tp_parse_ids(const char *text, size_t length, struct tp_ids *ids, struct tp_error *error);

#endif
