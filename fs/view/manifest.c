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

static cJSON *describe(const struct tp_view_file *file)
{
    const struct tp_view_tensor *tensor = file->tensor;
    char path[TP_FILE_PATH_MAX];
    tp_view_file_path(file, path);
    cJSON *object = cJSON_CreateObject();
    tp_json_add_text(object, "name", tensor->name, tensor->name_length);
    tp_json_add_text(object, "file", path, strlen(path));
    cJSON *shape = cJSON_AddArrayToObject(object, "shape");
    for (size_t i = 0; i < tensor->rank; i++)
        cJSON_AddItemToArray(shape, tp_json_unsigned_item(tensor->shape[i]));
    cJSON_AddStringToObject(object, "dtype", tensor->dtype_name);
    tp_json_add_unsigned(object, "nbytes", file->content.data_length);
    add_source(object, tensor);
    return object;
}

/* cJSON leaves out what it has no memory for, and says nothing. */
static bool is_whole(const cJSON *object, const struct tp_view_tensor *tensor)
{
    enum { FIELDS = 6, SOURCE_FIELDS = 4 };
    const cJSON *source = cJSON_GetObjectItem(object, "source");
    bool whole = cJSON_GetArraySize(object) == FIELDS &&
                 (size_t)cJSON_GetArraySize(cJSON_GetObjectItem(object, "shape")) == tensor->rank;
    if (tensor->pair == NULL)
        return whole && cJSON_GetArraySize(source) == SOURCE_FIELDS;
    return whole && cJSON_GetArraySize(cJSON_GetObjectItem(source, "blocks")) == SOURCE_FIELDS &&
           cJSON_GetArraySize(cJSON_GetObjectItem(source, "scales")) == SOURCE_FIELDS;
}

static int print_tensors(const struct tp_view *view, FILE *stream)
{
    for (size_t i = 0; i < view->n_tensors; i++) {
        cJSON *object = describe(&view->files[i]);
        char *line = is_whole(object, &view->tensors[i]) ? cJSON_PrintUnformatted(object) : NULL;
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

int tp_manifest_write(const struct tp_view *view, char **ret_text, size_t *ret_length)
{
    struct tp_text text;
    int rc = tp_text_open(&text);
    if (rc < 0)
        return rc;
    rc = print_name(view->checkpoint, text.stream);
    fprintf(text.stream,
            "  \"precision\": \"%s\",\n  \"mxfp4\": \"%s\",\n  \"shard_size\": %" PRIu64
            ",\n  \"total_size\": %" PRIu64 ",\n  \"total_parameters\": %" PRIu64
            ",\n  \"tensors\": [",
            tp_precision_names[view->options.precision], tp_mxfp4_names[view->options.packed],
            view->options.shard_size, view->total_size, view->total_parameters);
    if (rc == 0)
        rc = print_tensors(view, text.stream);
    fputs(view->n_tensors > 0 ? "\n  ]\n}\n" : "]\n}\n", text.stream);
    return tp_text_close(&text, rc, ret_text, ret_length);
}
