/* Planning, in this order: which tensors (filter, pairs decoded or not), their names, their
 * contents, shards by size, the manifest, the other files, the index of names. */
#include "fs/view/view.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode/npy.h"
#include "fs/view/manifest.h"
#include "fs/view/names.h"

const char *const tp_precision_names[] = {"float32", "float16", "bfloat16", "source", NULL};
const char *const tp_mxfp4_names[] = {"decode", "packed", NULL};

static const char manifest_name[] = "manifest.json";

static int out_of_memory(struct tp_error *error)
{
    return tp_error_set(error, -ENOMEM, "out of memory");
}

/* ---- which tensors ---- */

static bool matches_any(const char *const *patterns, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (fnmatch(patterns[i], name, 0) == 0)
            return true;
    }
    return false;
}

/* Does some pattern match the tensor, or, if it is half of a pair, any name of the pair? */
static bool matches(const char *const *patterns, size_t n, const struct tp_tensor *tensor,
                    const struct tp_mxfp4_pair *pair)
{
    if (n == 0)
        return false;
    if (pair == NULL)
        return matches_any(patterns, n, tensor->name);
    if (matches_any(patterns, n, pair->blocks->name) ||
        matches_any(patterns, n, pair->scales->name))
        return true;
    char *name = strndup(pair->name, pair->name_length);
    bool found = name != NULL && matches_any(patterns, n, name);
    free(name);
    return found;
}

static bool is_shown(const struct tp_view_options *options, const struct tp_tensor *tensor,
                     const struct tp_mxfp4_pair *pair)
{
    return (options->n_include == 0 ||
            matches(options->include, options->n_include, tensor, pair)) &&
           !matches(options->exclude, options->n_exclude, tensor, pair);
}

/* What a precision makes of a stored type. */
static enum tp_dtype shown_dtype(enum tp_dtype stored, enum tp_precision precision)
{
    static const enum tp_dtype converted[] = {TP_F32, TP_F16, TP_BF16};
    if (precision == TP_PRECISION_SOURCE || !tp_dtype_is_float(stored))
        return stored;
    return converted[precision];
}

static enum tp_target target_of(enum tp_dtype dtype)
{
    return dtype == TP_F32 ? TP_TARGET_F32 : dtype == TP_F16 ? TP_TARGET_F16 : TP_TARGET_BF16;
}

static void plan_stored(struct tp_view *view, const struct tp_tensor *stored,
                        struct tp_view_tensor *tensor, struct tp_content *content)
{
    enum tp_dtype dtype = shown_dtype(stored->dtype, view->options.precision);
    *tensor = (struct tp_view_tensor){
        .name = stored->name,
        .name_length = stored->name_length,
        .dtype = dtype,
        .dtype_name = tp_dtype_numpy_name(dtype),
        .rank = stored->rank,
        .shape = stored->shape,
        .stored = stored,
    };
    *content = (struct tp_content){
        .data_length = stored->elements * tp_dtype_size(dtype),
        .kind = dtype == stored->dtype ? TP_CONTENT_COPY : TP_CONTENT_CONVERT,
        .source = stored->shard,
        .offset = stored->offset,
        .source_width = tp_dtype_size(stored->dtype),
        .target_width = tp_dtype_size(dtype),
    };
    if (content->kind == TP_CONTENT_CONVERT)
        content->convert = tp_codecs()->convert[stored->dtype][target_of(dtype)];
    view->total_parameters += stored->elements;
}

static void plan_pair(struct tp_view *view, const struct tp_mxfp4_pair *pair,
                      struct tp_view_tensor *tensor, struct tp_content *content)
{
    /* bfloat16 holds every MXFP4 value, so that is what `source` shows. */
    enum tp_dtype dtype = shown_dtype(TP_BF16, view->options.precision);
    *tensor = (struct tp_view_tensor){
        .name = pair->name,
        .name_length = pair->name_length,
        .dtype = dtype,
        .dtype_name = tp_dtype_numpy_name(dtype),
        .rank = pair->rank,
        .shape = pair->shape,
        .pair = pair,
    };
    *content = (struct tp_content){
        .data_length = pair->elements * tp_dtype_size(dtype),
        .kind = TP_CONTENT_MXFP4,
        .source = pair->blocks->shard,
        .offset = pair->blocks->offset,
        .scales_source = pair->scales->shard,
        .scales_offset = pair->scales->offset,
        .source_width = TP_MXFP4_BLOCK_BYTES,
        .target_width = tp_dtype_size(dtype),
        .mxfp4 = tp_codecs()->mxfp4[target_of(dtype)],
    };
    view->total_parameters += pair->elements;
}

