/* The safetensors header against the official library: the kit's files carry its verdicts and
 * the place of every tensor, as it sees them (tests/kit/files). */
#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"
#include "decode/safetensors.h"
#include "tests/unit/read_file.h"

#define EDGE      "tests/kit/files/edge/"
#define MALFORMED "tests/kit/files/malformed/"

/* A string of a manifest, resolved, NUL-terminated. */
struct string {
    char text[512];
    size_t length;
};

static struct string read_string(struct tp_json *json)
{
    struct tp_json_string raw;
    struct string string = {"", 0};
    cr_assert_eq(tp_json_string(json, &raw), 0, "%s", json->error->text);
    cr_assert_lt(raw.length, sizeof string.text);
    tp_json_string_copy(&raw, string.text);
    string.length = raw.length;
    return string;
}

static bool next_is_string(struct tp_json *json)
{
    enum tp_json_kind kind;
    return tp_json_peek(json, &kind) == 0 && kind == TP_JSON_STRING;
}

/* Moves to the value of `key` in the object that comes next. */
static void find_key(struct tp_json *json, const char *key)
{
    struct tp_json_string found;
    bool first = true, more = true;
    cr_assert_eq(tp_json_enter_object(json), 0);
    while (tp_json_object_next(json, &first, &found, &more) == 0 && more) {
        if (tp_json_string_equals(&found, key))
            return;
        cr_assert_eq(tp_json_skip(json), 0);
    }
    cr_assert_fail("the manifest has no \"%s\"", key);
}

/* Parses a whole file; the header is copied to the end of its block, so that sanitizers see
 * a step beyond it. */
static int parse_bytes(const char *data, size_t size, struct tp_safetensors *ret_header,
                       uint64_t *ret_data_at, struct tp_error *error)
{
    uint8_t field[TP_SAFETENSORS_LENGTH_BYTES] = {0};
    uint64_t length = 0;
    memcpy(field, data, size < sizeof field ? size : sizeof field);
    int rc = tp_safetensors_length(field, size, &length, error);
    if (rc != 0)
        return rc;
    char *block = malloc(length + 1);
    memcpy(block + 1, data + sizeof field, length);
    rc = tp_safetensors_parse(block + 1, length, size - sizeof field - length, ret_header, error);
    free(block);
    *ret_data_at = sizeof field + length;
    return rc;
}

static int parse_file(const char *path, struct tp_safetensors *ret_header, uint64_t *ret_data_at,
                      struct tp_error *error)
{
    struct bytes file = read_source_file(path);
    cr_assert_not_null(file.data, "cannot read %s", path);
    int rc = parse_bytes(file.data, file.size, ret_header, ret_data_at, error);
    free(file.data);
    return rc;
}

/* One tensor of edge/manifest.json. */
struct place {
    struct string name, dtype;
    uint64_t shape[64];
    size_t rank;
    uint64_t file_offset, nbytes;
};

static void read_place_field(struct tp_json *json, const struct tp_json_string *key,
                             struct place *place)
{
    bool first = true, more = true;
    if (tp_json_string_equals(key, "name")) {
        place->name = read_string(json);
    } else if (tp_json_string_equals(key, "dtype")) {
        place->dtype = read_string(json);
    } else if (tp_json_string_equals(key, "file_offset")) {
        cr_assert_eq(tp_json_unsigned(json, &place->file_offset), 0);
    } else if (tp_json_string_equals(key, "nbytes")) {
        cr_assert_eq(tp_json_unsigned(json, &place->nbytes), 0);
    } else if (tp_json_string_equals(key, "shape")) {
        cr_assert_eq(tp_json_enter_array(json), 0);
        while (tp_json_array_next(json, &first, &more) == 0 && more) {
            cr_assert_lt(place->rank, sizeof place->shape / sizeof *place->shape);
            cr_assert_eq(tp_json_unsigned(json, &place->shape[place->rank++]), 0);
        }
    } else {
        cr_assert_eq(tp_json_skip(json), 0);
    }
}

static const struct tp_safetensors_entry *find_entry(const struct tp_safetensors *header,
                                                     const struct string *name)
{
    for (size_t i = 0; i < header->n_entries; i++) {
        const struct tp_safetensors_entry *entry = &header->entries[i];
        if (entry->name_length == name->length &&
            memcmp(entry->name, name->text, name->length + 1) == 0)
            return entry;
    }
    return NULL;
}

