/* A table for each kind of object names its fields; one function reads them all. What has the wrong
 * type is a fault, and is skipped; only text that is no JSON ends the reading. */
#include "fs/export/verify/manifest_read.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"
#include "fs/base/bytes.h"
#include "fs/export/convert/formats.h"

enum { VERSION_MAX = 1, RANK_MAX = 4096, FIELDS_MAX = 16 };

static const char manifest_name[] = "manifest.json";

struct reader {
    struct tp_json json;
    struct tp_error error;
    struct tp_faults *faults;
    struct tp_manifest *manifest;
    struct tp_manifest_tensor *tensor; /* the one being read */
    struct tp_manifest_stored *stored;
    size_t number;   /* of the tensor, from 0; SIZE_MAX outside of them */
    size_t n_faults; /* of this reading */
    uint64_t version;
};

struct field {
    const char *name;
    int (*take)(struct reader *reader, const char *field);
    bool optional;
};

/* ---- faults ---- */

#define fault(reader, ...)                                                                         \
    do {                                                                                           \
        struct tp_error said;                                                                      \
        tp_error_format(&said, __VA_ARGS__);                                                       \
        say((reader), &said);                                                                      \
    } while (0)

static void say(struct reader *reader, const struct tp_error *said)
{
    reader->n_faults++;
    if (reader->number == SIZE_MAX)
        tp_faults_add(reader->faults, TP_FAULT_MANIFEST, manifest_name, "%s", said->text);
    else
        tp_faults_add(reader->faults, TP_FAULT_MANIFEST, manifest_name, "tensors[%zu]: %s",
                      reader->number, said->text);
}

static const char *kind_name(enum tp_json_kind kind)
{
    static const char *const names[] = {"null",     "a boolean", "a number",
                                        "a string", "an array",  "an object"};
    return names[kind];
}

/* Skips a value of another kind than `kind`, which is a fault. */
static int expect(struct reader *reader, const char *field, enum tp_json_kind kind, bool *ret_is)
{
    enum tp_json_kind found;
    int rc = tp_json_peek(&reader->json, &found);
    if (rc < 0)
        return rc;
    *ret_is = found == kind;
    if (*ret_is)
        return 0;
    fault(reader, "%s: expected %s, found %s", field, kind_name(kind), kind_name(found));
    return tp_json_skip(&reader->json);
}

/* ---- scalars ---- */

/* NULL in *ret_text when the value is no string. */
static int take_text(struct reader *reader, const char *field, char **ret_text, size_t *ret_length)
{
    struct tp_json_string string;
    bool is_string;
    *ret_text = NULL;
    int rc = expect(reader, field, TP_JSON_STRING, &is_string);
    if (rc < 0 || !is_string)
        return rc;
    rc = tp_json_string(&reader->json, &string);
    if (rc < 0)
        return rc;
    *ret_text = malloc(string.length + 1);
    if (*ret_text == NULL)
        return -ENOMEM;
    tp_json_string_copy(&string, *ret_text);
    (*ret_text)[string.length] = '\0';
    *ret_length = string.length;
    return 0;
}

/* A string without NUL. */
static int take_word(struct reader *reader, const char *field, char **ret_text)
{
    size_t length = 0;
    int rc = take_text(reader, field, ret_text, &length);
    if (rc == 0 && *ret_text != NULL && strlen(*ret_text) != length) {
        fault(reader, "%s: has a NUL in it", field);
        free(*ret_text);
        *ret_text = NULL;
    }
    return rc;
}

static int take_number(struct reader *reader, const char *field, uint64_t *ret_value)
{
    bool is_number;
    int rc = expect(reader, field, TP_JSON_NUMBER, &is_number);
    if (rc < 0 || !is_number)
        return rc;
    const struct tp_json before = reader->json;
    if (tp_json_unsigned(&reader->json, ret_value) == 0)
        return 0;
    reader->json = before; /* a number of another kind, or nothing at all */
    rc = tp_json_skip(&reader->json);
    if (rc == 0)
        fault(reader, "%s: expected a whole number from 0 to 2^64 - 1, found %.*s", field,
              (int)(reader->json.at - before.at < 40 ? reader->json.at - before.at : 40),
              before.text + before.at);
    return rc;
}

