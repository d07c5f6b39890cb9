#include "fs/export/convert/container.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/bytes.h"
#include "fs/base/json_text.h"
#include "fs/base/log.h"

enum { NAME_SIZE = 96 };

struct planning {
    const struct tp_view *view;
    const struct tp_container_format *format;
    struct tp_export_plan *plan;
    struct tp_error *error;
    const struct tp_view_file **order; /* [n_tensors]: files, sorted within each container */
    struct tp_manifest_place *places;  /* [n_tensors], in the order of the view */
};

static int out_of_memory(struct tp_error *error)
{
    return tp_error_set(error, -ENOMEM, "out of memory");
}

/* ---- one container ---- */

/* What was written to the text becomes a segment, and the text is empty again. */
static int flush_text(struct tp_container *container)
{
    char *bytes;
    size_t length;
    int rc = tp_text_close(&container->text, 0, &bytes, &length);
    if (rc == 0) {
        rc = tp_artifact_add_bytes(container->artifact, bytes, length);
        free(bytes);
    }
    int opened = tp_text_open(&container->text);
    return rc < 0 ? rc : opened;
}

static int note_place(struct tp_container *container, const struct tp_view_file *file,
                      uint64_t nbytes, enum tp_segment_kind kind)
{
    struct tp_manifest_place *place = &container->places[file - container->view->files];
    struct tp_manifest_run *runs = realloc(place->runs, (place->n_runs + 1) * sizeof *runs);
    if (runs == NULL)
        return -ENOMEM;
    runs[place->n_runs] = (struct tp_manifest_run){container->artifact->size, nbytes};
    place->runs = runs;
    place->n_runs++;
    place->file = container->artifact->path;
    place->transposed = kind == TP_SEGMENT_TRANSPOSED;
    place->quantized = kind == TP_SEGMENT_BLOCKS || kind == TP_SEGMENT_SCALES;
    return 0;
}

int tp_container_add_data(struct tp_container *container, const struct tp_view_file *file,
                          uint64_t offset, uint64_t length)
{
    const struct tp_content *content = &file->content;
    int rc = flush_text(container);
    if (rc == 0)
        rc = note_place(container, file, length, TP_SEGMENT_CONTENT);
    if (rc == 0)
        rc = tp_artifact_add_content(container->artifact, content, content->head_length + offset,
                                     length, file->tensor);
    return rc;
}

int tp_container_add_transposed(struct tp_container *container, const struct tp_view_file *file)
{
    const struct tp_view_tensor *tensor = file->tensor;
    int rc = flush_text(container);
    if (rc == 0)
        rc = note_place(container, file, file->content.data_length, TP_SEGMENT_TRANSPOSED);
    if (rc == 0)
        rc = tp_artifact_add_transposed(container->artifact, &file->content,
                                        tensor->shape[tensor->rank - 2],
                                        tensor->shape[tensor->rank - 1], tensor);
    return rc;
}

int tp_container_add_quantized(struct tp_container *container, const struct tp_view_file *file,
                               enum tp_segment_kind kind, struct tp_quantized_tensor *quantized)
{
    int rc = flush_text(container);
    if (rc == 0)
        rc = note_place(container, file, file->content.data_length, kind);
    if (rc == 0)
        rc = tp_artifact_add_quantized(container->artifact, kind, quantized,
                                       file->content.data_length, file->tensor);
    return rc;
}

static int fill_container(struct planning *planning, const char *path, size_t first, size_t n)
{
    struct tp_container container = {.view = planning->view,
                                     .n_files = n,
                                     .files = planning->order + first,
                                     .places = planning->places};
    int rc = tp_export_plan_add(planning->plan, path, &container.artifact);
    if (rc == 0)
        rc = tp_text_open(&container.text);
    if (rc < 0)
        return out_of_memory(planning->error);
    rc = planning->format->fill(&container, planning->error);
    if (rc == 0)
        rc = flush_text(&container);
    char *rest;
    size_t length;
    if (container.text.stream != NULL && tp_text_close(&container.text, 0, &rest, &length) == 0)
        free(rest);
    return rc == -ENOMEM ? out_of_memory(planning->error) : rc;
}

/* ---- all of them ---- */

