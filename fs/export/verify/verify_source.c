#include "fs/export/verify/verify_source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/bytes.h"
#include "fs/checkpoint/checkpoint.h"
#include "fs/export/convert/formats.h"
#include "fs/view/view.h"

/* ---- names ---- */

static int compare_tensors(const void *a, const void *b)
{
    const struct tp_view_tensor *left = *(const struct tp_view_tensor *const *)a;
    const struct tp_view_tensor *right = *(const struct tp_view_tensor *const *)b;
    return tp_bytes_compare(left->name, left->name_length, right->name, right->name_length);
}

static int compare_described(const void *a, const void *b)
{
    const struct tp_manifest_tensor *left = *(const struct tp_manifest_tensor *const *)a;
    const struct tp_manifest_tensor *right = *(const struct tp_manifest_tensor *const *)b;
    return tp_bytes_compare(left->name, left->name_length, right->name, right->name_length);
}

/* The tensors of a view sorted by name; the caller frees the array. NULL: no memory. */
static const struct tp_view_tensor **sort_tensors(const struct tp_view *view)
{
    const struct tp_view_tensor **sorted = calloc(view->n_tensors + 1, sizeof *sorted);
    for (size_t i = 0; sorted != NULL && i < view->n_tensors; i++)
        sorted[i] = &view->tensors[i];
    if (sorted != NULL)
        qsort(sorted, view->n_tensors, sizeof *sorted, compare_tensors);
    return sorted;
}

static const struct tp_view_tensor *find_tensor(const struct tp_view_tensor **sorted, size_t n,
                                                const struct tp_manifest_tensor *described)
{
    const struct tp_view_tensor wanted = {.name = described->name,
                                          .name_length = described->name_length};
    const struct tp_view_tensor *key = &wanted;
    const struct tp_view_tensor **found = bsearch(&key, sorted, n, sizeof key, compare_tensors);
    return found == NULL ? NULL : *found;
}

/* ---- the same tensors ---- */

static bool has_shape(const struct tp_view_tensor *tensor,
                      const struct tp_manifest_tensor *described)
{
    if (tensor->rank != described->rank)
        return false;
    for (size_t i = 0; i < tensor->rank; i++) {
        bool swapped = described->transposed && tensor->rank >= 2 && i + 2 >= tensor->rank;
        if (tensor->shape[swapped ? 2 * tensor->rank - 3 - i : i] != described->shape[i])
            return false;
    }
    return true;
}

static void compare_with_view(const struct tp_manifest *manifest, const struct tp_view *view,
                              const struct tp_view_tensor **sorted, struct tp_faults *faults)
{
    for (size_t i = 0; i < manifest->n_tensors; i++) {
        const struct tp_manifest_tensor *described = &manifest->tensors[i];
        const struct tp_view_tensor *tensor = find_tensor(sorted, view->n_tensors, described);
        int shown = tp_bytes_shown(described->name, described->name_length);
        if (tensor == NULL)
            tp_faults_add(faults, TP_FAULT_SOURCE, described->file,
                          "tensor \"%.*s\": the source has none of that name", shown,
                          described->name);
        else if (tensor->dtype != described->dtype || !has_shape(tensor, described))
            tp_faults_add(faults, TP_FAULT_SOURCE, described->file,
                          "tensor \"%.*s\": its dtype or shape is not the source's", shown,
                          described->name);
    }
}

/* Fills `absent`. */
static int find_absent(struct tp_verify_source *source, const struct tp_manifest *manifest)
{
    const struct tp_view *whole = source->whole;
    const struct tp_manifest_tensor **described =
        calloc(manifest->n_tensors + 1, sizeof *described);
    source->absent = calloc(whole->n_tensors + 1, sizeof *source->absent);
    if (described == NULL || source->absent == NULL) {
        free(described);
        return -ENOMEM;
    }
    for (size_t i = 0; i < manifest->n_tensors; i++)
        described[i] = &manifest->tensors[i];
    qsort(described, manifest->n_tensors, sizeof *described, compare_described);
    for (size_t i = 0; i < whole->n_tensors; i++) {
        const struct tp_manifest_tensor wanted = {.name = (char *)whole->tensors[i].name,
                                                  .name_length = whole->tensors[i].name_length};
        const struct tp_manifest_tensor *key = &wanted;
        if (bsearch(&key, described, manifest->n_tensors, sizeof key, compare_described) == NULL)
            source->absent[source->n_absent++] = &whole->tensors[i];
    }
    free(described);
    return 0;
}

/* ---- the view ---- */

/* A glob pattern that matches the name only. */
static char *escape_pattern(const char *name)
{
    char *pattern = malloc(2 * strlen(name) + 1), *to = pattern;
    for (; pattern != NULL && *name != '\0'; name++) {
        if (strchr("*?[]\\", *name) != NULL)
            *to++ = '\\';
        *to++ = *name;
    }
    if (pattern != NULL)
        *to = '\0';
    return pattern;
}

