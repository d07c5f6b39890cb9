/* From JSON text to a cJSON tree that tp_json_print() prints as Python would print the value
 * that Python reads: cJSON's own reader cannot tell 32.0 from 32, and takes what is no JSON. */
#ifndef TENSORPORT_FS_EXPORT_SYNTH_JSON_READ_H
#define TENSORPORT_FS_EXPORT_SYNTH_JSON_READ_H

#include <stddef.h>

#include <cjson/cJSON.h>

#include "decode/error.h"

/* Integers below 2^53 become cJSON numbers, all other numbers raw items. The caller deletes
 * *ret_tree. -EINVAL: no JSON, as decode/json.h judges it; -ERANGE: a string has a NUL in it,
 * which cJSON cannot hold; -ENOMEM. */
int tp_json_read(const char *text, size_t length, cJSON **ret_tree, struct tp_error *error);

/* Sets `field` of an object: in place when it is there, at the end when not. Takes `value`
 * over in any case; a NULL `value` is one that could not be allocated. 0 or -ENOMEM. */
int tp_json_set(cJSON *object, const char *field, cJSON *value);

#endif
