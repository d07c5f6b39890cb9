/* What the tensors of a manifest have to agree on: names, files, shards, totals. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "decode/npy.h"
#include "fs/base/bytes.h"
#include "fs/export/verify/manifest_read.h"
#include "fs/view/names.h"

static const char manifest_name[] = "manifest.json";

static int compare_names(const void *a, const void *b)
{
    const struct tp_manifest_tensor *left = *(const struct tp_manifest_tensor *const *)a;
    const struct tp_manifest_tensor *right = *(const struct tp_manifest_tensor *const *)b;
    return tp_bytes_compare(left->name, left->name_length, right->name, right->name_length);
}

static int compare_files(const void *a, const void *b)
{
    const struct tp_manifest_tensor *left = *(const struct tp_manifest_tensor *const *)a;
    const struct tp_manifest_tensor *right = *(const struct tp_manifest_tensor *const *)b;
    return strcmp(left->file, right->file);
}

static void check_names(const struct tp_manifest_tensor **sorted, size_t n,
                        struct tp_faults *faults)
{
    qsort(sorted, n, sizeof *sorted, compare_names);
    for (size_t i = 1; i < n; i++) {
        if (compare_names(&sorted[i - 1], &sorted[i]) == 0)
            tp_faults_add(faults, TP_FAULT_MANIFEST, manifest_name,
                          "two tensors are called \"%.*s\"",
                          tp_bytes_shown(sorted[i]->name, sorted[i]->name_length), sorted[i]->name);
    }
}

static void check_files(const struct tp_manifest_tensor **sorted, size_t n,
                        struct tp_faults *faults)
{
    qsort(sorted, n, sizeof *sorted, compare_files);
    for (size_t i = 1; i < n; i++) {
        if (compare_files(&sorted[i - 1], &sorted[i]) == 0)
            tp_faults_add(faults, TP_FAULT_MANIFEST, manifest_name, "two tensors are in %.300s",
                          sorted[i]->file);
    }
}

/* Whether the file is called as fs/view/names.h would call it, alone or among names that collide.
 */
static bool is_named_after(const struct tp_manifest_tensor *tensor, bool *ret_is)
{
    enum { ROUNDS = 8 }; /* more than even an adversary's names take */
    const struct tp_name name = {tensor->name, tensor->name_length};
    const char *slash = strrchr(tensor->file, '/'),
               *file = slash == NULL ? tensor->file : slash + 1;
    char **made;
    if (tp_names_make(&name, 1, &made) < 0)
        return false;
    *ret_is = strcmp(made[0], file) == 0;
    free(made);
    for (uint64_t round = 0; !*ret_is && round < ROUNDS; round++) {
        char end[32];
        snprintf(end, sizeof end, "~%016llx.npy",
                 (unsigned long long)XXH3_64bits_withSeed(name.text, name.length, round));
        *ret_is = tp_bytes_end_with(file, strlen(file), end);
    }
    return true;
}

static int check_file_names(const struct tp_manifest *manifest, struct tp_faults *faults)
{
    for (size_t i = 0; i < manifest->n_tensors; i++) {
        const struct tp_manifest_tensor *tensor = &manifest->tensors[i];
        bool is;
        if (!is_named_after(tensor, &is))
            return -ENOMEM;
        if (!is)
            tp_faults_add(faults, TP_FAULT_MANIFEST, manifest_name,
                          "tensors[%zu]: file: %.300s is not called after the tensor \"%.*s\"", i,
                          tensor->file, tp_bytes_shown(tensor->name, tensor->name_length),
                          tensor->name);
    }
    return 0;
}

/* Files fill shards in order, as fs/view/view.c has them do it. */
static void check_shards(const struct tp_manifest *manifest, struct tp_faults *faults)
{
    uint64_t in_shard = 0;
    size_t shard = 0;
    for (size_t i = 0; i < manifest->n_tensors; i++) {
        const struct tp_manifest_tensor *tensor = &manifest->tensors[i];
        char folder[TP_SHARD_NAME_MAX];
        uint64_t size;
        if (__builtin_add_overflow(tensor->nbytes,
                                   tp_npy_header_length(tensor->dtype, tensor->shape, tensor->rank),
                                   &size))
            size = UINT64_MAX;
        if (i > 0 && (in_shard > manifest->shard_size || size > manifest->shard_size - in_shard)) {
            shard++;
            in_shard = 0;
        }
        if (__builtin_add_overflow(in_shard, size, &in_shard))
            in_shard = UINT64_MAX;
        tp_view_shard_name(shard, folder);
        size_t length = strlen(folder);
        if (strncmp(tensor->file, folder, length) != 0 || tensor->file[length] != '/' ||
            !tp_bytes_end_with(tensor->file, strlen(tensor->file), ".npy")) {
            tp_faults_add(faults, TP_FAULT_MANIFEST, manifest_name,
                          "tensors[%zu]: file: expected a .npy file in %s, by shard_size, found "
                          "%.300s",
                          i, folder, tensor->file);
            return; /* those that follow would repeat it */
        }
    }
}