/* One of `choices`; the index stays what it was when it is none. */
static int take_choice(struct reader *reader, const char *field, const char *const *choices,
                       size_t *ret_index)
{
    char *word;
    int rc = take_word(reader, field, &word);
    if (rc < 0 || word == NULL)
        return rc;
    size_t i = 0;
    while (choices[i] != NULL && strcmp(choices[i], word) != 0)
        i++;
    if (choices[i] == NULL)
        fault(reader, "%s: unknown value \"%.100s\"", field, word);
    else
        *ret_index = i;
    free(word);
    return 0;
}

/* ---- objects ---- */

static const struct field *find_field(const struct field *fields, const struct tp_json_string *key)
{
    for (; fields->name != NULL; fields++) {
        if (tp_json_string_equals(key, fields->name))
            return fields;
    }
    return NULL;
}

static int read_fields(struct reader *reader, const struct field *fields)
{
    bool seen[FIELDS_MAX] = {false}, first = true, more;
    struct tp_json_string key;
    int rc = tp_json_enter_object(&reader->json);
    while (rc == 0 && (rc = tp_json_object_next(&reader->json, &first, &key, &more)) == 0 && more) {
        const struct field *field = find_field(fields, &key);
        if (field == NULL) {
            rc = tp_json_skip(&reader->json); /* of a later edition */
            continue;
        }
        if (seen[field - fields])
            fault(reader, "%s: stands there twice", field->name);
        rc = seen[field - fields] ? tp_json_skip(&reader->json) : field->take(reader, field->name);
        seen[field - fields] = true;
    }
    for (size_t i = 0; rc == 0 && fields[i].name != NULL; i++) {
        if (!seen[i] && !fields[i].optional)
            fault(reader, "%s: is missing", fields[i].name);
    }
    return rc;
}

/* An object that is the value of `field`. */
static int take_object(struct reader *reader, const char *field, const struct field *fields)
{
    bool is_object;
    int rc = expect(reader, field, TP_JSON_OBJECT, &is_object);
    return rc < 0 || !is_object ? rc : read_fields(reader, fields);
}

/* ---- source: of a tensor ---- */

static int take_stored_dtype(struct reader *reader, const char *field)
{
    char *word;
    int rc = take_word(reader, field, &word);
    if (rc < 0 || word == NULL)
        return rc;
    if (!tp_dtype_parse(word, strlen(word), &reader->stored->dtype))
        fault(reader, "source: unknown dtype \"%.100s\"", word);
    free(word);
    return 0;
}

static int take_stored_file(struct reader *reader, const char *field)
{
    char *word;
    int rc = take_word(reader, field, &word);
    free(word);
    return rc;
}

static int take_stored_offset(struct reader *reader, const char *field)
{
    uint64_t offset;
    return take_number(reader, field, &offset);
}

static int take_stored_nbytes(struct reader *reader, const char *field)
{
    return take_number(reader, field, &reader->stored->nbytes);
}

static const struct field stored_fields[] = {
    {"dtype", take_stored_dtype, false},
    {"file", take_stored_file, false},
    {"offset", take_stored_offset, false},
    {"nbytes", take_stored_nbytes, false},
    {NULL, NULL, false},
};

static int take_blocks(struct reader *reader, const char *field)
{
    reader->tensor->is_pair = true;
    reader->stored = &reader->tensor->stored;
    return take_object(reader, field, stored_fields);
}

static int take_scales(struct reader *reader, const char *field)
{
    reader->stored = &reader->tensor->scales;
    return take_object(reader, field, stored_fields);
}

static const struct field pair_fields[] = {
    {"blocks", take_blocks, false},
    {"scales", take_scales, false},
    {NULL, NULL, false},
};