/* The parameters of a pair that is shown as stored: 32 for each block, at the blocks. */
static void correct_parameters(struct tp_view *view, const struct tp_tensor *tensor,
                               const struct tp_mxfp4_pair *pair)
{
    view->total_parameters -= tensor->elements;
    if (tensor == pair->blocks)
        view->total_parameters += pair->elements;
}

/* Decoding may multiply a size that only a sparse file can have. */
static int check_size(const struct tp_view_tensor *tensor, uint64_t elements,
                      struct tp_error *error)
{
    if (elements <= (INT64_MAX >> 1) / tp_dtype_size(tensor->dtype))
        return 0;
    return tp_error_set(
        error, -EOVERFLOW, "tensor \"%.*s\": %llu elements of %s make a file larger than 4 EiB",
        (int)tensor->name_length, tensor->name, (unsigned long long)elements, tensor->dtype_name);
}

/* Fills tensors and the contents of their files, for all tensors, shown or not: names must not
 * depend on the filter. `shown` says which stay. */
static int plan_tensors(struct tp_view *view, bool *shown, struct tp_error *error)
{
    const struct tp_checkpoint *checkpoint = view->checkpoint;
    size_t at = 0;
    for (size_t i = 0; i < checkpoint->n_tensors; i++) {
        const struct tp_tensor *stored = &checkpoint->tensors[i];
        const struct tp_mxfp4_pair *pair = checkpoint->pair_of[i];
        if (pair != NULL && !view->options.packed && stored == pair->scales)
            continue; /* the pair stands where its blocks are */
        uint64_t parameters = view->total_parameters;
        if (pair != NULL && !view->options.packed)
            plan_pair(view, pair, &view->tensors[at], &view->files[at].content);
        else
            plan_stored(view, stored, &view->tensors[at], &view->files[at].content);
        if (pair != NULL && view->options.packed)
            correct_parameters(view, stored, pair);
        int rc =
            check_size(&view->tensors[at],
                       view->tensors[at].pair != NULL ? pair->elements : stored->elements, error);
        if (rc < 0)
            return rc;
        shown[at] = is_shown(&view->options, stored, pair);
        if (!shown[at])
            view->total_parameters = parameters;
        view->files[at].modified = stored->shard->modified;
        at++;
    }
    view->n_tensors = at;
    return 0;
}

static int name_tensors(struct tp_view *view, struct tp_error *error)
{
    struct tp_name *names = calloc(view->n_tensors + 1, sizeof *names);
    if (names == NULL)
        return out_of_memory(error);
    for (size_t i = 0; i < view->n_tensors; i++)
        names[i] = (struct tp_name){view->tensors[i].name, view->tensors[i].name_length};
    int rc = tp_names_make(names, view->n_tensors, &view->file_names);
    free(names);
    if (rc < 0)
        return out_of_memory(error);
    for (size_t i = 0; i < view->n_tensors; i++)
        view->files[i].name = view->file_names[i];
    return 0;
}

static void drop_hidden(struct tp_view *view, const bool *shown)
{
    size_t kept = 0;
    for (size_t i = 0; i < view->n_tensors; i++) {
        if (!shown[i])
            continue;
        view->tensors[kept] = view->tensors[i];
        view->files[kept] = view->files[i];
        view->files[kept].tensor = &view->tensors[kept];
        kept++;
    }
    view->n_tensors = kept;
    view->n_files = kept;
}

static int write_heads(struct tp_view *view, struct tp_error *error)
{
    size_t bytes = 0;
    for (size_t i = 0; i < view->n_tensors; i++) {
        const struct tp_view_tensor *tensor = &view->tensors[i];
        bytes += tp_npy_header_length(tensor->dtype, tensor->shape, tensor->rank);
    }
    view->heads = malloc(bytes + 1);
    if (view->heads == NULL)
        return out_of_memory(error);
    char *at = view->heads;
    for (size_t i = 0; i < view->n_tensors; i++) {
        const struct tp_view_tensor *tensor = &view->tensors[i];
        size_t length = tp_npy_header_length(tensor->dtype, tensor->shape, tensor->rank);
        tp_npy_header_write(tensor->dtype, tensor->shape, tensor->rank, at);
        view->files[i].content.head = at;
        view->files[i].content.head_length = length;
        at += length;
    }
    return 0;
}

