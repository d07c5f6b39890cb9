/* Tensors are cut into parts of a fixed number of values, which workers take in any order. The
 * statistics of the parts are merged in the order of the values when all are there. */
#include "fs/export/inspect/tensor_statistics.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "fs/base/workers.h"

enum {
    PART_VALUES = 4 << 20,
    PIECE_VALUES = 64 << 10, /* decoded at a time: they stay in the second-level cache */
};

struct gathering {
    const struct tp_view *view;
    struct tp_progress *progress;
    size_t *first_part; /* [n_tensors + 1] */
    struct tp_value_statistics *parts;
    atomic_size_t next_part;
    atomic_size_t failed; /* 1 + the tensor whose source failed; 0 for none */
};

enum tp_dtype tp_tensor_statistics_dtype(const struct tp_view_tensor *tensor)
{
    if (tensor->pair != NULL)
        return TP_F32;
    enum tp_dtype dtype = tensor->stored->dtype;
    return dtype != TP_F64 && tp_dtype_is_float(dtype) ? TP_F32 : dtype;
}

/* Where the values come from: the file's data, but float64 as it is stored. */
static struct tp_content values_of(const struct tp_view *view, size_t tensor)
{
    struct tp_content content = view->files[tensor].content;
    const struct tp_tensor *stored = view->tensors[tensor].stored;
    if (stored != NULL && stored->dtype == TP_F64)
        content = (struct tp_content){.data_length = stored->nbytes,
                                      .kind = TP_CONTENT_COPY,
                                      .source = stored->shard,
                                      .offset = stored->offset,
                                      .source_width = sizeof(double),
                                      .target_width = sizeof(double)};
    return content;
}

static uint64_t count_elements(const struct tp_view *view, size_t tensor)
{
    return values_of(view, tensor).data_length /
           tp_dtype_size(tp_tensor_statistics_dtype(&view->tensors[tensor]));
}

uint64_t tp_tensor_statistics_bytes(const struct tp_view *view)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < view->n_tensors; i++)
        bytes += values_of(view, i).data_length;
    return bytes;
}

static int read_part(struct gathering *gathering, size_t tensor, uint64_t first, void *buffer,
                     struct tp_value_statistics *part)
{
    const enum tp_dtype dtype = tp_tensor_statistics_dtype(&gathering->view->tensors[tensor]);
    const struct tp_content content = values_of(gathering->view, tensor);
    const size_t width = tp_dtype_size(dtype);
    uint64_t left = content.data_length / width - first;
    left = left < PART_VALUES ? left : PART_VALUES;
    while (left > 0) {
        size_t n = left < PIECE_VALUES ? (size_t)left : PIECE_VALUES;
        int rc = tp_content_read(&content, content.head_length + first * width, n * width, buffer);
        if (rc < 0)
            return rc;
        tp_value_statistics_add(part, dtype, buffer, n);
        tp_progress_add(gathering->progress, n * width);
        first += n;
        left -= n;
    }
    return 0;
}

/* The tensor that a part belongs to: the last whose first part is not behind it. */
static size_t tensor_of_part(const struct gathering *gathering, size_t part)
{
    size_t first = 0, end = gathering->view->n_tensors;
    while (end - first > 1) {
        size_t middle = first + (end - first) / 2;
        if (gathering->first_part[middle] <= part)
            first = middle;
        else
            end = middle;
    }
    return first;
}

static int work(void *context, size_t worker)
{
    struct gathering *gathering = context;
    const size_t n_parts = gathering->first_part[gathering->view->n_tensors];
    void *buffer = malloc(PIECE_VALUES * sizeof(double));
    int rc = buffer == NULL ? -ENOMEM : 0;
    (void)worker;
    while (rc == 0 && atomic_load(&gathering->failed) == 0) {
        size_t part = atomic_fetch_add(&gathering->next_part, 1);
        if (part >= n_parts)
            break;
        size_t tensor = tensor_of_part(gathering, part);
        const struct tp_view_tensor *shown = &gathering->view->tensors[tensor];
        tp_progress_item(gathering->progress, shown->name, shown->name_length);
        uint64_t first = (uint64_t)(part - gathering->first_part[tensor]) * PART_VALUES;
        rc = read_part(gathering, tensor, first, buffer, &gathering->parts[part]);
        size_t none = 0;
        if (rc < 0)
            atomic_compare_exchange_strong(&gathering->failed, &none, tensor + 1);
    }
    free(buffer);
    return rc;
}

static int gather(struct gathering *gathering, size_t n_workers, struct tp_error *error)
{
    const struct tp_view *view = gathering->view;
    int rc = tp_workers_run(n_workers, work, gathering);
    if (rc == -ENOMEM)
        return tp_error_set(error, rc, "out of memory");
    if (rc < 0) {
        const struct tp_view_tensor *tensor = &view->tensors[atomic_load(&gathering->failed) - 1];
        return tp_error_set(error, rc, "tensor \"%.*s\": its source cannot be read",
                            (int)tensor->name_length, tensor->name);
    }
    return 0;
}

/* Cuts the tensors into parts. */
static int plan(struct gathering *gathering)
{
    const struct tp_view *view = gathering->view;
    gathering->first_part = calloc(view->n_tensors + 1, sizeof *gathering->first_part);
    if (gathering->first_part == NULL)
        return -ENOMEM;
    size_t n_parts = 0;
    for (size_t i = 0; i < view->n_tensors; i++) {
        uint64_t elements = count_elements(view, i);
        gathering->first_part[i] = n_parts;
        n_parts += (size_t)(elements / PART_VALUES + (elements % PART_VALUES != 0));
    }
    gathering->first_part[view->n_tensors] = n_parts;
    gathering->parts = calloc(n_parts + 1, sizeof *gathering->parts);
    return gathering->parts == NULL ? -ENOMEM : 0;
}

int tp_tensor_statistics(const struct tp_view *view, size_t n_workers, struct tp_progress *progress,
                         struct tp_value_statistics **ret_statistics, struct tp_error *error)
{
    struct gathering gathering = {.view = view, .progress = progress};
    struct tp_value_statistics *statistics = calloc(view->n_tensors + 1, sizeof *statistics);
    int rc = statistics == NULL ? -ENOMEM : plan(&gathering);
    if (rc < 0)
        tp_error_set(error, rc, "out of memory");
    else
        rc = gather(&gathering, n_workers, error);
    for (size_t i = 0; rc == 0 && i < view->n_tensors; i++) {
        for (size_t part = gathering.first_part[i]; part < gathering.first_part[i + 1]; part++)
            tp_value_statistics_merge(&statistics[i], &gathering.parts[part]);
    }
    free(gathering.first_part);
    free(gathering.parts);
    if (rc < 0)
        free(statistics);
    else
        *ret_statistics = statistics;
    return rc;
}