/* Whether the object at the cursor has `key`; a copy of the cursor looks. */
static bool has_key(const struct reader *reader, const char *key)
{
    struct tp_error ignored;
    struct tp_json json = reader->json;
    struct tp_json_string found;
    bool first = true, more;
    json.error = &ignored;
    if (tp_json_enter_object(&json) < 0)
        return false;
    while (tp_json_object_next(&json, &first, &found, &more) == 0 && more) {
        if (tp_json_string_equals(&found, key))
            return true;
        if (tp_json_skip(&json) < 0)
            return false;
    }
    return false;
}

static int take_source(struct reader *reader, const char *field)
{
    reader->stored = &reader->tensor->stored;
    bool is_pair = has_key(reader, "blocks") || has_key(reader, "scales");
    return take_object(reader, field, is_pair ? pair_fields : stored_fields);
}

/* ---- a tensor ---- */

static int take_name(struct reader *reader, const char *field)
{
    return take_text(reader, field, &reader->tensor->name, &reader->tensor->name_length);
}

bool tp_manifest_path_is_safe(const char *path)
{
    size_t n_parts = 0;
    for (const char *at = path;; at++) {
        size_t length = strcspn(at, "/");
        if (length == 0 || length > 255 || (length == 1 && at[0] == '.') ||
            (length == 2 && at[0] == '.' && at[1] == '.'))
            return false;
        n_parts++;
        at += length;
        if (*at == '\0')
            return n_parts <= 2;
    }
}

static int take_file(struct reader *reader, const char *field)
{
    int rc = take_word(reader, field, &reader->tensor->file);
    char **file = &reader->tensor->file;
    if (rc == 0 && *file != NULL && !tp_manifest_path_is_safe(*file)) {
        fault(reader, "file: \"%.200s\" does not stay in the folder, or lies too deep in it",
              *file);
        free(*file);
        *file = NULL;
    }
    return rc;
}

/* Makes room for one more in an array whose room doubles. */
static void *grow(void *array, size_t n, size_t size)
{
    if ((n & (n - 1)) != 0)
        return array;
    return reallocarray(array, n == 0 ? 1 : 2 * n, size);
}

static int take_shape(struct reader *reader, const char *field)
{
    struct tp_manifest_tensor *tensor = reader->tensor;
    bool is_array, first = true, more;
    int rc = expect(reader, field, TP_JSON_ARRAY, &is_array);
    if (rc < 0 || !is_array)
        return rc;
    rc = tp_json_enter_array(&reader->json);
    while (rc == 0 && (rc = tp_json_array_next(&reader->json, &first, &more)) == 0 && more) {
        uint64_t *shape = grow(tensor->shape, tensor->rank, sizeof *shape);
        if (shape == NULL)
            return -ENOMEM;
        tensor->shape = shape;
        shape[tensor->rank] = 0;
        rc = take_number(reader, field, &shape[tensor->rank]);
        tensor->rank++;
    }
    return rc;
}

static int take_dtype(struct reader *reader, const char *field)
{
    char *word;
    int rc = take_word(reader, field, &word);
    if (rc < 0 || word == NULL)
        return rc;
    unsigned int dtype = 0;
    while (dtype < TP_N_DTYPES && strcmp(tp_dtype_numpy_name((enum tp_dtype)dtype), word) != 0)
        dtype++;
    if (dtype == TP_N_DTYPES)
        fault(reader, "dtype: unknown type \"%.100s\"", word);
    else
        reader->tensor->dtype = (enum tp_dtype)dtype;
    free(word);
    return 0;
}

static int take_nbytes(struct reader *reader, const char *field)
{
    return take_number(reader, field, &reader->tensor->nbytes);
}

static int add_run(struct reader *reader)
{
    struct tp_manifest_tensor *tensor = reader->tensor;
    struct tp_manifest_bytes *runs = grow(tensor->runs, tensor->n_runs, sizeof *runs);
    if (runs == NULL)
        return -ENOMEM;
    tensor->runs = runs;
    runs[tensor->n_runs++] = (struct tp_manifest_bytes){0, UINT64_MAX};
    return 0;
}

