/* The writer counts and writes with the same code: a NULL target only counts.
 *
 * The parser reads the header's text as what it is, a Python literal: a dictionary of
 * three entries, each value of one known form. It is no reader of Python: numpy itself
 * has only ever written these forms.
 */
#include "decode/npy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char magic[6] = {'\x93', 'N', 'U', 'M', 'P', 'Y'};

enum {
    MAGIC_BYTES = 8, /* with the two bytes of the version */
    ALIGNMENT = 64,
    GROWTH_DIGITS = 21, /* numpy's GROWTH_AXIS_MAX_DIGITS */
    DIGITS_MAX = 20,    /* of 2^64 - 1 */
};

/* The text before its padding, and what is to be padded. */
struct text {
    char *target; /* NULL: count only */
    size_t length;
};

static void put(struct text *text, const char *piece, size_t n)
{
    if (text->target != NULL)
        memcpy(text->target + text->length, piece, n);
    text->length += n;
}

static void put_string(struct text *text, const char *piece)
{
    put(text, piece, strlen(piece));
}

static void put_spaces(struct text *text, size_t n)
{
    if (text->target != NULL)
        memset(text->target + text->length, ' ', n);
    text->length += n;
}

/* Returns the number of digits. */
static size_t put_number(struct text *text, uint64_t number)
{
    char digits[DIGITS_MAX + 1];
    int n = snprintf(digits, sizeof digits, "%" PRIu64, number);
    put(text, digits, (size_t)n);
    return (size_t)n;
}

static void put_dictionary(struct text *text, enum tp_dtype dtype, const uint64_t *shape,
                           size_t rank)
{
    size_t growth = 0;
    put_string(text, "{'descr': '");
    put_string(text, tp_dtype_descr(dtype));
    put_string(text, "', 'fortran_order': False, 'shape': (");
    for (size_t i = 0; i < rank; i++) {
        size_t digits = put_number(text, shape[i]);
        if (i == 0)
            growth = GROWTH_DIGITS - digits;
        if (i + 1 < rank)
            put_string(text, ", ");
    }
    put_string(text, rank == 1 ? ",), }" : "), }");
    put_spaces(text, growth);
}

/* Bytes of the whole header for a dictionary of `length` bytes, whose own length is told in
 * `field` bytes. numpy adds a full 64 where no padding would have been needed. */
static size_t padded(size_t length, size_t field)
{
    size_t bare = MAGIC_BYTES + field + length + 1;
    return bare + ALIGNMENT - bare % ALIGNMENT;
}

/* Bytes of the length field: 2 in version 1.0, 4 in version 2.0, which numpy takes only when
 * the other cannot tell the length. */
static size_t length_field(size_t dictionary_length)
{
    return padded(dictionary_length, 2) - MAGIC_BYTES - 2 <= UINT16_MAX ? 2 : 4;
}

static size_t dictionary_length(enum tp_dtype dtype, const uint64_t *shape, size_t rank)
{
    struct text counted = {NULL, 0};
    put_dictionary(&counted, dtype, shape, rank);
    return counted.length;
}

size_t tp_npy_header_length(enum tp_dtype dtype, const uint64_t *shape, size_t rank)
{
    size_t length = dictionary_length(dtype, shape, rank);
    return padded(length, length_field(length));
}

void tp_npy_header_write(enum tp_dtype dtype, const uint64_t *shape, size_t rank, char *target)
{
    size_t length = dictionary_length(dtype, shape, rank);
    size_t field = length_field(length);
    size_t total = padded(length, field);
    size_t told = total - MAGIC_BYTES - field;
    struct text text = {target, 0};
    put(&text, magic, sizeof magic);
    put(&text, field == 2 ? "\1\0" : "\2\0", 2);
    for (size_t i = 0; i < field; i++)
        put(&text, &(char){(char)(told >> 8 * i)}, 1);
    put_dictionary(&text, dtype, shape, rank);
    put_spaces(&text, total - text.length - 1);
    put(&text, "\n", 1);
}

struct cursor {
    const char *text;
    size_t length, at;
    struct tp_error *error;
};

/* Which keys have been read. */
struct keys {
    bool descr, fortran_order, shape;
};

/* Says what stands at the cursor instead of what should. */
static void complain(const struct cursor *cursor, const char *what)
{
    char found[16] = "the end";
    if (cursor->at < cursor->length) {
        unsigned char byte = (unsigned char)cursor->text[cursor->at];
        bool printable = byte >= 0x20 && byte <= 0x7e;
        snprintf(found, sizeof found, printable ? "'%c'" : "byte 0x%02x", byte);
    }
    tp_error_format(cursor->error, "npy header, byte %zu: expected %s, found %s", cursor->at, what,
                    found);
}

