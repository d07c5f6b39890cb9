/* The parts of tokenizer.json, each read by a function of its own. All of them return -EINVAL with
 * a message that begins with the field, or -ENOMEM. */
#ifndef TENSORPORT_INFER_TOKENIZER_TOKENIZER_JSON_H
#define TENSORPORT_INFER_TOKENIZER_TOKENIZER_JSON_H

#include "infer/tokenizer/members.h"
#include "infer/tokenizer/tokenizer_parts.h"

/* Parts that are absent are not read. */
int tp_tokenizer_read_pre_tokenizer(struct tp_tokenizer *tokenizer, const struct tp_json *json);
int tp_tokenizer_read_normalizer(struct tp_tokenizer *tokenizer, const struct tp_json *json);
int tp_tokenizer_read_post_processor(struct tp_tokenizer *tokenizer, const struct tp_json *json);
int tp_tokenizer_read_decoder(struct tp_tokenizer *tokenizer, const struct tp_json *json);

/* After the pre-tokenizer, which says whether the model is byte-level. */
int tp_tokenizer_read_model(struct tp_tokenizer *tokenizer, const struct tp_json *json);

/* {"String": ...} or {"Regex": ...} at members->values[i]. */
int tp_tokenizer_read_pattern(const struct tp_members *members, size_t i,
                              struct tp_pattern **ret_pattern);

/* Calls `read` for each element of the array at members->values[i], with its path. */
typedef int tp_element_reader(struct tp_tokenizer *tokenizer, const struct tp_json *json,
                              const char *path, unsigned depth);
int tp_tokenizer_read_array(struct tp_tokenizer *tokenizer, const struct tp_members *members,
                            size_t i, tp_element_reader *read, unsigned depth);

#endif
