/* One tensor is one line, so that the file can be searched with grep. cJSON prints each line;
 * numbers go in as text, for cJSON's are doubles. */
#include "fs/view/manifest.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/json_text.h"
#include "fs/base/text.h"

static void add_tensor_source(cJSON *object, const struct tp_tensor *tensor)
{
    cJSON_AddStringToObject(object, "dtype", tp_dtype_name(tensor->dtype));
    tp_json_add_text(object, "file", tensor->shard->name, strlen(tensor->shard->name));
    tp_json_add_unsigned(object, "offset", tensor->offset);
    tp_json_add_unsigned(object, "nbytes", tensor->nbytes);
}

static void add_source(cJSON *object, const struct tp_view_tensor *tensor)
{
    cJSON *source = cJSON_AddObjectToObject(object, "source");
    if (tensor->pair == NULL) {
        add_tensor_source(source, tensor->stored);
        return;
    }
    add_tensor_source(cJSON_AddObjectToObject(source, "blocks"), tensor->pair->blocks);
    add_tensor_source(cJSON_AddObjectToObject(source, "scales"), tensor->pair->scales);
}

/* Where the data is in the file, if that is a container. */
static void add_runs(cJSON *object, const struct tp_manifest_place *place)
{
    if (place->n_runs == 1) {
        tp_json_add_unsigned(object, "offset", place->runs[0].offset);
        return;
    }
    cJSON *chunks = cJSON_AddArrayToObject(object, "chunks");
    for (size_t i = 0; i < place->n_runs; i++) {
        cJSON *run = cJSON_CreateObject();
        tp_json_add_unsigned(run, "offset", place->runs[i].offset);
        tp_json_add_unsigned(run, "nbytes", place->runs[i].nbytes);
        cJSON_AddItemToArray(chunks, run);
    }
}

/* A transposed tensor has its last two dimensions exchanged. */
static void add_shape(cJSON *object, const struct tp_view_tensor *tensor, bool transposed)
{
    cJSON *shape = cJSON_AddArrayToObject(object, "shape");
    for (size_t i = 0; i < tensor->rank; i++) {
        bool swapped = transposed && i + 2 >= tensor->rank;
        size_t from = swapped ? 2 * tensor->rank - 3 - i : i;
        cJSON_AddItemToArray(shape, tp_json_unsigned_item(tensor->shape[from]));
    }
}

static cJSON *describe(const struct tp_view_file *file, const struct tp_manifest_place *place)
{
    const struct tp_view_tensor *tensor = file->tensor;
    char path[TP_FILE_PATH_MAX];
    tp_view_file_path(file, path);
    const char *where = place != NULL ? place->file : path;
    cJSON *object = cJSON_CreateObject();
    tp_json_add_text(object, "name", tensor->name, tensor->name_length);
    tp_json_add_text(object, "file", where, strlen(where));
    if (place != NULL)
        add_runs(object, place);
    add_shape(object, tensor, place != NULL && place->transposed);
    if (place != NULL && place->transposed)
        cJSON_AddTrueToObject(object, "transposed");
    if (place != NULL && place->quantized)
        cJSON_AddTrueToObject(object, "quantized");
    cJSON_AddStringToObject(object, "dtype", tensor->dtype_name);
    tp_json_add_unsigned(object, "nbytes", file->content.data_length);
    add_source(object, tensor);
    return object;
}

static bool has_members(const cJSON *object, size_t n)
{
    return (size_t)cJSON_GetArraySize(object) == n;
}

static bool has_all_runs(const cJSON *object, const struct tp_manifest_place *place)
{
    const cJSON *chunks = cJSON_GetObjectItem(object, "chunks"), *run;
    if (place == NULL || place->n_runs == 1)
        return true;
    cJSON_ArrayForEach(run, chunks)
    {
        if (!has_members(run, 2))
            return false;
    }
    return has_members(chunks, place->n_runs);
}

/* cJSON leaves out what it has no memory for, and says nothing. */
static bool is_whole(const cJSON *object, const struct tp_view_tensor *tensor,
                     const struct tp_manifest_place *place)
{
    enum { FIELDS = 6, SOURCE_FIELDS = 4 };
    const cJSON *source = cJSON_GetObjectItem(object, "source");
    size_t fields = FIELDS + (place == NULL ? 0 : (size_t)1 + place->transposed + place->quantized);
    bool whole = has_members(object, fields) &&
                 has_members(cJSON_GetObjectItem(object, "shape"), tensor->rank) &&
                 has_all_runs(object, place);
    if (tensor->pair == NULL)
        return whole && has_members(source, SOURCE_FIELDS);
    return whole && has_members(cJSON_GetObjectItem(source, "blocks"), SOURCE_FIELDS) &&
           has_members(cJSON_GetObjectItem(source, "scales"), SOURCE_FIELDS);
}

static int print_tensors(const struct tp_view *view, const struct tp_manifest_place *places,
                         FILE *stream)
{
    for (size_t i = 0; i < view->n_tensors; i++) {
        const struct tp_manifest_place *place = places != NULL ? &places[i] : NULL;
        cJSON *object = describe(&view->files[i], place);
        char *line =
            is_whole(object, &view->tensors[i], place) ? cJSON_PrintUnformatted(object) : NULL;
        cJSON_Delete(object);
        if (line == NULL)
            return -ENOMEM;
        fprintf(stream, "%s\n    %s", i == 0 ? "" : ",", line);
        cJSON_free(line);
    }
    return 0;
}

static int print_name(const struct tp_checkpoint *checkpoint, FILE *stream)
{
    cJSON *name = tp_json_text_item(checkpoint->name, strlen(checkpoint->name));
    char *text = cJSON_PrintUnformatted(name);
    cJSON_Delete(name);
    if (text == NULL)
        return -ENOMEM;
    fprintf(stream, "{\n  \"format_version\": 1,\n  \"source\": %s,\n", text);
    cJSON_free(text);
    return 0;
}

int tp_manifest_write(const struct tp_view *view, const char *format,
                      const struct tp_manifest_place *places, char **ret_text, size_t *ret_length)
{
    struct tp_text text;
    int rc = tp_text_open(&text);
    if (rc < 0)
        return rc;
    rc = print_name(view->checkpoint, text.stream);
    if (format != NULL)
        fprintf(text.stream, "  \"format\": \"%s\",\n", format);
    fprintf(text.stream,
            "  \"precision\": \"%s\",\n  \"mxfp4\": \"%s\",\n  \"shard_size\": %" PRIu64
            ",\n  \"total_size\": %" PRIu64 ",\n  \"total_parameters\": %" PRIu64
            ",\n  \"tensors\": [",
            tp_precision_names[view->options.precision], tp_mxfp4_names[view->options.packed],
            view->options.shard_size, view->total_size, view->total_parameters);
    if (rc == 0)
        rc = print_tensors(view, places, text.stream);
    fputs(view->n_tensors > 0 ? "\n  ]\n}\n" : "]\n}\n", text.stream);
    return tp_text_close(&text, rc, ret_text, ret_length);
}