/* The only run: as long as the tensor. */
static int take_offset(struct reader *reader, const char *field)
{
    int rc = add_run(reader);
    return rc < 0 ? rc : take_number(reader, field, &reader->tensor->runs[0].offset);
}

static int take_run_offset(struct reader *reader, const char *field)
{
    return take_number(reader, field, &reader->tensor->runs[reader->tensor->n_runs - 1].offset);
}

static int take_run_nbytes(struct reader *reader, const char *field)
{
    return take_number(reader, field, &reader->tensor->runs[reader->tensor->n_runs - 1].nbytes);
}

static const struct field run_fields[] = {
    {"offset", take_run_offset, false},
    {"nbytes", take_run_nbytes, false},
    {NULL, NULL, false},
};

static int take_chunks(struct reader *reader, const char *field)
{
    bool is_array, first = true, more;
    int rc = expect(reader, field, TP_JSON_ARRAY, &is_array);
    if (rc < 0 || !is_array)
        return rc;
    rc = tp_json_enter_array(&reader->json);
    while (rc == 0 && (rc = tp_json_array_next(&reader->json, &first, &more)) == 0 && more) {
        rc = add_run(reader);
        if (rc == 0)
            rc = take_object(reader, field, run_fields);
    }
    if (rc == 0 && reader->tensor->n_runs == 0)
        fault(reader, "%s: is empty", field);
    return rc;
}

static int take_true(struct reader *reader, const char *field, bool *ret_value)
{
    bool is_boolean;
    int rc = expect(reader, field, TP_JSON_BOOLEAN, &is_boolean);
    if (rc < 0 || !is_boolean)
        return rc;
    size_t begin = reader->json.at;
    rc = tp_json_skip(&reader->json);
    *ret_value = rc == 0 && memmem(reader->json.text + begin, reader->json.at - begin, "true",
                                   strlen("true")) != NULL;
    return rc;
}

static int take_transposed(struct reader *reader, const char *field)
{
    return take_true(reader, field, &reader->tensor->transposed);
}

static int take_quantized(struct reader *reader, const char *field)
{
    return take_true(reader, field, &reader->tensor->quantized);
}

static const struct field tensor_fields[] = {
    {"name", take_name, false},
    {"file", take_file, false},
    {"shape", take_shape, false},
    {"dtype", take_dtype, false},
    {"nbytes", take_nbytes, false},
    {"source", take_source, false},
    {"offset", take_offset, true},
    {"chunks", take_chunks, true},
    {"transposed", take_transposed, true},
    {"quantized", take_quantized, true},
    {NULL, NULL, false},
};

static void clear_tensor(struct tp_manifest_tensor *tensor)
{
    free(tensor->name);
    free(tensor->file);
    free(tensor->shape);
    free(tensor->runs);
}

/* How the tensor's own figures contradict each other. */
static void check_figures(struct reader *reader)
{
    struct tp_manifest_tensor *tensor = reader->tensor;
    uint64_t bytes, run_bytes = 0;
    if (tensor->rank > RANK_MAX)
        fault(reader, "shape: has %zu dimensions", tensor->rank);
    else if (!tp_shape_elements(tensor->shape, tensor->rank, &tensor->elements) ||
             !tp_shape_bytes(tensor->shape, tensor->rank, tensor->dtype, &bytes))
        fault(reader, "shape: its product exceeds 64 bits");
    else if (bytes != tensor->nbytes)
        fault(reader, "nbytes: expected %" PRIu64 " for this shape and dtype, found %" PRIu64,
              bytes, tensor->nbytes);
    if (tensor->n_runs == 1 && tensor->runs[0].nbytes == UINT64_MAX)
        tensor->runs[0].nbytes = tensor->nbytes;
    for (size_t i = 0; i < tensor->n_runs; i++) {
        if (__builtin_add_overflow(run_bytes, tensor->runs[i].nbytes, &run_bytes))
            run_bytes = UINT64_MAX;
    }
    if (tensor->n_runs > 0 && run_bytes != tensor->nbytes)
        fault(reader, "chunks: hold %" PRIu64 " bytes of %" PRIu64, run_bytes, tensor->nbytes);
}