/* What was left out is left out again, whatever options did that. */
static int narrow(struct tp_verify_source *source, struct tp_view_options options,
                  const struct tp_log *log, struct tp_error *error)
{
    source->patterns = calloc(source->n_absent + 1, sizeof *source->patterns);
    if (source->patterns == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    for (size_t i = 0; i < source->n_absent; i++) {
        source->patterns[i] = escape_pattern(source->absent[i]->name);
        if (source->patterns[i] == NULL)
            return tp_error_set(error, -ENOMEM, "out of memory");
    }
    options.exclude = source->patterns;
    options.n_exclude = source->n_absent;
    struct tp_view *view;
    int rc = tp_view_new(source->checkpoint, &options, log, &view, error);
    if (rc == 0)
        source->view = view;
    return rc;
}

static int rename_checkpoint(struct tp_checkpoint *checkpoint, const char *name)
{
    char *copy = strdup(name);
    if (copy == NULL)
        return -ENOMEM;
    free(checkpoint->name);
    checkpoint->name = copy;
    return 0;
}

static int open_views(struct tp_verify_source *source, const struct tp_manifest *manifest,
                      const struct tp_log *log, struct tp_error *error)
{
    const struct tp_log silent = {.program = log->program, .level = TP_LOG_ERROR};
    const struct tp_view_options options = {.precision = manifest->precision,
                                            .packed = manifest->packed,
                                            .shard_size = manifest->shard_size};
    if (rename_checkpoint(source->checkpoint, manifest->source) < 0)
        return tp_error_set(error, -ENOMEM, "out of memory");
    struct tp_view *whole;
    int rc = tp_view_new(source->checkpoint, &options, &silent, &whole, error);
    if (rc < 0)
        return rc;
    source->whole = source->view = whole;
    if (find_absent(source, manifest) < 0)
        return tp_error_set(error, -ENOMEM, "out of memory");
    return source->n_absent > 0 ? narrow(source, options, &silent, error) : 0;
}

static int plan(struct tp_verify_source *source, const struct tp_manifest *manifest,
                struct tp_faults *faults, struct tp_error *error)
{
    size_t format = TP_EXPORT_NUMPY_DIRECT;
    const struct tp_view_tensor **sorted = sort_tensors(source->view);
    if (sorted == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    compare_with_view(manifest, source->view, sorted, faults);
    free(sorted);
    while (manifest->format != NULL && tp_export_format_names[format] != NULL &&
           strcmp(tp_export_format_names[format], manifest->format) != 0)
        format++;
    return tp_export_plan_new(source->view, (enum tp_export_format)format, &source->plan, error);
}

int tp_verify_source_open(const char *path, const struct tp_manifest *manifest,
                          const struct tp_log *log, struct tp_faults *faults,
                          struct tp_verify_source *ret_source, struct tp_error *error)
{
    struct tp_checkpoint *checkpoint;
    int rc = tp_checkpoint_open(path, log, &checkpoint, error);
    if (rc < 0)
        return rc;
    struct tp_verify_source source = {.checkpoint = checkpoint};
    rc = open_views(&source, manifest, log, error);
    if (rc == 0)
        rc = plan(&source, manifest, faults, error);
    if (rc < 0)
        tp_verify_source_close(&source);
    else
        *ret_source = source;
    return rc;
}

void tp_verify_source_close(struct tp_verify_source *source)
{
    if (source->checkpoint == NULL)
        return;
    tp_export_plan_clear(&source->plan);
    if (source->view != source->whole)
        tp_view_free(source->view);
    tp_view_free(source->whole);
    for (size_t i = 0; source->patterns != NULL && i < source->n_absent; i++)
        free((char *)source->patterns[i]);
    free(source->patterns);
    free(source->absent);
    tp_checkpoint_close(source->checkpoint);
    *source = (struct tp_verify_source){.n_absent = 0};
}

/* ---- what files should be ---- */

/* The manifest's path of a tensor's file, which is not the view's if the checkpoint was laid out
 * anew; NULL when the manifest has no such tensor, or a container holds it. */
static const char *described_path(const struct tp_manifest_tensor **sorted, size_t n,
                                  const struct tp_view_tensor *tensor)
{
    const struct tp_manifest_tensor wanted = {.name = (char *)tensor->name,
                                              .name_length = tensor->name_length};
    const struct tp_manifest_tensor *key = &wanted;
    const struct tp_manifest_tensor **found =
        bsearch(&key, sorted, n, sizeof key, compare_described);
    return found == NULL || (*found)->n_runs > 0 ? NULL : (*found)->file;
}

int tp_verify_source_add(const struct tp_verify_source *source, const struct tp_manifest *manifest,
                         struct tp_inventory *inventory)
{
    const struct tp_manifest_tensor **sorted = calloc(manifest->n_tensors + 1, sizeof *sorted);
    int rc = sorted == NULL ? -ENOMEM : 0;
    for (size_t i = 0; rc == 0 && i < manifest->n_tensors; i++)
        sorted[i] = &manifest->tensors[i];
    if (rc == 0)
        qsort(sorted, manifest->n_tensors, sizeof *sorted, compare_described);
    for (size_t i = 0; rc == 0 && i < source->plan.n_artifacts; i++) {
        const struct tp_artifact *artifact = &source->plan.artifacts[i];
        const char *path = NULL;
        if (artifact->n_segments == 1 && artifact->segments[0].tensor != NULL)
            path = described_path(sorted, manifest->n_tensors, artifact->segments[0].tensor);
        rc = tp_inventory_add(inventory, path != NULL ? path : artifact->path,
                              (struct tp_inventory_file){.artifact = artifact});
    }
    free(sorted);
    return rc;
}
