#include "fs/export/convert/quantized_view.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/bytes.h"

static const char *const suffixes[] = {"_blocks", "_scales"};
enum { N_PARTS = sizeof suffixes / sizeof *suffixes };

static int out_of_memory(struct tp_error *error)
{
    return tp_error_set(error, -ENOMEM, "out of memory");
}

/* ---- tensors ---- */

/* Fills [..., rows, columns / 32] and, for blocks, 16; the rank is returned. */
static size_t shape_of(const struct tp_quantized_tensor *tensor, size_t part, uint64_t *shape)
{
    const struct tp_view_tensor *stored = tensor->file->tensor;
    size_t rank = stored->rank;
    memcpy(shape, stored->shape, (rank - 2) * sizeof *shape);
    shape[rank - 2] = tensor->rows;
    shape[rank - 1] = tensor->columns / TP_MXFP4_BLOCK_ELEMENTS;
    if (part == 0)
        shape[rank++] = TP_MXFP4_BLOCK_BYTES;
    return rank;
}

static void add_tensor(struct tp_quantized_view *view, const struct tp_view_tensor *tensor,
                       const struct tp_view_file *file, uint64_t data_length,
                       struct tp_quantized_tensor *quantized)
{
    size_t i = view->view.n_tensors++;
    view->view.tensors[i] = *tensor;
    view->view.files[i] = *file;
    view->view.files[i].tensor = &view->view.tensors[i];
    view->view.files[i].content.data_length = data_length;
    view->of[i] = quantized;
}

/* Blocks, or scales. `*shapes` advances. */
static int add_part(struct tp_quantized_view *view, size_t index, size_t part, uint64_t **shapes)
{
    struct tp_quantized_tensor *quantized = &view->quantized[index];
    const struct tp_view_tensor *stored = quantized->file->tensor;
    size_t length = stored->name_length + strlen(suffixes[part]);
    char *name = malloc(length + 1);
    if (name == NULL)
        return -ENOMEM;
    memcpy(name, stored->name, stored->name_length);
    memcpy(name + stored->name_length, suffixes[part], strlen(suffixes[part]) + 1);
    view->names[index * N_PARTS + part] = name;
    struct tp_view_tensor tensor = {
        .name = name,
        .name_length = length,
        .dtype = TP_U8,
        .dtype_name = tp_dtype_numpy_name(TP_U8),
        .rank = shape_of(quantized, part, *shapes),
        .shape = *shapes,
        .stored = stored->stored,
    };
    *shapes += tensor.rank;
    uint64_t blocks =
        quantized->matrices * quantized->rows * (quantized->columns / TP_MXFP4_BLOCK_ELEMENTS);
    add_tensor(view, &tensor, quantized->file, part == 0 ? blocks * TP_MXFP4_BLOCK_BYTES : blocks,
               quantized);
    return 0;
}

static int add_tensors(struct tp_quantized_view *view)
{
    const struct tp_view *stored = view->stored;
    uint64_t *shapes = view->shapes;
    size_t next = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < stored->n_tensors; i++) {
        const struct tp_view_file *file = &stored->files[i];
        bool is_quantized = next < view->n_quantized && view->quantized[next].file == file;
        if (!is_quantized)
            add_tensor(view, file->tensor, file, file->content.data_length, NULL);
        for (size_t part = 0; rc == 0 && is_quantized && part < N_PARTS; part++)
            rc = add_part(view, next, part, &shapes);
        next += is_quantized;
    }
    return rc;
}

/* ---- shards ---- */

static void fill_shards(struct tp_view *view)
{
    uint64_t limit = view->options.shard_size, in_shard = 0;
    for (size_t i = 0; i < view->n_tensors; i++) {
        uint64_t size = view->files[i].content.data_length;
        if (i == 0 || in_shard > limit || size > limit - in_shard) {
            view->shard_first[view->n_shards++] = i;
            in_shard = 0;
        }
        in_shard += size;
        view->files[i].shard = (int64_t)view->n_shards - 1;
        view->total_size += size;
    }
    view->shard_first[view->n_shards] = view->n_tensors;
}

