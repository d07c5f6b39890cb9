/* One walk over the header, done twice.
 *
 * The first walk validates everything and counts: entries, dimensions, bytes of names. The
 * second finds the same and stores it, in the two blocks which the counts have given.
 * What concerns several tensors comes last, on the sorted entries: names that appear twice,
 * and places that do not cover the data from its beginning to its end.
 *
 *     entries   [n_entries] sorted by place
 *     storage   shapes [n_dimensions] | names, each with a NUL behind it
 *
 * An entry may be an array of its three values, and a dtype an object: no writer does so,
 * but the official reader (serde) takes these forms of a record and of an enumeration.
 */
#include "decode/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"

struct walk {
    struct tp_json json;
    uint64_t data_size;
    size_t n_entries, n_dimensions, n_name_bytes; /* so far */
    struct tp_safetensors_entry *entries;         /* NULL while counting, like the next two */
    uint64_t *shapes;
    char *names;
};

/* What is known of the entry being read. */
struct fields {
    struct tp_safetensors_entry entry;
    bool has_dtype, has_shape, has_offsets;
    bool elements_fit; /* their product stayed below 2^64 */
    uint64_t elements;
};

/* A name as messages show it: cut where it is long, always one line. */
struct quoted {
    char text[200];
};

static struct quoted quote(const char *name, size_t length)
{
    struct quoted quoted;
    size_t room = sizeof quoted.text - sizeof "...";
    size_t kept = length <= room ? length : room;
    while (kept < length && kept > 0 && ((unsigned char)name[kept] & 0xc0) == 0x80)
        kept--;
    for (size_t i = 0; i < kept; i++)
        quoted.text[i] = name[i] != '\0' ? name[i] : '?';
    memcpy(quoted.text + kept, kept < length ? "..." : "", kept < length ? 4 : 1);
    return quoted;
}

static const char *kind_name(enum tp_json_kind kind)
{
    static const char *const names[] = {
        [TP_JSON_NULL] = "null",       [TP_JSON_BOOLEAN] = "a boolean",
        [TP_JSON_NUMBER] = "a number", [TP_JSON_STRING] = "a string",
        [TP_JSON_ARRAY] = "an array",  [TP_JSON_OBJECT] = "an object",
    };
    return names[kind];
}

int tp_safetensors_length(const uint8_t field[TP_SAFETENSORS_LENGTH_BYTES], uint64_t file_size,
                          uint64_t *ret_header_length, struct tp_error *error)
{
    uint64_t length = 0;
    for (size_t i = TP_SAFETENSORS_LENGTH_BYTES; i-- > 0;)
        length = length << 8 | field[i];
    if (file_size < TP_SAFETENSORS_LENGTH_BYTES)
        return tp_error_set(error, -EINVAL,
                            "length of the header: expected 8 bytes, found %" PRIu64, file_size);
    if (length > TP_SAFETENSORS_HEADER_MAX)
        return tp_error_set(error, -EINVAL,
                            "length of the header: expected at most %" PRIu64 ", found %" PRIu64,
                            TP_SAFETENSORS_HEADER_MAX, length);
    if (length > file_size - TP_SAFETENSORS_LENGTH_BYTES)
        return tp_error_set(error, -EINVAL,
                            "length of the header: expected at most the %" PRIu64
                            " bytes that follow, found %" PRIu64,
                            file_size - TP_SAFETENSORS_LENGTH_BYTES, length);
    *ret_header_length = length;
    return 0;
}

/* An object whose values are strings. */
static int read_strings(struct tp_json *json)
{
    bool first = true, more = true;
    int rc = tp_json_enter_object(json);
    while (rc == 0) {
        struct tp_json_string string;
        rc = tp_json_object_next(json, &first, &string, &more);
        if (rc != 0 || !more)
            break;
        rc = tp_json_string(json, &string);
    }
    return rc;
}

