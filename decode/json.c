/* One function per production of RFC 8259, over a cursor.
 *
 * The text may stand anywhere in the grammar only as the caller has left it: between two
 * calls the cursor is before a value, or before what separates values. Nesting inside a
 * skipped value is kept in a small array, bounded by the depth that is allowed anyway.
 */
#include "decode/json.h"

#include <errno.h>
#include <string.h>

/* What stands at the cursor, for messages. */
static int expected(const struct tp_json *json, const char *what)
{
    if (json->at >= json->length)
        return tp_error_set(json->error, -EINVAL, "JSON, byte %zu: expected %s, found the end",
                            json->at, what);
    unsigned char found = (unsigned char)json->text[json->at];
    if (found < 0x20 || found > 0x7e)
        return tp_error_set(json->error, -EINVAL, "JSON, byte %zu: expected %s, found byte 0x%02x",
                            json->at, what, found);
    return tp_error_set(json->error, -EINVAL, "JSON, byte %zu: expected %s, found '%c'", json->at,
                        what, found);
}

/* The byte at the cursor; 0 at the end, which no production takes either. */
static unsigned char current(const struct tp_json *json)
{
    return json->at < json->length ? (unsigned char)json->text[json->at] : 0;
}

static bool is_digit(unsigned char byte)
{
    return byte >= '0' && byte <= '9';
}