/* ---- shards ---- */

/* One warning for all of them: the default view of a large model has dozens. */
static void warn_of_size(const struct tp_view *view, size_t n, const struct tp_view_file *first,
                         const struct tp_log *log)
{
    char others[64] = "";
    if (n > 1)
        snprintf(others, sizeof others, ", like %zu more", n - 1);
    tp_log(
        log, TP_LOG_WARNING,
        "tensor \"%.*s\": its file of %llu bytes is larger than a shard of %llu and stands alone "
        "in shard_%03lld%s",
        (int)first->tensor->name_length, first->tensor->name,
        (unsigned long long)tp_content_size(&first->content),
        (unsigned long long)view->options.shard_size, (long long)first->shard, others);
}

static int fill_shards(struct tp_view *view, const struct tp_log *log, struct tp_error *error)
{
    uint64_t limit = view->options.shard_size, in_shard = 0;
    const struct tp_view_file *first_large = NULL;
    size_t n_large = 0;
    view->shard_first = calloc(view->n_tensors + 1, sizeof *view->shard_first);
    if (view->shard_first == NULL)
        return out_of_memory(error);
    for (size_t i = 0; i < view->n_tensors; i++) {
        struct tp_view_file *file = &view->files[i];
        uint64_t size = tp_content_size(&file->content);
        if (i == 0 || in_shard > limit || size > limit - in_shard) {
            view->shard_first[view->n_shards++] = i;
            in_shard = 0;
        }
        in_shard += size;
        file->shard = (int64_t)view->n_shards - 1;
        view->total_size += file->content.data_length;
        view->total_file_bytes += size;
        if (size > limit && n_large++ == 0)
            first_large = file;
    }
    if (n_large > 0)
        warn_of_size(view, n_large, first_large, log);
    view->shard_first[view->n_shards] = view->n_tensors;
    return 0;
}

/* ---- the top ---- */

static int add_manifest(struct tp_view *view, struct tp_error *error)
{
    size_t length;
    if (tp_manifest_write(view, NULL, NULL, &view->manifest, &length) < 0)
        return out_of_memory(error);
    view->files[view->n_files++] = (struct tp_view_file){
        .name = manifest_name,
        .shard = TP_VIEW_TOP,
        .content = {.head = view->manifest, .head_length = length},
        .modified = view->checkpoint->modified,
    };
    view->total_file_bytes += length;
    return 0;
}

static bool is_reserved(const struct tp_view *view, const char *name)
{
    return strcmp(name, manifest_name) == 0 || strcmp(name, ".tensorport") == 0 ||
           strcmp(name, "XXH3SUMS") == 0 || strcmp(name, "SHA256SUMS") == 0 ||
           tp_view_find_shard(view, name) >= 0;
}

/* Whether `tensorport convert` wrote the checkpoint: its manifest and checksums describe what lies
 * there, not what is shown, and there is nothing to warn of when they are left out. */
static bool is_converted(const struct tp_checkpoint *checkpoint)
{
    static const char begin[] = "{\n  \"format_version\": ";
    char found[sizeof begin - 1];
    for (size_t i = 0; i < checkpoint->n_others; i++) {
        struct tp_source *other = &checkpoint->others[i];
        if (strcmp(other->name, manifest_name) == 0)
            return other->size >= sizeof found &&
                   tp_source_read(other, found, sizeof found, 0) == 0 &&
                   memcmp(found, begin, sizeof found) == 0;
    }
    return false;
}

static bool is_description(const char *name)
{
    return strcmp(name, manifest_name) == 0 || strcmp(name, "XXH3SUMS") == 0 ||
           strcmp(name, "SHA256SUMS") == 0;
}

static void add_other_files(struct tp_view *view, const struct tp_log *log)
{
    bool converted = is_converted(view->checkpoint);
    for (size_t i = 0; i < view->checkpoint->n_others; i++) {
        struct tp_source *other = &view->checkpoint->others[i];
        if (is_reserved(view, other->name)) {
            bool expected = converted && is_description(other->name);
            tp_log(log, expected ? TP_LOG_DEBUG : TP_LOG_WARNING,
                   "%s: the view needs this name itself; left out", other->name);
            continue;
        }
        view->files[view->n_files++] = (struct tp_view_file){
            .name = other->name,
            .shard = TP_VIEW_TOP,
            .content = {.data_length = other->size,
                        .kind = TP_CONTENT_COPY,
                        .source = other,
                        .source_width = 1,
                        .target_width = 1},
            .modified = other->modified,
        };
        view->total_file_bytes += other->size;
    }
}