static void check_place(struct tp_json *json, const struct tp_safetensors *header, uint64_t data_at)
{
    struct place place = {.rank = 0};
    struct tp_json_string key;
    bool first = true, more = true;
    cr_assert_eq(tp_json_enter_object(json), 0);
    while (tp_json_object_next(json, &first, &key, &more) == 0 && more)
        read_place_field(json, &key, &place);
    const struct tp_safetensors_entry *entry = find_entry(header, &place.name);
    cr_assert_not_null(entry, "%s", place.name.text);
    cr_expect_str_eq(tp_dtype_name(entry->dtype), place.dtype.text);
    cr_expect_eq(entry->rank, place.rank, "%s", place.name.text);
    cr_expect_arr_eq(entry->shape, place.shape, place.rank * sizeof *place.shape);
    cr_expect_eq(data_at + entry->begin, place.file_offset, "%s", place.name.text);
    cr_expect_eq(entry->end - entry->begin, place.nbytes, "%s", place.name.text);
}

static void check_edge_file(struct tp_json *json, const char *name)
{
    struct tp_safetensors header;
    struct tp_error error = {""};
    uint64_t data_at;
    bool first = true, more = true;
    size_t n = 0;
    char path[600];
    snprintf(path, sizeof path, EDGE "%s", name);
    cr_assert_eq(parse_file(path, &header, &data_at, &error), 0, "%s: %s", name, error.text);
    cr_assert_eq(tp_json_enter_array(json), 0);
    for (; tp_json_array_next(json, &first, &more) == 0 && more; n++)
        check_place(json, &header, data_at);
    cr_expect_eq(n, header.n_entries, "%s", name);
    for (size_t i = 1; i < header.n_entries; i++)
        cr_expect_leq(header.entries[i - 1].end, header.entries[i].begin, "%s", name);
    tp_safetensors_clear(&header);
}

Test(safetensors, takes_every_edge_file)
{
    struct bytes manifest = read_source_file(EDGE "manifest.json");
    cr_assert_not_null(manifest.data);
    struct tp_json json;
    struct tp_error error = {""};
    bool first = true, more = true;
    size_t n = 0;
    tp_json_init(&json, manifest.data, manifest.size, &error);
    find_key(&json, "files");
    cr_assert_eq(tp_json_enter_array(&json), 0);
    for (; tp_json_array_next(&json, &first, &more) == 0 && more; n++) {
        struct tp_json_string key;
        struct string name = {"", 0};
        bool first_key = true, more_keys = true;
        cr_assert_eq(tp_json_enter_object(&json), 0);
        while (tp_json_object_next(&json, &first_key, &key, &more_keys) == 0 && more_keys) {
            if (tp_json_string_equals(&key, "file"))
                name = read_string(&json);
            else if (tp_json_string_equals(&key, "tensors"))
                check_edge_file(&json, name.text);
            else
                cr_assert_eq(tp_json_skip(&json), 0);
        }
    }
    cr_expect_str_empty(error.text);
    cr_expect_geq(n, 15);
    free(manifest.data);
}

/* Where we refuse what the official library accepts. */
static bool is_refused_on_purpose(const char *path)
{
    return strcmp(path, "duplicate_name.safetensors") == 0 ||
           strcmp(path, "duplicate_name_differs.safetensors") == 0;
}

static void check_verdict(const char *name, const char *official)
{
    struct tp_safetensors header;
    struct tp_error error = {""};
    uint64_t data_at;
    char path[600];
    snprintf(path, sizeof path, MALFORMED "%s", name);
    bool accepted = strcmp(official, "accepted") == 0 && !is_refused_on_purpose(name);
    int rc = parse_file(path, &header, &data_at, &error);
    cr_expect_eq(rc, accepted ? 0 : -EINVAL, "%s: %s (official: %s)", name, error.text, official);
    cr_expect_eq(error.text[0] == '\0', rc == 0, "%s", name);
    if (rc == 0)
        tp_safetensors_clear(&header);
}

