/* A text given as token ids on the command line, or in a file that numpy.save wrote. */
#ifndef TENSORPORT_INFER_CLI_TOKEN_IDS_H
#define TENSORPORT_INFER_CLI_TOKEN_IDS_H

#include <stddef.h>

#include "decode/error.h"
#include "infer/tokenizer/buffer.h"

/* Appends the ids that `argument` lists ("1,2,3"), or that the file FILE of "@FILE" has: an array
 * of one dimension and any type of integers. -EINVAL and the like say what was expected and found.
 */
int tp_token_ids_read(const char *argument, struct tp_ids *ids, struct tp_error *error);

/* -EINVAL if there are none, or one is not below `vocabulary`, with its place. */
int tp_token_ids_check(const struct tp_ids *ids, size_t vocabulary, struct tp_error *error);

#endif