/* "__metadata__": null, or strings by name. Nobody asks for them; they are validated. */
static int read_metadata(struct tp_json *json)
{
    enum tp_json_kind kind;
    int rc = tp_json_peek(json, &kind);
    if (rc == 0)
        rc = kind == TP_JSON_NULL ? tp_json_skip(json) : read_strings(json);
    return rc == 0 ? 0 : tp_error_prefix(json->error, rc, "__metadata__");
}

static int unknown_dtype(const struct tp_json *json, const struct tp_json_string *name)
{
    char known[256] = "";
    for (enum tp_dtype dtype = 0; dtype < TP_N_DTYPES; dtype++) {
        size_t at = strlen(known);
        snprintf(known + at, sizeof known - at, "%s%s", at == 0 ? "" : ", ", tp_dtype_name(dtype));
    }
    return tp_error_set(json->error, -EINVAL, "dtype: expected one of %s, found \"%s\"", known,
                        quote(name->raw, name->raw_length).text);
}

static int parse_dtype(const struct tp_json *json, const struct tp_json_string *name,
                       enum tp_dtype *ret_dtype)
{
    char text[16];
    if (name->length > sizeof text)
        return unknown_dtype(json, name);
    tp_json_string_copy(name, text);
    if (!tp_dtype_parse(text, name->length, ret_dtype))
        return unknown_dtype(json, name);
    return 0;
}

/* {"F32": null} */
static int read_dtype_object(struct tp_json *json, enum tp_dtype *ret_dtype)
{
    struct tp_json_string name;
    enum tp_json_kind kind = TP_JSON_OBJECT;
    bool first = true, more = false;
    int rc = tp_json_enter_object(json);
    if (rc == 0)
        rc = tp_json_object_next(json, &first, &name, &more);
    if (rc == 0 && more)
        rc = parse_dtype(json, &name, ret_dtype);
    if (rc == 0 && more)
        rc = tp_json_peek(json, &kind);
    if (rc == 0 && kind == TP_JSON_NULL)
        rc = tp_json_skip(json);
    if (rc == 0 && kind == TP_JSON_NULL)
        rc = tp_json_object_next(json, &first, &name, &more);
    if (rc == 0 && (kind != TP_JSON_NULL || more))
        return tp_error_set(json->error, -EINVAL,
                            "dtype: expected a string, found an object that is no dtype");
    return rc;
}

static int read_dtype(struct tp_json *json, enum tp_dtype *ret_dtype)
{
    struct tp_json_string name;
    enum tp_json_kind kind;
    int rc = tp_json_peek(json, &kind);
    if (rc == 0 && kind == TP_JSON_OBJECT)
        return read_dtype_object(json, ret_dtype);
    if (rc == 0 && kind != TP_JSON_STRING)
        return tp_error_set(json->error, -EINVAL, "dtype: expected a string, found %s",
                            kind_name(kind));
    if (rc == 0)
        rc = tp_json_string(json, &name);
    return rc != 0 ? rc : parse_dtype(json, &name, ret_dtype);
}

/* Enters the array that is a field's value. */
static int enter_list(struct tp_json *json, const char *field, const char *what)
{
    enum tp_json_kind kind;
    int rc = tp_json_peek(json, &kind);
    if (rc == 0 && kind != TP_JSON_ARRAY)
        return tp_error_set(json->error, -EINVAL, "%s: expected %s, found %s", field, what,
                            kind_name(kind));
    return rc != 0 ? rc : tp_json_enter_array(json);
}

static int read_shape(struct walk *walk, struct fields *fields)
{
    struct tp_json *json = &walk->json;
    size_t start = walk->n_dimensions;
    bool first = true, more = true;
    fields->elements = 1;
    fields->elements_fit = true;
    int rc = enter_list(json, "shape", "an array");
    while (rc == 0) {
        uint64_t dimension;
        rc = tp_json_array_next(json, &first, &more);
        if (rc == 0 && !more)
            break;
        if (rc == 0)
            rc = tp_json_unsigned(json, &dimension);
        if (rc != 0)
            return tp_error_prefix(json->error, rc, "shape");
        if (walk->shapes != NULL)
            walk->shapes[walk->n_dimensions] = dimension;
        walk->n_dimensions++;
        fields->elements_fit =
            fields->elements_fit &&
            !__builtin_mul_overflow(fields->elements, dimension, &fields->elements);
    }
    fields->entry.shape = walk->shapes == NULL ? NULL : walk->shapes + start;
    fields->entry.rank = walk->n_dimensions - start;
    return rc;
}

