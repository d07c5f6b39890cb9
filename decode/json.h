/* A strict JSON reader that gives values one after the other.
 *
 * cJSON serves wherever JSON is ours or a person's. The headers of checkpoints are different:
 * they must be judged exactly as the official readers judge them, and they hold what cJSON
 * cannot represent: 64-bit integers beyond 2^53, names with NUL in them, a megabyte of
 * entries that must not become a hundred megabytes of nodes. So this reader takes RFC 8259
 * and UTF-8 to the letter, builds nothing, allocates nothing, and does not recurse.
 *
 * Usage: a cursor over the text; each call consumes one token or value. Any violation is
 * -EINVAL with the byte position in the message; the cursor must not be used after it.
 */
#ifndef TENSORPORT_DECODE_JSON_H
#define TENSORPORT_DECODE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"

/* Depth at which the official reader (serde_json) gives up. */
enum { TP_JSON_DEPTH_MAX = 127 };

enum tp_json_kind {
    TP_JSON_NULL,
    TP_JSON_BOOLEAN,
    TP_JSON_NUMBER,
    TP_JSON_STRING,
    TP_JSON_ARRAY,
    TP_JSON_OBJECT,
};

struct tp_json {
    const char *text;
    size_t length;
    size_t at;
    unsigned depth; /* open arrays and objects entered through this cursor */
    struct tp_error *error;
};

/* A string as it stands in the text, between its quotes, escapes and all. */
struct tp_json_string {
    const char *raw;
    size_t raw_length;
    size_t length; /* bytes once the escapes are resolved; never more than raw_length */
};

void tp_json_init(struct tp_json *json, const char *text, size_t length, struct tp_error *error);

/* Kind of the value that comes next, which is not consumed. */
int tp_json_peek(struct tp_json *json, enum tp_json_kind *ret_kind);

/* Enters an object or array; afterwards call the matching ..._next() until it says there is
 * no more, which also consumes the closing bracket. `*first` starts true and is theirs. */
int tp_json_enter_object(struct tp_json *json);
int tp_json_enter_array(struct tp_json *json);
int tp_json_object_next(struct tp_json *json, bool *first, struct tp_json_string *ret_key,
                        bool *ret_more);
int tp_json_array_next(struct tp_json *json, bool *first, bool *ret_more);

/* Scalars. An unsigned integer is digits only: no sign, fraction, exponent or leading zero,
 * below 2^64. */
int tp_json_string(struct tp_json *json, struct tp_json_string *ret_string);
int tp_json_unsigned(struct tp_json *json, uint64_t *ret_value);

/* Consumes any value, validating it. */
int tp_json_skip(struct tp_json *json);

/* Only white space may be left. */
int tp_json_end(struct tp_json *json);

/* Writes string->length bytes of UTF-8 (no NUL at the end; the text may contain NUL). */
void tp_json_string_copy(const struct tp_json_string *string, char *target);

/* Compares the resolved string with `text`. */
bool tp_json_string_equals(const struct tp_json_string *string, const char *text);

#endif