/* ---- the index ---- */

static int compare_files(const void *a, const void *b)
{
    const struct tp_view_file *left = *(const struct tp_view_file *const *)a;
    const struct tp_view_file *right = *(const struct tp_view_file *const *)b;
    if (left->shard != right->shard)
        return left->shard < right->shard ? -1 : 1;
    return strcmp(left->name, right->name);
}

static int index_files(struct tp_view *view, struct tp_error *error)
{
    view->by_name = calloc(view->n_files + 1, sizeof *view->by_name);
    if (view->by_name == NULL)
        return out_of_memory(error);
    for (size_t i = 0; i < view->n_files; i++)
        view->by_name[i] = &view->files[i];
    qsort(view->by_name, view->n_files, sizeof *view->by_name, compare_files);
    return 0;
}

void tp_view_file_path(const struct tp_view_file *file, char path[TP_FILE_PATH_MAX])
{
    char shard[TP_SHARD_NAME_MAX] = "";
    if (file->shard != TP_VIEW_TOP)
        tp_view_shard_name((size_t)file->shard, shard);
    snprintf(path, TP_FILE_PATH_MAX, "%s%s%s", shard, shard[0] != '\0' ? "/" : "", file->name);
}

const struct tp_view_file *tp_view_find_file(const struct tp_view *view, int64_t shard,
                                             const char *name)
{
    const struct tp_view_file wanted = {.name = name, .shard = shard}, *key = &wanted;
    const struct tp_view_file **found =
        bsearch(&key, view->by_name, view->n_files, sizeof key, compare_files);
    return found == NULL ? NULL : *found;
}

void tp_view_shard_name(size_t shard, char name[TP_SHARD_NAME_MAX])
{
    snprintf(name, TP_SHARD_NAME_MAX, "shard_%03zu", shard);
}

int64_t tp_view_find_shard(const struct tp_view *view, const char *name)
{
    unsigned long long number;
    char end, canonical[TP_SHARD_NAME_MAX];
    if (sscanf(name, "shard_%llu%c", &number, &end) != 1 || number >= view->n_shards)
        return -1;
    tp_view_shard_name((size_t)number, canonical);
    return strcmp(name, canonical) == 0 ? (int64_t)number : -1;
}

/* ---- the whole ---- */

static int plan(struct tp_view *view, const struct tp_log *log, struct tp_error *error)
{
    const struct tp_checkpoint *checkpoint = view->checkpoint;
    bool *shown = calloc(checkpoint->n_tensors + 1, sizeof *shown);
    view->tensors = calloc(checkpoint->n_tensors + 1, sizeof *view->tensors);
    view->files = calloc(checkpoint->n_tensors + checkpoint->n_others + 1, sizeof *view->files);
    if (shown == NULL || view->tensors == NULL || view->files == NULL) {
        free(shown);
        return out_of_memory(error);
    }
    int rc = plan_tensors(view, shown, error);
    if (rc == 0)
        rc = name_tensors(view, error);
    if (rc == 0)
        drop_hidden(view, shown);
    free(shown);
    if (rc == 0)
        rc = write_heads(view, error);
    if (rc == 0)
        rc = fill_shards(view, log, error);
    if (rc == 0)
        rc = add_manifest(view, error);
    if (rc < 0)
        return rc;
    add_other_files(view, log);
    return index_files(view, error);
}

int tp_view_new(const struct tp_checkpoint *checkpoint, const struct tp_view_options *options,
                const struct tp_log *log, struct tp_view **ret_view, struct tp_error *error)
{
    struct tp_view *view = calloc(1, sizeof *view);
    if (view == NULL)
        return out_of_memory(error);
    view->checkpoint = checkpoint;
    view->options = *options;
    int rc = plan(view, log, error);
    if (rc < 0) {
        tp_view_free(view);
        return rc;
    }
    *ret_view = view;
    return 0;
}

void tp_view_free(struct tp_view *view)
{
    if (view == NULL)
        return;
    free(view->by_name);
    free(view->shard_first);
    free(view->manifest);
    free(view->heads);
    free(view->file_names);
    free(view->tensors);
    free(view->files);
    free(view);
}