static int compare_names(const void *a, const void *b)
{
    const struct tp_view_tensor *left = *(const struct tp_view_tensor *const *)a;
    const struct tp_view_tensor *right = *(const struct tp_view_tensor *const *)b;
    return tp_bytes_compare(left->name, left->name_length, right->name, right->name_length);
}

static int check_names(const struct tp_view *view, struct tp_error *error)
{
    const struct tp_view_tensor **order = calloc(view->n_tensors + 1, sizeof *order);
    int rc = 0;
    if (order == NULL)
        return out_of_memory(error);
    for (size_t i = 0; i < view->n_tensors; i++)
        order[i] = &view->tensors[i];
    qsort(order, view->n_tensors, sizeof *order, compare_names);
    for (size_t i = 1; rc == 0 && i < view->n_tensors; i++) {
        if (compare_names(&order[i - 1], &order[i]) == 0)
            rc =
                tp_error_set(error, -EEXIST,
                             "tensor \"%.*s\": quantising makes one of that name, too; leave the "
                             "plain one as it is with --exclude",
                             tp_bytes_shown(order[i]->name, order[i]->name_length), order[i]->name);
    }
    free(order);
    return rc;
}

/* ---- the whole ---- */

static int allocate(struct tp_quantized_view *view)
{
    const struct tp_view *stored = view->stored;
    size_t n = stored->n_tensors + view->n_quantized, n_shapes = 1;
    for (size_t i = 0; i < view->n_quantized; i++)
        n_shapes += 2 * view->quantized[i].file->tensor->rank + 1;
    view->view = (struct tp_view){
        .checkpoint = stored->checkpoint,
        .options = stored->options,
        .total_parameters = stored->total_parameters,
        .files = calloc(n + stored->n_files - stored->n_tensors + 1, sizeof *view->view.files),
        .tensors = calloc(n + 1, sizeof *view->view.tensors),
        .shard_first = calloc(n + 1, sizeof *view->view.shard_first),
    };
    view->of = calloc(n + 1, sizeof(struct tp_quantized_tensor *));
    view->names = calloc(N_PARTS * view->n_quantized + 1, sizeof(char *));
    view->shapes = calloc(n_shapes, sizeof *view->shapes);
    bool all = view->view.files != NULL && view->view.tensors != NULL &&
               view->view.shard_first != NULL && view->of != NULL && view->names != NULL &&
               view->shapes != NULL;
    return all ? 0 : -ENOMEM;
}

static int build(struct tp_quantized_view *view, struct tp_error *error)
{
    const struct tp_view *stored = view->stored;
    if (allocate(view) < 0 || add_tensors(view) < 0)
        return out_of_memory(error);
    fill_shards(&view->view);
    view->view.n_files = view->view.n_tensors;
    for (size_t i = stored->n_tensors; i < stored->n_files; i++)
        view->view.files[view->view.n_files++] = stored->files[i];
    return check_names(&view->view, error);
}

int tp_quantized_view_new(const struct tp_view *stored, const struct tp_quantize_patterns *patterns,
                          const struct tp_log *log, struct tp_quantized_view **ret_view,
                          struct tp_error *error)
{
    struct tp_quantized_view *view = calloc(1, sizeof *view);
    if (view == NULL)
        return out_of_memory(error);
    view->stored = stored;
    int rc = tp_quantize_choose(stored, patterns, log, &view->quantized, &view->n_quantized, error);
    if (rc == 0)
        rc = build(view, error);
    if (rc < 0) {
        tp_quantized_view_free(view);
        return rc;
    }
    *ret_view = view;
    return 0;
}

void tp_quantized_view_free(struct tp_quantized_view *view)
{
    for (size_t i = 0; view->names != NULL && i < N_PARTS * view->n_quantized; i++)
        free(view->names[i]);
    free(view->names);
    free(view->shapes);
    free(view->of);
    free(view->quantized);
    free(view->view.files);
    free(view->view.tensors);
    free(view->view.shard_first);
    free(view);
}
