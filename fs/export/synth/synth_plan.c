#include "fs/export/synth/synth_plan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void name_file(struct tp_synth_file *file, size_t index, size_t n_files,
                      bool count_from_zero)
{
    size_t shift = count_from_zero ? 0 : 1;
    if (n_files == 1)
        snprintf(file->name, sizeof file->name, "model.safetensors");
    else
        snprintf(file->name, sizeof file->name, "model-%05zu-of-%05zu.safetensors", index + shift,
                 n_files - 1 + shift);
}

/* Consecutive runs of tensors. A run ends where its share of the bytes is reached, or where
 * just enough tensors are left for one in each remaining file. */
static void split(const struct tp_synth_weights *weights, struct tp_synth_plan *plan)
{
    size_t file = 0;
    uint64_t done = 0;
    for (size_t i = 0; i < weights->n_tensors; i++) {
        size_t tensors_left = weights->n_tensors - i, files_left = plan->n_files - (file + 1);
        double end = (double)weights->bytes * (double)(file + 1) / (double)plan->n_files;
        bool full = (double)done >= end || tensors_left <= files_left;
        if (plan->files[file].n > 0 && full && files_left > 0)
            plan->files[++file].first = i;
        plan->files[file].n++;
        done += weights->tensors[i].bytes;
    }
}

static int compare_in_file(const void *a, const void *b)
{
    const struct tp_synth_tensor *left = a, *right = b;
    size_t left_size = tp_dtype_size(left->dtype), right_size = tp_dtype_size(right->dtype);
    if (left_size != right_size)
        return left_size > right_size ? -1 : 1;
    return strcmp(left->name, right->name);
}

/* Gives the tensors their offsets and writes the header's JSON (all names are plain ASCII). */
static void print_header(FILE *stream, struct tp_synth_tensor *tensors, size_t n)
{
    uint64_t begin = 0;
    fputs("{\"__metadata__\":{\"format\":\"pt\"}", stream);
    for (size_t i = 0; i < n; i++) {
        struct tp_synth_tensor *tensor = &tensors[i];
        fprintf(stream, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", tensor->name,
                tp_dtype_name(tensor->dtype));
        for (size_t axis = 0; axis < tensor->rank; axis++)
            fprintf(stream, "%s%" PRIu64, axis == 0 ? "" : ",", tensor->shape[axis]);
        tensor->offset = begin;
        begin += tensor->bytes;
        fprintf(stream, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", tensor->offset, begin);
    }
    fputc('}', stream);
}

static int make_header(struct tp_synth_file *file, struct tp_synth_tensor *tensors)
{
    static const char length_field[8];
    size_t size;
    FILE *stream = open_memstream(&file->header, &size);
    if (stream == NULL)
        return -ENOMEM;
    fwrite(length_field, 1, sizeof length_field, stream);
    print_header(stream, tensors, file->n);
    for (long end = ftell(stream); end % 8 != 0; end++)
        fputc(' ', stream);
    if (fclose(stream) != 0)
        return -ENOMEM;
    for (size_t i = 0; i < sizeof length_field; i++)
        file->header[i] = (char)((size - sizeof length_field) >> (8 * i) & 0xff);
    file->header_bytes = size;
    return 0;
}

static int lay_out(struct tp_synth_file *file, size_t index, struct tp_synth_weights *weights)
{
    struct tp_synth_tensor *tensors = weights->tensors + file->first;
    qsort(tensors, file->n, sizeof *tensors, compare_in_file);
    int rc = make_header(file, tensors);
    if (rc < 0)
        return rc;
    file->bytes = file->header_bytes;
    for (size_t i = 0; i < file->n; i++) {
        tensors[i].file = index;
        tensors[i].offset += file->header_bytes;
        file->bytes += tensors[i].bytes;
    }
    return 0;
}

int tp_synth_plan(struct tp_synth_weights *weights, uint64_t n_files, bool count_from_zero,
                  struct tp_synth_plan *ret_plan, struct tp_error *error)
{
    if (n_files < 1 || n_files > weights->n_tensors)
        return tp_error_set(error, -EINVAL,
                            "%" PRIu64 " shards: expected 1 to %zu, the number of "
                            "tensors",
                            n_files, weights->n_tensors);
    struct tp_synth_plan plan = {(size_t)n_files, calloc((size_t)n_files, sizeof *plan.files)};
    int rc = plan.files == NULL ? -ENOMEM : 0;
    if (rc == 0)
        split(weights, &plan);
    for (size_t i = 0; i < plan.n_files && rc == 0; i++) {
        name_file(&plan.files[i], i, plan.n_files, count_from_zero);
        rc = lay_out(&plan.files[i], i, weights);
    }
    if (rc < 0) {
        tp_synth_plan_clear(&plan);
        return tp_error_set(error, rc, "out of memory");
    }
    *ret_plan = plan;
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    const struct tp_synth_tensor *const *left = a, *const *right = b;
    return strcmp((*left)->name, (*right)->name);
}

/* Adds "tensor": "file" for each tensor, in the order of the names. */
static bool add_weight_map(cJSON *map, const struct tp_synth_weights *weights,
                           const struct tp_synth_plan *plan)
{
    const struct tp_synth_tensor **sorted = calloc(weights->n_tensors, sizeof *sorted);
    bool ok = sorted != NULL;
    if (ok) {
        for (size_t i = 0; i < weights->n_tensors; i++)
            sorted[i] = &weights->tensors[i];
        qsort(sorted, weights->n_tensors, sizeof *sorted, compare_names);
    }
    for (size_t i = 0; i < weights->n_tensors && ok; i++)
        ok = cJSON_AddStringToObject(map, sorted[i]->name, plan->files[sorted[i]->file].name) !=
             NULL;
    free(sorted);
    return ok;
}

cJSON *tp_synth_plan_index(const struct tp_synth_weights *weights, const struct tp_synth_plan *plan)
{
    cJSON *tree = cJSON_CreateObject();
    cJSON *metadata = cJSON_AddObjectToObject(tree, "metadata");
    cJSON *map = cJSON_AddObjectToObject(tree, "weight_map");
    if (map != NULL &&
        cJSON_AddNumberToObject(metadata, "total_size", (double)weights->bytes) != NULL &&
        add_weight_map(map, weights, plan))
        return tree;
    cJSON_Delete(tree);
    return NULL;
}

void tp_synth_plan_clear(struct tp_synth_plan *plan)
{
    for (size_t i = 0; i < plan->n_files && plan->files != NULL; i++)
        free(plan->files[i].header);
    free(plan->files);
    *plan = (struct tp_synth_plan){0};
}