static int read_offsets(struct tp_json *json, struct tp_safetensors_entry *entry)
{
    uint64_t offsets[2] = {0, 0};
    size_t n = 0;
    bool first = true, more = true;
    int rc = enter_list(json, "data_offsets", "an array of two integers");
    if (rc != 0)
        return rc;
    while (more) {
        rc = tp_json_array_next(json, &first, &more);
        if (rc == 0 && n < 2 && more)
            rc = tp_json_unsigned(json, &offsets[n]);
        if (rc != 0)
            return tp_error_prefix(json->error, rc, "data_offsets");
        if ((n < 2) != more)
            return tp_error_set(json->error, -EINVAL,
                                "data_offsets: expected two integers, found %s",
                                more     ? "more"
                                : n == 0 ? "none"
                                         : "one");
        n++;
    }
    entry->begin = offsets[0];
    entry->end = offsets[1];
    return 0;
}

static int check_first(const struct tp_json *json, const char *field, bool *has)
{
    if (*has)
        return tp_error_set(json->error, -EINVAL, "expected the field \"%s\" once, found it twice",
                            field);
    *has = true;
    return 0;
}

static int read_field(struct walk *walk, const struct tp_json_string *key, struct fields *fields)
{
    struct tp_json *json = &walk->json;
    int rc;
    if (tp_json_string_equals(key, "dtype")) {
        rc = check_first(json, "dtype", &fields->has_dtype);
        return rc != 0 ? rc : read_dtype(json, &fields->entry.dtype);
    }
    if (tp_json_string_equals(key, "shape")) {
        rc = check_first(json, "shape", &fields->has_shape);
        return rc != 0 ? rc : read_shape(walk, fields);
    }
    if (tp_json_string_equals(key, "data_offsets")) {
        rc = check_first(json, "data_offsets", &fields->has_offsets);
        return rc != 0 ? rc : read_offsets(json, &fields->entry);
    }
    return tp_json_skip(json);
}

static int read_fields(struct walk *walk, struct fields *fields)
{
    bool first = true, more = true;
    int rc = tp_json_enter_object(&walk->json);
    while (rc == 0) {
        struct tp_json_string key;
        rc = tp_json_object_next(&walk->json, &first, &key, &more);
        if (rc == 0 && !more)
            break;
        if (rc == 0)
            rc = read_field(walk, &key, fields);
    }
    if (rc != 0 || (fields->has_dtype && fields->has_shape && fields->has_offsets))
        return rc;
    return tp_error_set(walk->json.error, -EINVAL,
                        "expected the fields dtype, shape and data_offsets, found no %s",
                        !fields->has_dtype   ? "dtype"
                        : !fields->has_shape ? "shape"
                                             : "data_offsets");
}

/* ["F32", [1], [0, 4]] */
static int read_fields_by_position(struct walk *walk, struct fields *fields)
{
    bool first = true, more = true;
    size_t n = 0;
    int rc = tp_json_enter_array(&walk->json);
    while (rc == 0) {
        rc = tp_json_array_next(&walk->json, &first, &more);
        if (rc == 0 && (n < 3) != more)
            return tp_error_set(walk->json.error, -EINVAL,
                                "expected the three values dtype, shape and data_offsets, "
                                "found %s",
                                more ? "more" : "fewer");
        if (rc != 0 || !more)
            break;
        rc = n == 0   ? read_dtype(&walk->json, &fields->entry.dtype)
             : n == 1 ? read_shape(walk, fields)
                      : read_offsets(&walk->json, &fields->entry);
        n++;
    }
    return rc;
}