/* True for half of a pair that is shown as stored. */
static bool is_half(const struct tp_manifest_tensor **sorted, size_t n,
                    const struct tp_manifest_tensor *tensor, const char *suffix, const char *other)
{
    const size_t suffix_length = strlen(suffix), other_length = strlen(other);
    if (!tp_bytes_end_with(tensor->name, tensor->name_length, suffix) || tensor->dtype != TP_U8)
        return false;
    size_t stem = tensor->name_length - suffix_length;
    struct tp_manifest_tensor wanted = {.name = malloc(stem + other_length + 1),
                                        .name_length = stem + other_length};
    const struct tp_manifest_tensor *key = &wanted, **found = NULL;
    if (wanted.name != NULL) {
        memcpy(wanted.name, tensor->name, stem);
        memcpy(wanted.name + stem, other, other_length);
        found = bsearch(&key, sorted, n, sizeof *sorted, compare_names);
        free(wanted.name);
    }
    if (found == NULL || (*found)->dtype != TP_U8)
        return false;
    const struct tp_manifest_tensor *blocks = suffix[1] == 'b' ? tensor : *found;
    const struct tp_manifest_tensor *scales = suffix[1] == 'b' ? *found : tensor;
    return blocks->rank == scales->rank + 1 && blocks->rank >= 2 &&
           blocks->shape[scales->rank] == 16 &&
           memcmp(blocks->shape, scales->shape, scales->rank * sizeof *scales->shape) == 0;
}

/* `sorted` by name. */
static void check_totals(const struct tp_manifest *manifest,
                         const struct tp_manifest_tensor **sorted, struct tp_faults *faults)
{
    uint64_t bytes = 0, parameters = 0;
    const size_t n = manifest->n_tensors;
    bool fits = true;
    for (size_t i = 0; i < n; i++) {
        const struct tp_manifest_tensor *tensor = &manifest->tensors[i];
        uint64_t count = tensor->elements;
        if (manifest->packed && is_half(sorted, n, tensor, "_blocks", "_scales"))
            count = 2 * tensor->elements;
        else if (manifest->packed && is_half(sorted, n, tensor, "_scales", "_blocks"))
            count = 0;
        fits = fits && !__builtin_add_overflow(bytes, tensor->nbytes, &bytes) &&
               !__builtin_add_overflow(parameters, count, &parameters);
    }
    if (!fits || bytes != manifest->total_size)
        tp_faults_add(faults, TP_FAULT_MANIFEST, manifest_name,
                      "total_size: expected %" PRIu64 " by the tensors, found %" PRIu64, bytes,
                      manifest->total_size);
    if (!fits || parameters != manifest->total_parameters)
        tp_faults_add(faults, TP_FAULT_MANIFEST, manifest_name,
                      "total_parameters: expected %" PRIu64 " by the tensors, found %" PRIu64,
                      parameters, manifest->total_parameters);
}

/* Tensors have files of their own, or a place in one. */
static void check_places(const struct tp_manifest *manifest, bool in_containers,
                         struct tp_faults *faults)
{
    for (size_t i = 0; i < manifest->n_tensors; i++) {
        if ((manifest->tensors[i].n_runs > 0) != in_containers)
            tp_faults_add(faults, TP_FAULT_MANIFEST, manifest_name,
                          in_containers ? "tensors[%zu]: offset: is missing"
                                        : "tensors[%zu]: offset: a .npy file has none",
                          i);
    }
}

/* ---- containers ---- */

struct place {
    const struct tp_manifest_tensor *tensor;
    uint64_t offset, nbytes;
};

static int compare_places(const void *a, const void *b)
{
    const struct place *left = a, *right = b;
    int order = strcmp(left->tensor->file, right->tensor->file);
    if (order != 0 || left->offset == right->offset)
        return order;
    return left->offset < right->offset ? -1 : 1;
}

/* All runs of bytes that are not empty; the caller frees them. NULL: no memory. */
static struct place *list_places(const struct tp_manifest *manifest, size_t *ret_n)
{
    size_t n = 0, at = 0;
    for (size_t i = 0; i < manifest->n_tensors; i++)
        n += manifest->tensors[i].n_runs;
    struct place *places = calloc(n + 1, sizeof *places);
    for (size_t i = 0; places != NULL && i < manifest->n_tensors; i++) {
        const struct tp_manifest_tensor *tensor = &manifest->tensors[i];
        for (size_t j = 0; j < tensor->n_runs; j++) {
            if (tensor->runs[j].nbytes > 0)
                places[at++] =
                    (struct place){tensor, tensor->runs[j].offset, tensor->runs[j].nbytes};
        }
    }
    *ret_n = at;
    return places;
}

static int check_overlaps(const struct tp_manifest *manifest, struct tp_faults *faults)
{
    size_t n;
    struct place *places = list_places(manifest, &n);
    if (places == NULL)
        return -ENOMEM;
    qsort(places, n, sizeof *places, compare_places);
    for (size_t i = 1; i < n; i++) {
        const struct place *before = &places[i - 1], *place = &places[i];
        if (strcmp(before->tensor->file, place->tensor->file) == 0 &&
            place->offset - before->offset < before->nbytes)
            tp_faults_add(faults, TP_FAULT_MANIFEST, manifest_name,
                          "tensors \"%.*s\" and \"%.*s\" overlap at byte %" PRIu64 " of %.200s",
                          tp_bytes_shown(before->tensor->name, before->tensor->name_length),
                          before->tensor->name,
                          tp_bytes_shown(place->tensor->name, place->tensor->name_length),
                          place->tensor->name, place->offset, place->tensor->file);
    }
    free(places);
    return 0;
}

int tp_manifest_check(const struct tp_manifest *manifest, struct tp_faults *faults)
{
    const size_t n = manifest->n_tensors;
    const bool in_containers =
        manifest->format != NULL && strcmp(manifest->format, "numpy-direct") != 0;
    const struct tp_manifest_tensor **sorted = calloc(n + 1, sizeof *sorted);
    if (sorted == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        sorted[i] = &manifest->tensors[i];
    if (!in_containers)
        check_files(sorted, n, faults);
    check_names(sorted, n, faults);
    check_totals(manifest, sorted, faults);
    check_places(manifest, in_containers, faults);
    int rc = in_containers ? check_overlaps(manifest, faults) : check_file_names(manifest, faults);
    if (!in_containers)
        check_shards(manifest, faults);
    free(sorted);
    return rc;
}
