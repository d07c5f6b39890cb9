/* What the commands print on standard output, a line each. */
#ifndef TENSORPORT_INFER_CLI_PRINT_H
#define TENSORPORT_INFER_CLI_PRINT_H

#include <stdbool.h>

#include "infer/tokenizer/buffer.h"

/* "1 2 3", or {"tokens": [1, 2, 3]}. */
void tp_print_ids(const struct tp_ids *ids, bool as_json);

/* {"tokens": [1, 2, 3], "text": "..."} */
void tp_print_ids_and_text(const struct tp_ids *ids, const struct tp_buffer *text);

/* {"KEY": "text"}, or the string alone if `key` is NULL. */
void tp_print_text_json(const struct tp_buffer *text, const char *key);

#endif