static int compare_in(const void *a, const void *b, void *context)
{
    const struct tp_container_format *format = context;
    return format->compare(*(const struct tp_view_file *const *)a,
                           *(const struct tp_view_file *const *)b);
}

/* An empty view has one container, which is empty. */
static size_t count_containers(const struct tp_view *view)
{
    return view->n_shards > 0 ? view->n_shards : 1;
}

static int add_containers(struct planning *planning)
{
    const struct tp_view *view = planning->view;
    const struct tp_container_format *format = planning->format;
    size_t n = count_containers(view);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        char path[NAME_SIZE];
        size_t first = view->shard_first[i];
        size_t end = i < view->n_shards ? view->shard_first[i + 1] : first;
        for (size_t j = first; j < end; j++)
            planning->order[j] = &view->files[j];
        qsort_r(planning->order + first, end - first, sizeof *planning->order, compare_in,
                (void *)format);
        if (n == 1)
            snprintf(path, sizeof path, "%s%s", format->stem, format->extension);
        else
            snprintf(path, sizeof path, "%s-%05zu-of-%05zu%s", format->stem, i + 1, n,
                     format->extension);
        rc = fill_container(planning, path, first, end - first);
    }
    return rc;
}

static int add_text(struct planning *planning, const char *path, const char *text, size_t length)
{
    struct tp_artifact *artifact;
    int rc = tp_export_plan_add(planning->plan, path, &artifact);
    if (rc == 0)
        rc = tp_artifact_add_bytes(artifact, text, length);
    return rc < 0 ? out_of_memory(planning->error) : 0;
}

/* ---- the index ---- */

int tp_container_compare_names(const struct tp_view_file *a, const struct tp_view_file *b)
{
    return tp_bytes_compare(a->tensor->name, a->tensor->name_length, b->tensor->name,
                            b->tensor->name_length);
}

static int compare_names(const void *a, const void *b)
{
    return tp_container_compare_names(*(const struct tp_view_file *const *)a,
                                      *(const struct tp_view_file *const *)b);
}

static int print_entry(const struct planning *planning, const struct tp_view_file *file,
                       FILE *stream)
{
    cJSON *name = tp_json_text_item(file->tensor->name, file->tensor->name_length);
    char *text = cJSON_PrintUnformatted(name);
    cJSON_Delete(name);
    if (text == NULL)
        return -ENOMEM;
    fprintf(stream, "    %s: \"%s\"", text, planning->places[file - planning->view->files].file);
    cJSON_free(text);
    return 0;
}

/* As transformers writes it: keys sorted, indented by two. */
static int write_index(const struct planning *planning, char **ret_text, size_t *ret_length)
{
    const struct tp_view *view = planning->view;
    struct tp_text text;
    int rc = tp_text_open(&text);
    if (rc < 0)
        return rc;
    fprintf(text.stream,
            "{\n  \"metadata\": {\n    \"total_size\": %" PRIu64 "\n  },\n  \"weight_map\": {\n",
            view->total_size);
    for (size_t i = 0; rc == 0 && i < view->n_tensors; i++) {
        rc = print_entry(planning, planning->order[i], text.stream);
        fputs(i + 1 < view->n_tensors ? ",\n" : "\n", text.stream);
    }
    fputs("  }\n}\n", text.stream);
    return tp_text_close(&text, rc, ret_text, ret_length);
}

/* Takes over the order: the containers are planned by now. */
static int add_index(struct planning *planning)
{
    const struct tp_container_format *format = planning->format;
    char path[NAME_SIZE], *text;
    size_t length;
    if (count_containers(planning->view) == 1)
        return 0;
    qsort(planning->order, planning->view->n_tensors, sizeof *planning->order, compare_names);
    if (write_index(planning, &text, &length) < 0)
        return out_of_memory(planning->error);
    snprintf(path, sizeof path, "%s%s.index.json", format->stem, format->extension);
    int rc = add_text(planning, path, text, length);
    free(text);
    return rc;
}

/* ---- the other files ---- */

static int add_manifest(struct planning *planning)
{
    char *text;
    size_t length;
    if (tp_manifest_write(planning->view, planning->format->name, planning->places, &text,
                          &length) < 0)
        return out_of_memory(planning->error);
    int rc = add_text(planning, "manifest.json", text, length);
    free(text);
    return rc;
}