Test(safetensors, judges_malformed_files_like_the_official_library)
{
    struct bytes manifest = read_source_file(MALFORMED "manifest.json");
    cr_assert_not_null(manifest.data);
    struct tp_json json;
    struct tp_error error = {""};
    bool first = true, more = true;
    size_t n = 0;
    tp_json_init(&json, manifest.data, manifest.size, &error);
    find_key(&json, "cases");
    cr_assert_eq(tp_json_enter_array(&json), 0);
    while (tp_json_array_next(&json, &first, &more) == 0 && more) {
        struct tp_json_string key;
        struct string path = {"", 0}, official = {"", 0};
        bool first_key = true, more_keys = true;
        cr_assert_eq(tp_json_enter_object(&json), 0);
        while (tp_json_object_next(&json, &first_key, &key, &more_keys) == 0 && more_keys) {
            if (tp_json_string_equals(&key, "path"))
                path = read_string(&json);
            else if (tp_json_string_equals(&key, "official") && next_is_string(&json))
                official = read_string(&json);
            else
                cr_assert_eq(tp_json_skip(&json), 0);
        }
        /* Directories are checkpoints, which are judged elsewhere. */
        if (path.text[path.length - 1] != '/' && official.length > 0) {
            check_verdict(path.text, official.text);
            n++;
        }
    }
    cr_expect_str_empty(error.text);
    cr_expect_geq(n, 55);
    free(manifest.data);
}

/* Parses a header alone. */
static int parse(const char *text, uint64_t data_size, struct tp_safetensors *ret_header,
                 struct tp_error *error)
{
    size_t length = strlen(text);
    char *block = malloc(length + 1);
    memcpy(block + 1, text, length);
    int rc = tp_safetensors_parse(block + 1, length, data_size, ret_header, error);
    free(block);
    return rc;
}

static void expect_verdict(const char *text, uint64_t data_size, int expected)
{
    struct tp_safetensors header;
    struct tp_error error = {""};
    int rc = parse(text, data_size, &header, &error);
    cr_expect_eq(rc, expected, "%s: %s", text, error.text);
    if (rc == 0)
        tp_safetensors_clear(&header);
}

/* A tensor of four bytes, and an empty one at `place`. */
#define FOUR         "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"
#define EMPTY(place) "{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[" #place "," #place "]}"