/* A macro for the reason that tp_error_set() is one. */
#define expected(cursor, what) (complain((cursor), (what)), -EINVAL)

static void skip_space(struct cursor *cursor)
{
    for (; cursor->at < cursor->length; cursor->at++) {
        char c = cursor->text[cursor->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r')
            return;
    }
}

/* Takes `token` if it comes next, white space before it aside. */
static bool take(struct cursor *cursor, const char *token)
{
    skip_space(cursor);
    size_t n = strlen(token);
    if (cursor->length - cursor->at < n || memcmp(cursor->text + cursor->at, token, n) != 0)
        return false;
    cursor->at += n;
    return true;
}

/* A string in either quote; nothing in it is escaped. */
static int take_string(struct cursor *cursor, const char **ret_string, size_t *ret_length)
{
    skip_space(cursor);
    char quote = cursor->at < cursor->length ? cursor->text[cursor->at] : '\0';
    if (quote != '\'' && quote != '"')
        return expected(cursor, "a string");
    cursor->at++;
    const char *start = cursor->text + cursor->at;
    const char *end = memchr(start, quote, cursor->length - cursor->at);
    if (end == NULL) {
        cursor->at = cursor->length;
        return expected(cursor, "the string's closing quote");
    }
    *ret_string = start;
    *ret_length = (size_t)(end - start);
    cursor->at += *ret_length + 1;
    return 0;
}

static int take_number(struct cursor *cursor, uint64_t *ret_number)
{
    skip_space(cursor);
    size_t start = cursor->at;
    uint64_t number = 0;
    bool fits = true;
    for (; cursor->at < cursor->length; cursor->at++) {
        char c = cursor->text[cursor->at];
        if (c < '0' || c > '9')
            break;
        fits = fits && !__builtin_mul_overflow(number, UINT64_C(10), &number) &&
               !__builtin_add_overflow(number, (uint64_t)(c - '0'), &number);
    }
    size_t digits = cursor->at - start;
    if (digits == 0 || !fits || (digits > 1 && cursor->text[start] == '0')) {
        cursor->at = start;
        return expected(cursor, "an integer of 0 to 2^64 - 1");
    }
    *ret_number = number;
    return 0;
}

/* "<f4": an order of bytes, which is ours or none, and what tp_dtype_descr() has after it.
 * TP_U8 comes before the 8-bit floats, which share its descr. */
static int take_descr(struct cursor *cursor, enum tp_dtype *ret_dtype)
{
    const char *descr;
    size_t length;
    int rc = take_string(cursor, &descr, &length);
    if (rc != 0)
        return rc;
    for (enum tp_dtype dtype = 0; dtype < TP_N_DTYPES; dtype++) {
        const char *known = tp_dtype_descr(dtype);
        bool no_order = tp_dtype_size(dtype) == 1 || dtype == TP_BF16;
        if (length == strlen(known) && memcmp(descr + 1, known + 1, length - 1) == 0 &&
            (descr[0] == '<' || (no_order && descr[0] == '|'))) {
            *ret_dtype = dtype;
            return 0;
        }
    }
    return tp_error_set(cursor->error, -EINVAL,
                        "npy header, descr: expected a little-endian boolean, integer, float, "
                        "complex64 or <V2, found '%.*s'",
                        length < 40 ? (int)length : 40, descr);
}

/* Takes a tuple of integers, into `shape` unless it is NULL. */
static int take_tuple(struct cursor *cursor, uint64_t *shape, size_t *ret_rank)
{
    size_t rank = 0;
    bool comma = true;
    if (!take(cursor, "("))
        return expected(cursor, "a tuple");
    while (!take(cursor, ")")) {
        uint64_t dimension;
        if (!comma)
            return expected(cursor, "',' or ')'");
        int rc = take_number(cursor, &dimension);
        if (rc != 0)
            return rc;
        if (shape != NULL)
            shape[rank] = dimension;
        rank++;
        comma = take(cursor, ",");
    }
    /* (5) is a number in Python. */
    if (rank == 1 && !comma) {
        cursor->at--;
        return expected(cursor, "',' after the only dimension");
    }
    *ret_rank = rank;
    return 0;
}

/* Counts, allocates, and reads the same once more. */
static int take_shape(struct cursor *cursor, struct tp_npy_header *header)
{
    struct cursor again = *cursor;
    size_t rank;
    int rc = take_tuple(cursor, NULL, &rank);
    if (rc != 0)
        return rc;
    header->shape = calloc(rank + 1, sizeof *header->shape);
    if (header->shape == NULL)
        return tp_error_set(cursor->error, -ENOMEM, "npy header: no memory for %zu dimensions",
                            rank);
    return take_tuple(&again, header->shape, &header->rank);
}

static int take_boolean(struct cursor *cursor, bool *ret_boolean)
{
    bool is_true = take(cursor, "True");
    if (!is_true && !take(cursor, "False"))
        return expected(cursor, "True or False");
    *ret_boolean = is_true;
    return 0;
}

static bool is_key(const char *key, size_t length, const char *name)
{
    return length == strlen(name) && memcmp(key, name, length) == 0;
}

static int take_value(struct cursor *cursor, const char *key, size_t length, struct keys *seen,
                      struct tp_npy_header *header)
{
    if (is_key(key, length, "descr") && !seen->descr) {
        seen->descr = true;
        return take_descr(cursor, &header->dtype);
    }
    if (is_key(key, length, "fortran_order") && !seen->fortran_order) {
        seen->fortran_order = true;
        return take_boolean(cursor, &header->fortran_order);
    }
    if (is_key(key, length, "shape") && !seen->shape) {
        seen->shape = true;
        return take_shape(cursor, header);
    }
    return tp_error_set(cursor->error, -EINVAL,
                        "npy header: expected the keys descr, fortran_order and shape once each, "
                        "found '%.*s'",
                        length < 40 ? (int)length : 40, key);
}

static int take_dictionary(struct cursor *cursor, struct tp_npy_header *header)
{
    struct keys seen = {.descr = false};
    bool comma = true;
    if (!take(cursor, "{"))
        return expected(cursor, "'{'");
    while (!take(cursor, "}")) {
        const char *key;
        size_t length;
        if (!comma)
            return expected(cursor, "',' or '}'");
        int rc = take_string(cursor, &key, &length);
        if (rc == 0 && !take(cursor, ":"))
            return expected(cursor, "':'");
        if (rc == 0)
            rc = take_value(cursor, key, length, &seen, header);
        if (rc != 0)
            return rc;
        comma = take(cursor, ",");
    }
    skip_space(cursor);
    if (cursor->at != cursor->length)
        return expected(cursor, "only white space behind the dictionary");
    if (!seen.descr || !seen.fortran_order || !seen.shape)
        return tp_error_set(cursor->error, -EINVAL,
                            "npy header: expected the keys descr, fortran_order and shape, "
                            "found no %s",
                            !seen.descr           ? "descr"
                            : !seen.fortran_order ? "fortran_order"
                                                  : "shape");
    return 0;
}

/* Finds the dictionary by the magic, the version and the length. */
static int find_dictionary(const char *text, size_t length, struct cursor *ret_cursor,
                           struct tp_error *error)
{
    if (length < MAGIC_BYTES || memcmp(text, magic, sizeof magic) != 0)
        return tp_error_set(error, -EINVAL, "expected an npy file, found no \\x93NUMPY");
    unsigned major = (unsigned char)text[6], minor = (unsigned char)text[7];
    if (major < 1 || major > 3 || minor != 0)
        return tp_error_set(error, -EINVAL, "npy version: expected 1.0, 2.0 or 3.0, found %u.%u",
                            major, minor);
    size_t field = major == 1 ? 2 : 4;
    size_t told = 0;
    if (length - MAGIC_BYTES < field)
        return tp_error_set(error, -EINVAL, "npy header: expected its length, found the end");
    for (size_t i = field; i-- > 0;)
        told = told << 8 | (unsigned char)text[MAGIC_BYTES + i];
    if (told > length - MAGIC_BYTES - field)
        return tp_error_set(error, -EINVAL, "npy header: expected its %zu bytes, found %zu", told,
                            length - MAGIC_BYTES - field);
    *ret_cursor = (struct cursor){text, MAGIC_BYTES + field + told, MAGIC_BYTES + field, error};
    return 0;
}

int tp_npy_header_parse(const char *text, size_t length, struct tp_npy_header *ret_header,
                        struct tp_error *error)
{
    struct tp_npy_header header = {.shape = NULL};
    struct cursor cursor;
    int rc = find_dictionary(text, length, &cursor, error);
    if (rc == 0)
        rc = take_dictionary(&cursor, &header);
    if (rc == 0 && !tp_shape_bytes(header.shape, header.rank, header.dtype, &header.data_bytes))
        rc = tp_error_set(error, -EINVAL, "npy shape: expected less than 2^64 bytes, found more");
    if (rc != 0) {
        tp_npy_header_clear(&header);
        return rc;
    }
    header.data_offset = cursor.length;
    *ret_header = header;
    return 0;
}

void tp_npy_header_clear(struct tp_npy_header *header)
{
    free(header->shape);
    *header = (struct tp_npy_header){.shape = NULL};
}