/* Whether readers of the format would take a file of that name for weights. */
static bool is_own_name(const struct tp_container_format *format, const char *name)
{
    char index[NAME_SIZE];
    size_t stem = strlen(format->stem);
    snprintf(index, sizeof index, "%s%s.index.json", format->stem, format->extension);
    return strcmp(name, index) == 0 ||
           (strncmp(name, format->stem, stem) == 0 && (name[stem] == '-' || name[stem] == '.') &&
            tp_bytes_end_with(name, strlen(name), format->extension));
}

static int add_other(struct planning *planning, const struct tp_view_file *file)
{
    char *text = NULL;
    size_t length;
    int rc = 0;
    if (is_own_name(planning->format, file->name)) {
        tp_log(file->content.source->log, TP_LOG_WARNING,
               "%s: the format needs this name itself; left out", file->name);
        return 0;
    }
    if (planning->format->rewrite != NULL)
        rc = planning->format->rewrite(planning->view, file, &text, &length, planning->error);
    if (rc == 0 && text != NULL) {
        rc = add_text(planning, file->name, text, length);
    } else if (rc == 0) {
        struct tp_artifact *artifact;
        rc = tp_export_plan_add(planning->plan, file->name, &artifact);
        if (rc == 0)
            rc = tp_artifact_add_content(artifact, &file->content, 0,
                                         tp_content_size(&file->content), NULL);
        if (rc < 0)
            out_of_memory(planning->error);
    }
    free(text);
    return rc;
}

static int add_others(struct planning *planning)
{
    const struct tp_view *view = planning->view;
    int rc = 0;
    for (size_t i = view->n_tensors; rc == 0 && i < view->n_files; i++) {
        if (strcmp(view->files[i].name, "manifest.json") != 0)
            rc = add_other(planning, &view->files[i]);
    }
    return rc;
}

/* ---- the whole ---- */

int tp_container_check_numpy(const struct tp_view_file *file, struct tp_error *error)
{
    enum { RANK_MAX = 64 };
    const struct tp_view_tensor *tensor = file->tensor;
    int shown = tp_bytes_shown(tensor->name, tensor->name_length);
    if (tensor->rank > RANK_MAX)
        return tp_error_set(error, -EINVAL,
                            "tensor \"%.*s\": numpy arrays have at most %d dimensions, found %zu; "
                            "leave it out with --exclude",
                            shown, tensor->name, RANK_MAX, tensor->rank);
    /* Numpy multiplies the dimensions that are not 0, whatever the others are. */
    int64_t bytes = (int64_t)tp_dtype_size(tensor->dtype);
    for (size_t i = 0; i < tensor->rank; i++) {
        if (tensor->shape[i] != 0 && __builtin_mul_overflow(bytes, tensor->shape[i], &bytes))
            return tp_error_set(error, -EINVAL,
                                "tensor \"%.*s\": it is empty, but its other dimensions are larger "
                                "than numpy allows; leave it out with --exclude",
                                shown, tensor->name);
    }
    return 0;
}

static int check_tensors(const struct planning *planning)
{
    int rc = 0;
    for (size_t i = 0; planning->format->check != NULL && rc == 0 && i < planning->view->n_tensors;
         i++)
        rc = planning->format->check(&planning->view->files[i], planning->error);
    return rc;
}

int tp_plan_containers(const struct tp_view *view, const struct tp_container_format *format,
                       struct tp_export_plan *plan, struct tp_error *error)
{
    size_t n = view->n_tensors;
    struct planning planning = {
        .view = view,
        .format = format,
        .plan = plan,
        .error = error,
        .order = calloc(n + 1, sizeof *planning.order),
        .places = calloc(n + 1, sizeof *planning.places),
    };
    int rc = planning.order == NULL || planning.places == NULL ? out_of_memory(error) : 0;
    if (rc == 0)
        rc = check_tensors(&planning);
    if (rc == 0)
        rc = add_containers(&planning);
    if (rc == 0)
        rc = add_index(&planning);
    if (rc == 0)
        rc = add_manifest(&planning);
    if (rc == 0)
        rc = add_others(&planning);
    for (size_t i = 0; planning.places != NULL && i < n; i++)
        free(planning.places[i].runs);
    free(planning.places);
    free(planning.order);
    return rc;
}