/* The forms that only serde takes. All verdicts here were asked of safetensors 0.8.0. */
Test(safetensors, takes_what_the_official_library_takes)
{
    static const char *const texts[] = {
        "{\"a\":[\"F32\",[1],[0,4]]}",
        "{\"a\":{\"dtype\":{\"F32\":null},\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F\\u0033\\u0032\",\"sh\\u0061pe\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{" FOUR ",\"x\":1,\"x\":2}}",
        "{\"a\":{" FOUR ",\"x\":{\"y\":[null,{\"z\":-1.5e300}]}}}",
        "{\"__metadata__\":null,\"a\":{" FOUR "}}",
        "{\"a\":{" FOUR "},\"__metadata__\":{\"k\":\"v\",\"k\":\"w\"}}",
        "{\"__metadat\\u0061__\":{\"k\":\"v\"},\"a\":{" FOUR "}}",
        "{\"\":{" FOUR "}}",
        "{\"a\":{" FOUR "}} \n\t\r",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        expect_verdict(texts[i], 4, 0);
}

Test(safetensors, refuses_what_the_official_library_refuses)
{
    static const char *const texts[] = {
        "",
        "null",
        "[]",
        "{\"a\":[\"F32\",[1]]}",
        "{\"a\":[]}",
        "{\"a\":[\"U8\",[0]],\"b\":{" FOUR "}}",
        "{\"a\":[\"F32\",[1],[0,4],[0,4]]}",
        "{\"a\":[\"F32\",[1],[0,4],1]}",
        "{\"a\":{\"dtype\":{\"F32\":1},\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":{},\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":{\"F32\":null,\"F32\":null},\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":{\"F33\":null},\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":[\"F32\"],\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":null,\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32F32F32F32F32F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":{},\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":null,\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[null],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{}}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[]}}",
        "{\"a\":{" FOUR ",\"dtype\":\"F32\"}}",
        "{\"a\":{" FOUR ",\"data_offsets\":[0,4]}}",
        "{\"a\":{" FOUR ",\"x\":1e400}}",
        "{\"a\":{" FOUR ",\"x\":\"\\ud800\"}}",
        "{\"__metadata__\":{},\"a\":{" FOUR "},\"__metadata__\":{}}",
        "{\"__metadata__\":[],\"a\":{" FOUR "}}",
        "{\"__metadata__\":{\"k\":null},\"a\":{" FOUR "}}",
        "{\"__metadata__\":{\"k\":\"v\",},\"a\":{" FOUR "}}",
        "{\"a\":{" FOUR "}}\v",
        "{\"a\":{" FOUR "}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        expect_verdict(texts[i], 4, -EINVAL);
}

Test(safetensors, places_empty_tensors_between_others)
{
    expect_verdict("{\"z\":" EMPTY(4) ",\"a\":{" FOUR "}}", 4, 0);
    expect_verdict("{\"z\":" EMPTY(0) ",\"y\":" EMPTY(0) ",\"a\":{" FOUR "}}", 4, 0);
    expect_verdict("{\"z\":" EMPTY(2) ",\"a\":{" FOUR "}}", 4, -EINVAL);
    expect_verdict("{\"z\":" EMPTY(8) ",\"a\":{" FOUR "}}", 4, -EINVAL);
    expect_verdict("{\"z\":" EMPTY(1) "}", 0, -EINVAL);
    expect_verdict("{}", 0, 0);
    expect_verdict("{}", 1, -EINVAL);
}

Test(safetensors, orders_by_place_then_by_header)
{
    static const char text[] =
        "{\"d\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[4,7]},"
        "\"c\":" EMPTY(4) ",\"b\":" EMPTY(0) ",\"a\":{" FOUR "},\"x\":" EMPTY(4) ",\"e\":" EMPTY(
            4) ",\"f\":" EMPTY(7) "}";
    struct tp_safetensors header;
    struct tp_error error;
    char names[8] = "";
    cr_assert_eq(parse(text, 7, &header, &error), 0);
    for (size_t i = 0; i < header.n_entries; i++)
        names[i] = header.entries[i].name[0];
    cr_expect_str_eq(names, "bacxedf");
    tp_safetensors_clear(&header);
    cr_expect_null(header.entries);
    cr_expect_null(header.storage);
}

/* Shapes are told apart where they lie one behind the other; names keep their NUL. */
Test(safetensors, keeps_shapes_and_names)
{
    struct tp_safetensors header;
    struct tp_error error;
    cr_assert_eq(parse("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[18446744073709551615,0],"
                       "\"data_offsets\":[0,0]},\"\\u00e9\\n\":{\"dtype\":\"BF16\",\"shape\":[],"
                       "\"data_offsets\":[0,2]},\"c\":[\"U8\",[3,1,2],[2,8]]}",
                       8, &header, &error),
                 0);
    cr_assert_eq(header.n_entries, 3);
    const struct tp_safetensors_entry *entry = header.entries;
    cr_expect_eq(entry[0].name_length, 3);
    cr_expect_arr_eq(entry[0].name, "a\0b", 4);
    cr_expect_eq(entry[0].rank, 2);
    cr_expect_eq(entry[0].shape[0], UINT64_MAX);
    cr_expect_eq(entry[0].shape[1], 0);
    cr_expect_eq(entry[1].dtype, TP_BF16);
    cr_expect_eq(entry[1].rank, 0);
    cr_expect_str_eq(entry[1].name, "\xc3\xa9\n");
    cr_expect_eq(entry[2].rank, 3);
    cr_expect_eq(entry[2].shape[0] * 100 + entry[2].shape[1] * 10 + entry[2].shape[2], 312);
    cr_expect_eq(entry[2].begin, 2);
    cr_expect_eq(entry[2].end, 8);
    tp_safetensors_clear(&header);
}

/* Duplicates are found wherever they stand, however the name is spelled. */
Test(safetensors, refuses_names_that_appear_twice)
{
    expect_verdict("{\"a\":" EMPTY(0) ",\"b\":" EMPTY(0) ",\"\\u0061\":" EMPTY(0) "}", 0, -EINVAL);
    expect_verdict("{\"a\":" EMPTY(0) ",\"a\\u0000\":" EMPTY(0) "}", 0, 0);
    expect_verdict("{\"a\\u0000b\":" EMPTY(0) ",\"a\\u0000c\":" EMPTY(0) "}", 0, 0);
    expect_verdict("{\"a\\u0000b\":" EMPTY(0) ",\"a\\u0000b\":" EMPTY(0) "}", 0, -EINVAL);
    expect_verdict("{\"\":" EMPTY(0) ",\"a\":{" FOUR "},\"\":" EMPTY(4) "}", 4, -EINVAL);
}

static void set_field(uint8_t field[TP_SAFETENSORS_LENGTH_BYTES], uint64_t length)
{
    for (size_t i = 0; i < TP_SAFETENSORS_LENGTH_BYTES; i++)
        field[i] = (uint8_t)(length >> 8 * i);
}

Test(safetensors, checks_the_length_field)
{
    static const struct {
        uint64_t told, file_size;
        int rc;
    } cases[] = {
        {2, 10, 0},
        {2, 9, -EINVAL},
        {0, 8, 0},
        {0, 7, -EINVAL},
        {0, 0, -EINVAL},
        {100000000, 100000008, 0},
        {100000001, 100000009, -EINVAL},
        {100000001, UINT64_MAX, -EINVAL},
        {UINT64_MAX, UINT64_MAX, -EINVAL},
        {UINT64_MAX - 7, 100, -EINVAL},
        {UINT64_C(0x0102030405060708), UINT64_MAX, -EINVAL},
        {0x010203, 0x020000, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t field[TP_SAFETENSORS_LENGTH_BYTES];
        uint64_t length = 42;
        struct tp_error error = {""};
        set_field(field, cases[i].told);
        cr_expect_eq(tp_safetensors_length(field, cases[i].file_size, &length, &error), cases[i].rc,
                     "case %zu: %s", i, error.text);
        cr_expect_eq(length, cases[i].rc == 0 ? cases[i].told : 42, "case %zu", i);
    }
}

/* The text is not looked at: it need not even be as long. */
Test(safetensors, limits_the_header)
{
    struct tp_safetensors header;
    struct tp_error error = {""};
    cr_expect_eq(tp_safetensors_parse("{}", TP_SAFETENSORS_HEADER_MAX + 1, 0, &header, &error),
                 -EINVAL);
    cr_expect_str_eq(error.text, "header: expected at most 100000000 bytes, found 100000001");
}

Test(safetensors, refuses_every_prefix)
{
    static const char text[] = "{\"__metadata__\":{\"k\":\"v\"},\"a\":{\"x\":[1],\"dtype\":\"F32\","
                               "\"shape\":[1],\"data_offsets\":[0,4]},\"b\":[{\"U8\":null},[0],"
                               "[4,4]]}";
    for (size_t length = 0; length < sizeof text - 1; length++) {
        struct tp_safetensors header;
        char *cut = malloc(length + 1);
        memcpy(cut + 1, text, length);
        cr_expect_eq(tp_safetensors_parse(cut + 1, length, 4, &header, NULL), -EINVAL, "%zu",
                     length);
        free(cut);
    }
    expect_verdict(text, 4, 0);
}

Test(safetensors, says_what_it_expected_and_found)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{\"a.b\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0,24]}}",
         "tensor \"a.b\": data_offsets [0, 24] go past the end of the data: expected at most 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}",
         "tensor \"a\": data_offsets [0, 4]: expected 8 bytes for the shape and F32, found 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,0]}}",
         "tensor \"a\": data_offsets [4, 0] run backwards: expected the second to be at least the "
         "first"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[8],\"data_offsets\":[0,4]}}",
         "tensor \"a\": dtype: expected one of BOOL, U8, I8, F8_E4M3, F8_E5M2, F8_E8M0, I16, U16, "
         "F16, BF16, I32, U32, F32, I64, U64, F64, C64, found \"F4\""},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}",
         "tensor \"a\": shape: JSON, byte 29: expected an unsigned integer below 2^64, found 1.0"},
        {"{\"a\":{\"dtype\":32}}", "tensor \"a\": dtype: expected a string, found a number"},
        {"{\"a\":{\"dtype\":{\"F32\":1}}}",
         "tensor \"a\": dtype: expected a string, found an object that is no dtype"},
        {"{\"a\":{\"shape\":null}}", "tensor \"a\": shape: expected an array, found null"},
        {"{\"a\":{\"data_offsets\":\"x\"}}",
         "tensor \"a\": data_offsets: expected an array of two integers, found a string"},
        {"{\"a\":{\"data_offsets\":[]}}",
         "tensor \"a\": data_offsets: expected two integers, found none"},
        {"{\"a\":{\"data_offsets\":[1]}}",
         "tensor \"a\": data_offsets: expected two integers, found one"},
        {"{\"a\":{\"data_offsets\":[1,2,3]}}",
         "tensor \"a\": data_offsets: expected two integers, found more"},
        {"{\"a\":}", "tensor \"a\": JSON, byte 5: expected a value, found '}'"},
        {"{\"a\":[\"F32\",5]}", "tensor \"a\": shape: expected an array, found a number"},
        {"{\"a\":[\"F32\"]}",
         "tensor \"a\": expected the three values dtype, shape and data_offsets, found fewer"},
        {"{\"a\":{\"shape\":[1],\"shape\":[1]}}",
         "tensor \"a\": expected the field \"shape\" once, found it twice"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}",
         "tensor \"a\": expected the fields dtype, shape and data_offsets, found no shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
         "tensor \"b\": data_offsets [2, 4] leave a gap: expected them to begin at 1"},
        {"{\"a\":{" FOUR "},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
         "tensor \"b\": data_offsets [2, 4] overlap another tensor: expected them to begin at 4"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
         "tensors: expected them to cover all 4 bytes of data, found 2"},
        {"{\"a\\n\":{" FOUR "},\"a\\n\":{" FOUR "}}",
         "tensor \"a\\x0a\": expected each name once, found it twice"},
        {"{\"a\\u0000b\":1}", "tensor \"a\\u0000b\": expected an object, found a number"},
        {"{\"__metadata__\":{\"k\":1}}",
         "__metadata__: JSON, byte 21: expected a string, found '1'"},
        {"[]", "JSON, byte 0: expected an object, found '['"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tp_safetensors header;
        struct tp_error error = {""};
        cr_expect_eq(parse(cases[i].text, 4, &header, &error), -EINVAL, "%s", cases[i].text);
        cr_expect_str_eq(error.text, cases[i].message);
    }
}