/* What can be said of one tensor without the others. */
static int check_entry(const struct walk *walk, const struct fields *fields)
{
    const struct tp_safetensors_entry *entry = &fields->entry;
    struct tp_error *error = walk->json.error;
    uint64_t bytes = 0;
    if (!fields->elements_fit ||
        __builtin_mul_overflow(fields->elements, (uint64_t)tp_dtype_size(entry->dtype), &bytes))
        return tp_error_set(error, -EINVAL, "shape: expected less than 2^64 bytes, found more");
    if (entry->end < entry->begin)
        return tp_error_set(error, -EINVAL,
                            "data_offsets [%" PRIu64 ", %" PRIu64 "] run backwards: expected the "
                            "second to be at least the first",
                            entry->begin, entry->end);
    if (entry->end > walk->data_size)
        return tp_error_set(error, -EINVAL,
                            "data_offsets [%" PRIu64 ", %" PRIu64 "] go past the end of the data: "
                            "expected at most %" PRIu64,
                            entry->begin, entry->end, walk->data_size);
    if (entry->end - entry->begin != bytes)
        return tp_error_set(error, -EINVAL,
                            "data_offsets [%" PRIu64 ", %" PRIu64 "]: expected %" PRIu64
                            " bytes for the shape and %s, found %" PRIu64,
                            entry->begin, entry->end, bytes, tp_dtype_name(entry->dtype),
                            entry->end - entry->begin);
    return 0;
}

static int read_entry_value(struct walk *walk, struct fields *fields)
{
    enum tp_json_kind kind;
    int rc = tp_json_peek(&walk->json, &kind);
    if (rc != 0)
        return rc;
    if (kind == TP_JSON_OBJECT)
        rc = read_fields(walk, fields);
    else if (kind == TP_JSON_ARRAY)
        rc = read_fields_by_position(walk, fields);
    else
        return tp_error_set(walk->json.error, -EINVAL, "expected an object, found %s",
                            kind_name(kind));
    return rc != 0 ? rc : check_entry(walk, fields);
}

static int read_entry(struct walk *walk, const struct tp_json_string *name)
{
    struct fields fields = {.has_dtype = false};
    int rc = read_entry_value(walk, &fields);
    if (rc != 0)
        return tp_error_prefix(walk->json.error, rc, "tensor \"%s\"",
                               quote(name->raw, name->raw_length).text);
    if (walk->entries != NULL) {
        char *target = walk->names + walk->n_name_bytes;
        tp_json_string_copy(name, target);
        target[name->length] = '\0';
        fields.entry.name = target;
        fields.entry.name_length = name->length;
        walk->entries[walk->n_entries] = fields.entry;
    }
    walk->n_name_bytes += name->length + 1;
    walk->n_entries++;
    return 0;
}

static int walk_header(struct walk *walk)
{
    struct tp_json *json = &walk->json;
    bool first = true, more = true, has_metadata = false;
    int rc = tp_json_enter_object(json);
    while (rc == 0) {
        struct tp_json_string key;
        rc = tp_json_object_next(json, &first, &key, &more);
        if (rc != 0 || !more)
            break;
        if (!tp_json_string_equals(&key, "__metadata__")) {
            rc = read_entry(walk, &key);
            continue;
        }
        rc = check_first(json, "__metadata__", &has_metadata);
        if (rc == 0)
            rc = read_metadata(json);
    }
    return rc != 0 ? rc : tp_json_end(json);
}

static int compare_names(const void *left, const void *right)
{
    const struct tp_safetensors_entry *a = left, *b = right;
    size_t shorter = a->name_length < b->name_length ? a->name_length : b->name_length;
    int order = memcmp(a->name, b->name, shorter);
    if (order != 0)
        return order;
    return (a->name_length > b->name_length) - (a->name_length < b->name_length);
}