/* Blocks are two elements to a byte, scales 32; which of them it is the name says. */
static void check_quantized(struct reader *reader)
{
    const struct tp_manifest_tensor *tensor = reader->tensor;
    const struct tp_manifest_stored *stored = &tensor->stored;
    bool is_blocks = tp_bytes_end_with(tensor->name, tensor->name_length, "_blocks");
    uint64_t elements;
    if (__builtin_mul_overflow(tensor->elements, is_blocks ? 2 : 32, &elements) ||
        (!is_blocks && !tp_bytes_end_with(tensor->name, tensor->name_length, "_scales")) ||
        tensor->dtype != TP_U8 || tensor->is_pair || !tp_dtype_is_float(stored->dtype) ||
        stored->nbytes % tp_dtype_size(stored->dtype) != 0 ||
        stored->nbytes / tp_dtype_size(stored->dtype) != elements)
        fault(reader, "quantized: these are no blocks or scales of its source");
    reader->manifest->quantized = true;
}

/* How they contradict what they come from, for whole tensors only. */
static void check_origin(struct reader *reader)
{
    const struct tp_manifest_tensor *tensor = reader->tensor;
    if (tensor->quantized) {
        check_quantized(reader);
        return;
    }
    static const enum tp_dtype shown[] = {TP_F32, TP_F16, TP_BF16, TP_BF16};
    enum tp_dtype dtype = tensor->stored.dtype;
    const enum tp_precision precision = reader->manifest->precision;
    uint64_t stored = tensor->elements;
    if (tensor->is_pair) {
        dtype = shown[precision];
        stored = tensor->elements / 2;
        if (tensor->stored.dtype != TP_U8 || tensor->scales.dtype != TP_U8 ||
            tensor->scales.nbytes != tensor->elements / 32 || tensor->elements % 32 != 0)
            fault(reader, "source: these are no blocks and scales of %" PRIu64 " elements",
                  tensor->elements);
    } else {
        if (tp_dtype_is_float(dtype) && precision != TP_PRECISION_SOURCE)
            dtype = shown[precision];
        if (__builtin_mul_overflow(stored, tp_dtype_size(tensor->stored.dtype), &stored))
            stored = UINT64_MAX;
    }
    if (stored != tensor->stored.nbytes)
        fault(reader, "source: expected nbytes %" PRIu64 ", found %" PRIu64, stored,
              tensor->stored.nbytes);
    if (dtype != tensor->dtype)
        fault(reader, "dtype: expected %s in precision %s, found %s", tp_dtype_numpy_name(dtype),
              tp_precision_names[precision], tp_dtype_numpy_name(tensor->dtype));
    if (reader->manifest->packed && tensor->is_pair)
        fault(reader, "source: is a decoded pair, and mxfp4 is \"packed\"");
}

static int read_tensor(struct reader *reader)
{
    struct tp_manifest *manifest = reader->manifest;
    struct tp_manifest_tensor tensor = {.nbytes = 0};
    size_t before = reader->n_faults;
    reader->tensor = &tensor;
    int rc = take_object(reader, "tensor", tensor_fields);
    if (rc == 0 && reader->n_faults == before)
        check_figures(reader);
    if (rc == 0 && reader->n_faults == before) {
        struct tp_manifest_tensor *tensors =
            grow(manifest->tensors, manifest->n_tensors, sizeof *tensors);
        if (tensors != NULL) {
            manifest->tensors = tensors;
            tensors[manifest->n_tensors++] = tensor;
            return 0;
        }
        rc = -ENOMEM;
    }
    clear_tensor(&tensor);
    return rc;
}

/* ---- the top ---- */

static int take_tensors(struct reader *reader, const char *field)
{
    bool is_array, first = true, more;
    int rc = expect(reader, field, TP_JSON_ARRAY, &is_array);
    if (rc < 0 || !is_array)
        return rc;
    reader->number = 0;
    rc = tp_json_enter_array(&reader->json);
    while (rc == 0 && (rc = tp_json_array_next(&reader->json, &first, &more)) == 0 && more) {
        rc = read_tensor(reader);
        reader->number++;
    }
    reader->number = SIZE_MAX;
    return rc;
}