/* A name of a megabyte leaves room for the rest of the message, and no half character. */
Test(safetensors, shortens_long_names)
{
    enum { LENGTH = 1000001 };
    struct tp_safetensors header;
    struct tp_error error = {""};
    char *text = malloc(LENGTH + 64);
    memcpy(text, "{\"x", 3);
    for (size_t i = 0; i < LENGTH - 1; i += 2)
        memcpy(text + 3 + i, "\xc3\xa9", 2);
    strcpy(text + 2 + LENGTH, "\":null}");
    cr_expect_eq(parse(text, 0, &header, &error), -EINVAL);
    cr_expect_not_null(strstr(error.text, "\xc3\xa9...\": expected an object, found null"));
    cr_expect_lt(strlen(error.text), 300);
    free(text);
}

/* As many tensors as a large header holds; the time limit catches a quadratic search. */
Test(safetensors, takes_many_tensors, .timeout = 60)
{
    enum { N = 300000, ROOM = 40 };
    struct tp_safetensors header;
    struct tp_error error = {""};
    char *text = malloc((size_t)N * ROOM + 8);
    size_t at = 0;
    for (uint32_t i = 0; i < N; i++)
        at += (size_t)snprintf(text + at, ROOM, "%c\"%08x\":[\"U8\",[1],[%u,%u]]",
                               i == 0 ? '{' : ',', i * UINT32_C(2654435761), i, i + 1);
    strcpy(text + at, "}");
    cr_assert_eq(parse(text, N, &header, &error), 0, "%s", error.text);
    cr_expect_eq(header.n_entries, N);
    cr_expect_eq(header.entries[N - 1].begin, N - 1);
    tp_safetensors_clear(&header);
    sprintf(text + at, ",\"%08x\":[\"U8\",[0],[0,0]]}", 12345 * UINT32_C(2654435761));
    cr_expect_eq(parse(text, N, &header, &error), -EINVAL);
    cr_expect_not_null(strstr(error.text, "found it twice"));
    free(text);
}
