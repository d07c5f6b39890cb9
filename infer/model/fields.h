/* The fields of a JSON object, taken one by one with what each may be. A value that is absent or
 * null leaves the target as it is: its default. Whatever is wrong is one line with field, expected
 * and found. */
#ifndef TENSORPORT_INFER_MODEL_FIELDS_H
#define TENSORPORT_INFER_MODEL_FIELDS_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"

struct tp_fields {
    const cJSON *object;
    const char *prefix; /* of the names in messages: "rope_scaling." or "" */
    struct tp_error *error;
};

/* Parses an object, strictly: RFC 8259 and UTF-8, nothing behind it. The caller deletes it.
 * -EINVAL, -ENOMEM. */
int tp_fields_parse(const char *text, size_t length, cJSON **ret_object, struct tp_error *error);

/* The value, or NULL when it is absent or null. */
const cJSON *tp_fields_find(const struct tp_fields *fields, const char *name);

/* True when the object has the field, null included. */
bool tp_fields_has(const struct tp_fields *fields, const char *name);

/* -EINVAL when a field is none of `known` (NULL at the end) and does not begin with '_', or
 * appears twice. */
int tp_fields_check_known(const struct tp_fields *fields, const char *const *known);

/* -EINVAL when it is absent or null. */
int tp_fields_require(const struct tp_fields *fields, const char *name);

/* An integer from `minimum` to `maximum`, both below 2^53. */
int tp_fields_size(const struct tp_fields *fields, const char *name, size_t minimum, size_t maximum,
                   size_t *value);

/* A number with above < value < below. */
int tp_fields_number(const struct tp_fields *fields, const char *name, double above, double below,
                     double *value);

/* The same with minimum <= value < below. */
int tp_fields_number_from(const struct tp_fields *fields, const char *name, double minimum,
                          double below, double *value);

int tp_fields_boolean(const struct tp_fields *fields, const char *name, bool *value);

/* One of `choices` (NULL at the end): its index. */
int tp_fields_choice(const struct tp_fields *fields, const char *name, const char *const *choices,
                     size_t *value);

/* An integer in a JSON value that `name` names in the message. */
int tp_fields_item_size(const struct tp_fields *fields, const char *name, const cJSON *item,
                        size_t minimum, size_t maximum, size_t *ret_value);

/* A text that is one of `choices`, likewise. */
int tp_fields_item_choice(const struct tp_fields *fields, const char *name, const cJSON *item,
                          const char *const *choices, size_t *ret_index);

/* -EINVAL with "NAME: expected EXPECTED, found VALUE". */
int tp_fields_refuse(const struct tp_fields *fields, const char *name, const char *expected,
                     const cJSON *found);

#endif