static void skip_space(struct tp_json *json)
{
    for (; json->at < json->length; json->at++) {
        char c = json->text[json->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t')
            return;
    }
}

void tp_json_init(struct tp_json *json, const char *text, size_t length, struct tp_error *error)
{
    *json = (struct tp_json){.text = text, .length = length, .error = error};
}

int tp_json_peek(struct tp_json *json, enum tp_json_kind *ret_kind)
{
    skip_space(json);
    unsigned char next = current(json);
    if (next == '{')
        *ret_kind = TP_JSON_OBJECT;
    else if (next == '[')
        *ret_kind = TP_JSON_ARRAY;
    else if (next == '"')
        *ret_kind = TP_JSON_STRING;
    else if (next == '-' || is_digit(next))
        *ret_kind = TP_JSON_NUMBER;
    else if (next == 't' || next == 'f')
        *ret_kind = TP_JSON_BOOLEAN;
    else if (next == 'n')
        *ret_kind = TP_JSON_NULL;
    else
        return expected(json, "a value");
    return 0;
}

static int enter(struct tp_json *json, char bracket, const char *what)
{
    skip_space(json);
    if (current(json) != (unsigned char)bracket)
        return expected(json, what);
    if (json->depth >= TP_JSON_DEPTH_MAX)
        return expected(json, "no more than 127 values inside one another");
    json->depth++;
    json->at++;
    return 0;
}

int tp_json_enter_object(struct tp_json *json)
{
    return enter(json, '{', "an object");
}

int tp_json_enter_array(struct tp_json *json)
{
    return enter(json, '[', "an array");
}

/* Consumes what stands before the next member, or the closing bracket. */
static int next_member(struct tp_json *json, bool *first, char closing, const char *separator,
                       bool *ret_more)
{
    skip_space(json);
    if (current(json) == (unsigned char)closing) {
        json->depth--;
        json->at++;
        *ret_more = false;
        return 0;
    }
    if (!*first) {
        if (current(json) != ',')
            return expected(json, separator);
        json->at++;
    }
    *first = false;
    *ret_more = true;
    return 0;
}

int tp_json_object_next(struct tp_json *json, bool *first, struct tp_json_string *ret_key,
                        bool *ret_more)
{
    bool more = false;
    int rc = next_member(json, first, '}', "',' or '}'", &more);
    if (rc == 0 && more) {
        struct tp_json_string key;
        rc = tp_json_string(json, &key);
        if (rc != 0)
            return rc;
        skip_space(json);
        if (current(json) != ':')
            return expected(json, "':'");
        json->at++;
        *ret_key = key;
    }
    if (rc == 0)
        *ret_more = more;
    return rc;
}

int tp_json_array_next(struct tp_json *json, bool *first, bool *ret_more)
{
    return next_member(json, first, ']', "',' or ']'", ret_more);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The code unit of the four digits at `digits`, which have been validated. */
static uint32_t code_unit(const char *digits)
{
    uint32_t unit = 0;
    for (size_t i = 0; i < 4; i++)
        unit = unit << 4 | (uint32_t)hex_digit(digits[i]);
    return unit;
}

static bool is_high_surrogate(uint32_t unit)
{
    return unit >= 0xd800 && unit <= 0xdbff;
}

static bool is_low_surrogate(uint32_t unit)
{
    return unit >= 0xdc00 && unit <= 0xdfff;
}

static size_t utf8_length(uint32_t code_point)
{
    return code_point < 0x80 ? 1 : code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
}

/* Consumes four hexadecimal digits. */
static int scan_code_unit(struct tp_json *json, uint32_t *ret_unit)
{
    const char *digits = json->text + json->at;
    for (size_t i = 0; i < 4; i++, json->at++) {
        if (json->at >= json->length || hex_digit(json->text[json->at]) < 0)
            return expected(json, "a hexadecimal digit");
    }
    *ret_unit = code_unit(digits);
    return 0;
}

/* Consumes an escape, the cursor being behind "\u"; half of a surrogate pair is an error. */
static int scan_unicode_escape(struct tp_json *json, size_t *length)
{
    uint32_t unit, low;
    int rc = scan_code_unit(json, &unit);
    if (rc != 0)
        return rc;
    if (is_low_surrogate(unit)) {
        json->at -= 4;
        return expected(json, "no low surrogate without a high one before it");
    }
    if (!is_high_surrogate(unit)) {
        *length += utf8_length(unit);
        return 0;
    }
    if (json->length - json->at < 2 || memcmp(json->text + json->at, "\\u", 2) != 0)
        return expected(json, "the escape of a low surrogate");
    json->at += 2;
    rc = scan_code_unit(json, &low);
    if (rc == 0 && !is_low_surrogate(low)) {
        json->at -= 4;
        return expected(json, "a low surrogate");
    }
    *length += 4;
    return rc;
}

static int scan_escape(struct tp_json *json, size_t *length)
{
    json->at++;
    unsigned char letter = current(json);
    if (letter == 0 || strchr("\"\\/bfnrtu", letter) == NULL)
        return expected(json, "one of \"\\/bfnrtu after a backslash");
    json->at++;
    if (letter == 'u')
        return scan_unicode_escape(json, length);
    *length += 1;
    return 0;
}

/* Consumes one character of two to four bytes. The second byte's range keeps out overlong
 * forms, surrogates and what lies beyond U+10FFFF (Unicode, table 3-7). */
static int scan_utf8(struct tp_json *json, size_t *length)
{
    unsigned char lead = current(json);
    unsigned char low = 0x80, high = 0xbf;
    size_t n = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (lead < 0xc2 || lead > 0xf4)
        return expected(json, "UTF-8");
    if (lead == 0xe0)
        low = 0xa0;
    else if (lead == 0xed)
        high = 0x9f;
    else if (lead == 0xf0)
        low = 0x90;
    else if (lead == 0xf4)
        high = 0x8f;
    json->at++;
    for (size_t i = 1; i < n; i++, json->at++) {
        unsigned char byte = current(json);
        if (byte < low || byte > high)
            return expected(json, "UTF-8");
        low = 0x80;
        high = 0xbf;
    }
    *length += n;
    return 0;
}

int tp_json_string(struct tp_json *json, struct tp_json_string *ret_string)
{
    skip_space(json);
    if (current(json) != '"')
        return expected(json, "a string");
    json->at++;
    size_t start = json->at;
    size_t length = 0;
    while (json->at < json->length && json->text[json->at] != '"') {
        unsigned char byte = (unsigned char)json->text[json->at];
        int rc = 0;
        if (byte < 0x20)
            return expected(json, "control characters of a string to be escaped");
        if (byte == '\\') {
            rc = scan_escape(json, &length);
        } else if (byte >= 0x80) {
            rc = scan_utf8(json, &length);
        } else {
            json->at++;
            length++;
        }
        if (rc != 0)
            return rc;
    }
    if (json->at >= json->length)
        return expected(json, "'\"'");
    *ret_string = (struct tp_json_string){json->text + start, json->at - start, length};
    json->at++;
    return 0;
}

/* Shows the whole number where there is one: its first digit would explain nothing. */
static int expected_unsigned(const struct tp_json *json)
{
    static const char what[] = "an unsigned integer below 2^64";
    const char *token = json->text + json->at;
    size_t length = 0;
    while (length < json->length - json->at && token[length] != '\0' &&
           strchr("+-.0123456789Ee", token[length]) != NULL)
        length++;
    if (length == 0)
        return expected(json, what);
    return tp_error_set(json->error, -EINVAL, "JSON, byte %zu: expected %s, found %.*s", json->at,
                        what, length < 40 ? (int)length : 40, token);
}

int tp_json_unsigned(struct tp_json *json, uint64_t *ret_value)
{
    skip_space(json);
    size_t start = json->at;
    uint64_t value = 0;
    bool fits = true;
    for (; is_digit(current(json)); json->at++) {
        fits = fits && !__builtin_mul_overflow(value, UINT64_C(10), &value) &&
               !__builtin_add_overflow(value, (uint64_t)(current(json) - '0'), &value);
    }
    size_t digits = json->at - start;
    unsigned char after = current(json);
    bool integer = after != '.' && after != 'e' && after != 'E';
    bool canonical = digits == 1 || (digits > 1 && json->text[start] != '0');
    if (integer && canonical && fits) {
        *ret_value = value;
        return 0;
    }
    json->at = start;
    return expected_unsigned(json);
}

/* A number as serde_json keeps it while it reads: what fits 64 bits, and a power of ten. */
struct decimal {
    uint64_t significand;
    int32_t exponent;
};

/* Appends the digit at the cursor unless the significand would overflow. */
static bool append_digit(const struct tp_json *json, uint64_t *significand)
{
    uint64_t value;
    if (__builtin_mul_overflow(*significand, UINT64_C(10), &value) ||
        __builtin_add_overflow(value, (uint64_t)(current(json) - '0'), &value))
        return false;
    *significand = value;
    return true;
}

static int scan_integer_part(struct tp_json *json, struct decimal *decimal)
{
    if (!is_digit(current(json)))
        return expected(json, "a digit");
    if (current(json) == '0') {
        json->at++;
        return is_digit(current(json)) ? expected(json, "no digit after a leading zero") : 0;
    }
    bool fits = true;
    for (; is_digit(current(json)); json->at++) {
        fits = fits && append_digit(json, &decimal->significand);
        decimal->exponent += !fits;
    }
    return 0;
}

static int scan_fraction(struct tp_json *json, struct decimal *decimal)
{
    if (current(json) != '.')
        return 0;
    json->at++;
    if (!is_digit(current(json)))
        return expected(json, "a digit");
    bool fits = true;
    for (; is_digit(current(json)); json->at++) {
        fits = fits && append_digit(json, &decimal->significand);
        decimal->exponent -= fits;
    }
    return 0;
}

static int scan_exponent(struct tp_json *json, struct decimal *decimal)
{
    if (current(json) != 'e' && current(json) != 'E')
        return 0;
    json->at++;
    bool negative = current(json) == '-';
    if (negative || current(json) == '+')
        json->at++;
    if (!is_digit(current(json)))
        return expected(json, "a digit");
    int32_t exponent = 0;
    for (; is_digit(current(json)); json->at++) {
        if (__builtin_mul_overflow(exponent, 10, &exponent) ||
            __builtin_add_overflow(exponent, current(json) - '0', &exponent))
            exponent = INT32_MAX;
    }
    int64_t sum = (int64_t)decimal->exponent + (negative ? -(int64_t)exponent : exponent);
    decimal->exponent = sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : (int32_t)sum;
    return 0;
}

/* True when serde_json refuses the number because a double cannot hold it. Its product of a
 * rounded significand and a rounded power is a little too large for the last numbers below
 * the limit: the same product is formed here, for the same verdict. Below 1e289 no 64-bit
 * significand can reach the limit. */
static bool is_out_of_range(const struct decimal *decimal)
{
    static const double powers[] = {1e289, 1e290, 1e291, 1e292, 1e293, 1e294, 1e295,
                                    1e296, 1e297, 1e298, 1e299, 1e300, 1e301, 1e302,
                                    1e303, 1e304, 1e305, 1e306, 1e307, 1e308};
    if (decimal->significand == 0 || decimal->exponent < 289)
        return false;
    if (decimal->exponent > 308)
        return true;
    return __builtin_isinf((double)decimal->significand * powers[decimal->exponent - 289]);
}

static int scan_number(struct tp_json *json)
{
    size_t start = json->at;
    struct decimal decimal = {0, 0};
    if (current(json) == '-')
        json->at++;
    int rc = scan_integer_part(json, &decimal);
    if (rc == 0)
        rc = scan_fraction(json, &decimal);
    if (rc == 0)
        rc = scan_exponent(json, &decimal);
    if (rc == 0 && is_out_of_range(&decimal)) {
        json->at = start;
        return expected(json, "a number in the range of a double");
    }
    return rc;
}

static int scan_literal(struct tp_json *json)
{
    static const char *const literals[] = {"null", "true", "false"};
    for (size_t i = 0; i < sizeof literals / sizeof *literals; i++) {
        size_t n = strlen(literals[i]);
        if (json->length - json->at >= n && memcmp(json->text + json->at, literals[i], n) == 0) {
            json->at += n;
            return 0;
        }
    }
    return expected(json, "null, true or false");
}

/* Consumes a scalar, or only the opening bracket of a container. */
static int begin_value(struct tp_json *json, enum tp_json_kind *ret_kind)
{
    struct tp_json_string string;
    int rc = tp_json_peek(json, ret_kind);
    if (rc != 0)
        return rc;
    switch (*ret_kind) {
    case TP_JSON_OBJECT:
        return tp_json_enter_object(json);
    case TP_JSON_ARRAY:
        return tp_json_enter_array(json);
    case TP_JSON_STRING:
        return tp_json_string(json, &string);
    case TP_JSON_NUMBER:
        return scan_number(json);
    default:
        return scan_literal(json);
    }
}

/* Moves to the next value inside the containers opened since depth `outer`, closing those
 * that have ended. False in `*ret_more` once all have. */
static int next_value(struct tp_json *json, const bool *is_object, unsigned outer, bool first,
                      bool *ret_more)
{
    *ret_more = false;
    while (json->depth > outer && !*ret_more) {
        struct tp_json_string key;
        int rc = is_object[json->depth] ? tp_json_object_next(json, &first, &key, ret_more)
                                        : tp_json_array_next(json, &first, ret_more);
        if (rc != 0)
            return rc;
        first = false;
    }
    return 0;
}

int tp_json_skip(struct tp_json *json)
{
    bool is_object[TP_JSON_DEPTH_MAX + 1];
    unsigned outer = json->depth;
    bool more = true;
    while (more) {
        enum tp_json_kind kind;
        int rc = begin_value(json, &kind);
        if (rc != 0)
            return rc;
        bool opened = kind == TP_JSON_OBJECT || kind == TP_JSON_ARRAY;
        if (opened)
            is_object[json->depth] = kind == TP_JSON_OBJECT;
        rc = next_value(json, is_object, outer, opened, &more);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int tp_json_end(struct tp_json *json)
{
    skip_space(json);
    return json->at == json->length ? 0 : expected(json, "nothing but white space");
}

static size_t utf8_encode(uint32_t code_point, char target[4])
{
    static const unsigned char leads[] = {0, 0, 0xc0, 0xe0, 0xf0};
    size_t n = utf8_length(code_point);
    for (size_t i = n - 1; i > 0; i--) {
        target[i] = (char)(0x80 | (code_point & 0x3f));
        code_point >>= 6;
    }
    target[0] = (char)(leads[n] | code_point);
    return n;
}

/* Resolves the escape at `*raw`, which has been validated, and moves behind it. */
static size_t resolve_escape(const char **raw, char target[4])
{
    static const char letters[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    char letter = (*raw)[1];
    if (letter != 'u') {
        target[0] = values[strchr(letters, letter) - letters];
        *raw += 2;
        return 1;
    }
    uint32_t unit = code_unit(*raw + 2);
    *raw += 6;
    if (is_high_surrogate(unit)) {
        unit = 0x10000 + ((unit - 0xd800) << 10) + (code_unit(*raw + 2) - 0xdc00);
        *raw += 6;
    }
    return utf8_encode(unit, target);
}

void tp_json_string_copy(const struct tp_json_string *string, char *target)
{
    const char *raw = string->raw;
    const char *end = raw + string->raw_length;
    while (raw < end) {
        const char *escape = memchr(raw, '\\', (size_t)(end - raw));
        size_t plain = (size_t)((escape == NULL ? end : escape) - raw);
        memcpy(target, raw, plain);
        target += plain;
        raw += plain;
        if (escape != NULL) {
            char resolved[4];
            size_t n = resolve_escape(&raw, resolved);
            memcpy(target, resolved, n);
            target += n;
        }
    }
}

bool tp_json_string_equals(const struct tp_json_string *string, const char *text)
{
    size_t left = strlen(text);
    if (string->length != left)
        return false;
    const char *raw = string->raw;
    const char *end = raw + string->raw_length;
    while (raw < end) {
        char resolved[4] = {*raw};
        size_t n = 1;
        if (*raw == '\\')
            n = resolve_escape(&raw, resolved);
        else
            raw++;
        if (memcmp(resolved, text, n) != 0)
            return false;
        text += n;
    }
    return true;
}
