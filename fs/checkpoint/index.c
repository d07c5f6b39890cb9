#include "fs/checkpoint/index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"
#include "fs/base/bytes.h"
#include "fs/checkpoint/source.h"

/* As generous as the header limit of safetensors: an index holds less than the headers do. */
enum { INDEX_BYTES_MAX = 100000000 };

static int compare_entries(const void *a, const void *b)
{
    const struct tp_index_entry *left = a, *right = b;
    return tp_bytes_compare(left->name, left->name_length, right->name, right->name_length);
}

static int compare_files(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* True for a relative path that stays below the folder it starts in. */
static bool stays_inside(const char *path)
{
    if (path[0] == '/' || path[0] == '\0')
        return false;
    for (const char *part = path; part != NULL; part = strchr(part, '/')) {
        part += *part == '/';
        size_t length = strcspn(part, "/");
        if (length == 2 && memcmp(part, "..", 2) == 0)
            return false;
    }
    return true;
}

/* Walks weight_map. With `index->entries` NULL it only counts entries and the bytes their
 * strings take, so that a second walk can fill arrays of the right size. */
static int walk_weight_map(struct tp_json *json, struct tp_index *index, size_t *ret_bytes,
                           struct tp_error *error)
{
    bool first = true, more;
    size_t n = 0, bytes = 0;
    int rc = tp_json_enter_object(json);
    if (rc < 0)
        return rc;
    for (;;) {
        struct tp_json_string key, value;
        rc = tp_json_object_next(json, &first, &key, &more);
        if (rc < 0 || !more)
            break;
        rc = tp_json_string(json, &value);
        if (rc < 0)
            return tp_error_prefix(error, rc, "weight_map");
        if (index->entries != NULL) {
            char *name = index->storage + bytes, *file = name + key.length + 1;
            tp_json_string_copy(&key, name);
            tp_json_string_copy(&value, file);
            if (strlen(file) != value.length || !stays_inside(file))
                return tp_error_set(
                    error, -EINVAL,
                    "tensor \"%.*s\": expected a file in the folder, found \"%.*s\"",
                    tp_bytes_shown(name, key.length), name, tp_bytes_shown(file, strlen(file)),
                    file);
            index->entries[n] = (struct tp_index_entry){name, key.length, file};
            index->files[n] = file;
        }
        bytes += key.length + 1 + value.length + 1;
        n++;
    }
    if (rc == 0) {
        index->n_entries = n;
        *ret_bytes = bytes;
    }
    return rc;
}

/* Finds weight_map among the keys and walks it; everything else is validated and skipped. */
static int walk(const char *text, size_t length, struct tp_index *index, size_t *ret_bytes,
                struct tp_error *error)
{
    struct tp_json json;
    bool first = true, more, found = false;
    tp_json_init(&json, text, length, error);
    int rc = tp_json_enter_object(&json);
    while (rc == 0) {
        struct tp_json_string key;
        rc = tp_json_object_next(&json, &first, &key, &more);
        if (rc < 0 || !more)
            break;
        if (!tp_json_string_equals(&key, "weight_map")) {
            rc = tp_json_skip(&json);
            continue;
        }
        if (found)
            return tp_error_set(error, -EINVAL, "weight_map appears twice");
        found = true;
        rc = walk_weight_map(&json, index, ret_bytes, error);
    }
    if (rc == 0)
        rc = tp_json_end(&json);
    if (rc == 0 && !found)
        return tp_error_set(error, -EINVAL, "expected an object \"weight_map\", found none");
    return rc;
}

static int sort_and_check(struct tp_index *index, struct tp_error *error)
{
    qsort(index->entries, index->n_entries, sizeof *index->entries, compare_entries);
    for (size_t i = 1; i < index->n_entries; i++) {
        if (compare_entries(&index->entries[i - 1], &index->entries[i]) == 0)
            return tp_error_set(
                error, -EINVAL, "tensor \"%.*s\" appears twice in weight_map",
                tp_bytes_shown(index->entries[i].name, index->entries[i].name_length),
                index->entries[i].name);
    }
    qsort(index->files, index->n_entries, sizeof *index->files, compare_files);
    for (size_t i = 0; i < index->n_entries; i++) {
        if (index->n_files == 0 || strcmp(index->files[index->n_files - 1], index->files[i]) != 0)
            index->files[index->n_files++] = index->files[i];
    }
    if (index->n_files == 0)
        return tp_error_set(error, -EINVAL, "weight_map names no tensor and no shard");
    return 0;
}

static int parse(const char *text, size_t length, struct tp_index *index, struct tp_error *error)
{
    size_t bytes = 0;
    int rc = walk(text, length, index, &bytes, error);
    if (rc < 0)
        return rc;
    index->entries = calloc(index->n_entries + 1, sizeof *index->entries);
    index->files = calloc(index->n_entries + 1, sizeof *index->files);
    index->storage = calloc(bytes + 1, 1); /* zeroed: the strings' ends */
    if (index->entries == NULL || index->files == NULL || index->storage == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    rc = walk(text, length, index, &bytes, error);
    return rc < 0 ? rc : sort_and_check(index, error);
}

int tp_index_read(int directory, const char *name, struct tp_index *ret_index,
                  struct tp_error *error)
{
    struct tp_index index = {0};
    char *text;
    size_t length;
    int rc = tp_bytes_read_file(directory, name, INDEX_BYTES_MAX, &text, &length, error);
    if (rc < 0)
        return rc;
    rc = parse(text, length, &index, error);
    free(text);
    if (rc < 0) {
        tp_index_clear(&index);
        return tp_error_prefix(error, rc, "%s", name);
    }
    *ret_index = index;
    return 0;
}

void tp_index_clear(struct tp_index *index)
{
    free(index->entries);
    free(index->files);
    free(index->storage);
    *index = (struct tp_index){0};
}

const char *tp_index_find(const struct tp_index *index, const char *name, size_t name_length)
{
    struct tp_index_entry key = {name, name_length, NULL};
    const struct tp_index_entry *found =
        bsearch(&key, index->entries, index->n_entries, sizeof key, compare_entries);
    return found == NULL ? NULL : found->file;
}