/* Names lie in storage in the order of the header, so their addresses break ties. */
static int compare_places(const void *left, const void *right)
{
    const struct tp_safetensors_entry *a = left, *b = right;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end)
        return a->end < b->end ? -1 : 1;
    return (a->name > b->name) - (a->name < b->name);
}

static int check_names(const struct tp_safetensors *header, struct tp_error *error)
{
    qsort(header->entries, header->n_entries, sizeof *header->entries, compare_names);
    for (size_t i = 1; i < header->n_entries; i++) {
        const struct tp_safetensors_entry *entry = &header->entries[i];
        if (compare_names(entry - 1, entry) == 0)
            return tp_error_set(error, -EINVAL,
                                "tensor \"%s\": expected each name once, found it twice",
                                quote(entry->name, entry->name_length).text);
    }
    return 0;
}

/* Each tensor begins where the one before it ends, and the last ends with the data. */
static int check_places(const struct tp_safetensors *header, uint64_t data_size,
                        struct tp_error *error)
{
    uint64_t end = 0;
    qsort(header->entries, header->n_entries, sizeof *header->entries, compare_places);
    for (size_t i = 0; i < header->n_entries; i++) {
        const struct tp_safetensors_entry *entry = &header->entries[i];
        if (entry->begin != end)
            return tp_error_set(error, -EINVAL,
                                "tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64
                                "] %s: expected them to begin at %" PRIu64,
                                quote(entry->name, entry->name_length).text, entry->begin,
                                entry->end,
                                entry->begin > end ? "leave a gap" : "overlap another tensor", end);
        end = entry->end;
    }
    if (end != data_size)
        return tp_error_set(error, -EINVAL,
                            "tensors: expected them to cover all %" PRIu64
                            " bytes of data, found %" PRIu64,
                            data_size, end);
    return 0;
}

static int allocate(const struct walk *counted, struct tp_safetensors *header,
                    struct tp_error *error)
{
    size_t shapes_size = counted->n_dimensions * sizeof(uint64_t);
    header->n_entries = counted->n_entries;
    header->entries = malloc((counted->n_entries + 1) * sizeof *header->entries);
    header->storage = malloc(shapes_size + counted->n_name_bytes + 1);
    if (header->entries == NULL || header->storage == NULL)
        return tp_error_set(error, -ENOMEM, "no memory for the header's %zu tensors",
                            counted->n_entries);
    return 0;
}

static int fill(const struct walk *counted, const struct walk *blank, struct tp_safetensors *header)
{
    struct walk walk = *blank;
    walk.entries = header->entries;
    walk.shapes = header->storage;
    walk.names = (char *)(walk.shapes + counted->n_dimensions);
    return walk_header(&walk);
}

int tp_safetensors_parse(const char *text, size_t length, uint64_t data_size,
                         struct tp_safetensors *ret_header, struct tp_error *error)
{
    /* The limit also keeps the sizes that follow from overflowing. */
    if (length > TP_SAFETENSORS_HEADER_MAX)
        return tp_error_set(error, -EINVAL, "header: expected at most %" PRIu64 " bytes, found %zu",
                            TP_SAFETENSORS_HEADER_MAX, length);
    struct tp_safetensors header = {.n_entries = 0};
    struct walk blank = {.data_size = data_size};
    tp_json_init(&blank.json, text, length, error);
    struct walk counted = blank;
    int rc = walk_header(&counted);
    if (rc == 0)
        rc = allocate(&counted, &header, error);
    if (rc == 0)
        rc = fill(&counted, &blank, &header);
    if (rc == 0)
        rc = check_names(&header, error);
    if (rc == 0)
        rc = check_places(&header, data_size, error);
    if (rc == 0)
        *ret_header = header;
    else
        tp_safetensors_clear(&header);
    return rc;
}

void tp_safetensors_clear(struct tp_safetensors *header)
{
    free(header->entries);
    free(header->storage);
    *header = (struct tp_safetensors){.n_entries = 0};
}