static int take_version(struct reader *reader, const char *field)
{
    return take_number(reader, field, &reader->version);
}

static int take_source_name(struct reader *reader, const char *field)
{
    return take_word(reader, field, &reader->manifest->source);
}

static int take_format(struct reader *reader, const char *field)
{
    size_t index = SIZE_MAX;
    int rc = take_choice(reader, field, tp_export_format_names, &index);
    if (rc < 0 || index == SIZE_MAX)
        return rc;
    reader->manifest->format = strdup(tp_export_format_names[index]);
    return reader->manifest->format == NULL ? -ENOMEM : 0;
}

static int take_precision(struct reader *reader, const char *field)
{
    size_t index = TP_PRECISION_FLOAT32;
    int rc = take_choice(reader, field, tp_precision_names, &index);
    reader->manifest->precision = (enum tp_precision)index;
    return rc;
}

static int take_mxfp4(struct reader *reader, const char *field)
{
    size_t index = 0;
    int rc = take_choice(reader, field, tp_mxfp4_names, &index);
    reader->manifest->packed = index == 1;
    return rc;
}

static int take_shard_size(struct reader *reader, const char *field)
{
    return take_number(reader, field, &reader->manifest->shard_size);
}

static int take_total_size(struct reader *reader, const char *field)
{
    return take_number(reader, field, &reader->manifest->total_size);
}

static int take_total_parameters(struct reader *reader, const char *field)
{
    return take_number(reader, field, &reader->manifest->total_parameters);
}

static const struct field top_fields[] = {
    {"format_version", take_version, false},
    {"source", take_source_name, false},
    {"format", take_format, true},
    {"precision", take_precision, false},
    {"mxfp4", take_mxfp4, false},
    {"shard_size", take_shard_size, false},
    {"total_size", take_total_size, false},
    {"total_parameters", take_total_parameters, false},
    {"tensors", take_tensors, false},
    {NULL, NULL, false},
};

static int read_top(struct reader *reader)
{
    int rc = take_object(reader, "manifest", top_fields);
    if (rc == 0)
        rc = tp_json_end(&reader->json);
    if (rc == -EINVAL)
        fault(reader, "%s", reader->error.text);
    if (rc == 0 && reader->version != VERSION_MAX) {
        fault(reader, "format_version: expected %d, found %" PRIu64 "; a newer tensorport wrote it",
              VERSION_MAX, reader->version);
        rc = -EINVAL;
    }
    return rc;
}

int tp_manifest_read(const char *text, size_t length, struct tp_faults *faults,
                     struct tp_manifest *ret_manifest)
{
    *ret_manifest = (struct tp_manifest){.n_tensors = 0};
    const uint64_t before = faults->counts[TP_FAULT_MANIFEST];
    struct reader reader = {
        .faults = faults, .manifest = ret_manifest, .number = SIZE_MAX, .version = VERSION_MAX};
    tp_json_init(&reader.json, text, length, &reader.error);
    int rc = read_top(&reader);
    size_t of_reading = reader.n_faults;
    for (size_t i = 0; rc == 0 && of_reading == 0 && i < ret_manifest->n_tensors; i++) {
        reader.number = i; /* numbers are true as long as no tensor was left out */
        reader.tensor = &ret_manifest->tensors[i];
        check_origin(&reader);
    }
    if (rc == 0 && reader.n_faults == 0)
        rc = tp_manifest_check(ret_manifest, faults);
    ret_manifest->whole = rc == 0 && faults->counts[TP_FAULT_MANIFEST] == before;
    return rc;
}

void tp_manifest_clear(struct tp_manifest *manifest)
{
    for (size_t i = 0; i < manifest->n_tensors; i++)
        clear_tensor(&manifest->tensors[i]);
    free(manifest->tensors);
    free(manifest->source);
    free(manifest->format);
    *manifest = (struct tp_manifest){.n_tensors = 0};
}
