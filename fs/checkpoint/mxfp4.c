#include "fs/checkpoint/mxfp4.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode/codec.h"
#include "fs/base/bytes.h"

static const char blocks_suffix[] = "_blocks";
static const char scales_suffix[] = "_scales";
enum { SUFFIX_LENGTH = sizeof blocks_suffix - 1 }; /* of either */

static int compare_names(const void *a, const void *b)
{
    const struct tp_tensor *left = *(const struct tp_tensor *const *)a;
    const struct tp_tensor *right = *(const struct tp_tensor *const *)b;
    return tp_bytes_compare(left->name, left->name_length, right->name, right->name_length);
}

/* The tensors of a checkpoint by name. */
struct name_table {
    size_t n;
    const struct tp_tensor **tensors;
};

static const struct tp_tensor *find(const struct name_table *table, const char *name, size_t length)
{
    struct tp_tensor wanted = {.name = name, .name_length = length};
    const struct tp_tensor *key = &wanted;
    const struct tp_tensor **found =
        bsearch(&key, table->tensors, table->n, sizeof key, compare_names);
    return found == NULL ? NULL : *found;
}

/* The tensor named like `tensor` with another suffix; "" asks for the bare name. */
static const struct tp_tensor *find_sibling(const struct name_table *table,
                                            const struct tp_tensor *tensor, const char *suffix)
{
    size_t stem = tensor->name_length - SUFFIX_LENGTH, length = stem + strlen(suffix);
    char *name = malloc(length + 1);
    if (name == NULL)
        return NULL;
    memcpy(name, tensor->name, stem);
    memcpy(name + stem, suffix, strlen(suffix));
    const struct tp_tensor *found = find(table, name, length);
    free(name);
    return found;
}

static void format_shape(const struct tp_tensor *tensor, char *text, size_t size)
{
    size_t at = (size_t)snprintf(text, size, "%s [", tp_dtype_name(tensor->dtype));
    for (size_t i = 0; i < tensor->rank && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%llu", i == 0 ? "" : ", ",
                               (unsigned long long)tensor->shape[i]);
    if (at < size)
        snprintf(text + at, size - at, "]");
}

static bool shapes_fit(const struct tp_tensor *blocks, const struct tp_tensor *scales)
{
    return blocks->dtype == TP_U8 && scales->dtype == TP_U8 && blocks->rank >= 2 &&
           scales->rank == blocks->rank - 1 &&
           blocks->shape[blocks->rank - 1] == TP_MXFP4_BLOCK_BYTES &&
           memcmp(blocks->shape, scales->shape, scales->rank * sizeof *scales->shape) == 0;
}

/* Says why blocks and scales are no pair; `scales` or `blocks` may be missing. */
static int say_misfit(const struct tp_tensor *blocks, const struct tp_tensor *scales,
                      const struct tp_tensor *decoded, struct tp_error *error)
{
    const struct tp_tensor *present = blocks != NULL ? blocks : scales;
    int stem = tp_bytes_shown(present->name, present->name_length - SUFFIX_LENGTH);
    if (blocks == NULL || scales == NULL)
        return tp_error_set(error, -EINVAL,
                            "%s: tensor \"%.*s%s\": its MXFP4 partner \"%.*s%s\" is missing",
                            present->shard->name, stem, present->name,
                            blocks != NULL ? blocks_suffix : scales_suffix, stem, present->name,
                            blocks != NULL ? scales_suffix : blocks_suffix);
    if (decoded != NULL)
        return tp_error_set(error, -EINVAL,
                            "%s: tensor \"%.*s\" is stored both plainly and as MXFP4 blocks",
                            decoded->shard->name, stem, present->name);
    char blocks_text[160], scales_text[160];
    format_shape(blocks, blocks_text, sizeof blocks_text);
    format_shape(scales, scales_text, sizeof scales_text);
    return tp_error_set(error, -EINVAL,
                        "%s: tensor \"%.*s\": expected MXFP4 blocks U8 [..., G, 16] and scales "
                        "U8 [..., G], found %s and %s",
                        blocks->shard->name, stem, present->name, blocks_text, scales_text);
}

static int add_pair(struct tp_checkpoint *checkpoint, const struct tp_tensor *blocks,
                    const struct tp_tensor *scales, struct tp_error *error)
{
    uint64_t *shape = calloc(scales->rank + 1, sizeof *shape);
    if (shape == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    memcpy(shape, scales->shape, scales->rank * sizeof *shape);
    struct tp_mxfp4_pair *pair = &checkpoint->pairs[checkpoint->n_pairs];
    *pair = (struct tp_mxfp4_pair){
        .blocks = blocks,
        .scales = scales,
        .name = blocks->name,
        .name_length = blocks->name_length - SUFFIX_LENGTH,
        .rank = scales->rank,
        .shape = shape,
    };
    checkpoint->n_pairs++;
    /* Only an empty tensor can have dimensions that overflow here: its G is made up. */
    if (__builtin_mul_overflow(shape[pair->rank - 1], (uint64_t)TP_MXFP4_BLOCK_ELEMENTS,
                               &shape[pair->rank - 1]) ||
        !tp_shape_elements(shape, pair->rank, &pair->elements))
        return tp_error_set(
            error, -EOVERFLOW, "%s: tensor \"%.*s\": its decoded shape overflows 64 bits",
            blocks->shard->name, tp_bytes_shown(pair->name, pair->name_length), pair->name);
    checkpoint->pair_of[blocks - checkpoint->tensors] = pair;
    checkpoint->pair_of[scales - checkpoint->tensors] = pair;
    return 0;
}

/* Takes one tensor that may be half of a pair. `n_misfits` counts those that are not, and
 * `error` keeps the message of the first. */
static int consider(struct tp_checkpoint *checkpoint, const struct name_table *table,
                    const struct tp_tensor *tensor, bool strict, size_t *n_misfits,
                    struct tp_error *error)
{
    bool is_blocks = tp_bytes_end_with(tensor->name, tensor->name_length, blocks_suffix);
    bool is_scales = tp_bytes_end_with(tensor->name, tensor->name_length, scales_suffix);
    if (!is_blocks && !is_scales)
        return 0;
    const struct tp_tensor *partner =
        find_sibling(table, tensor, is_blocks ? scales_suffix : blocks_suffix);
    const struct tp_tensor *decoded = find_sibling(table, tensor, "");
    if (is_scales && partner != NULL)
        return 0; /* the blocks' turn settles it */
    if (is_blocks && partner != NULL && decoded == NULL && shapes_fit(tensor, partner))
        return add_pair(checkpoint, tensor, partner, error);
    if (strict || *n_misfits == 0)
        say_misfit(is_blocks ? tensor : NULL, is_scales ? tensor : partner, decoded, error);
    ++*n_misfits;
    return strict ? -EINVAL : 0;
}

static int find_pairs(struct tp_checkpoint *checkpoint, const struct name_table *table, bool strict,
                      const struct tp_log *log, struct tp_error *error)
{
    struct tp_error misfit = {""};
    size_t n_misfits = 0;
    for (size_t i = 0; i < checkpoint->n_tensors; i++) {
        int rc = consider(checkpoint, table, &checkpoint->tensors[i], strict, &n_misfits, &misfit);
        if (rc < 0) {
            if (error != NULL)
                *error = misfit;
            return rc;
        }
    }
    if (n_misfits == 1)
        tp_log(log, TP_LOG_WARNING, "%s; shown as stored", misfit.text);
    else if (n_misfits > 1)
        tp_log(log, TP_LOG_WARNING, "%s; shown as stored, like %zu more", misfit.text,
               n_misfits - 1);
    return 0;
}

int tp_mxfp4_find_pairs(struct tp_checkpoint *checkpoint, bool strict, const struct tp_log *log,
                        struct tp_error *error)
{
    size_t n = checkpoint->n_tensors;
    struct name_table table = {n, calloc(n + 1, sizeof *table.tensors)};
    checkpoint->pairs = calloc(n / 2 + 1, sizeof *checkpoint->pairs);
    checkpoint->pair_of = calloc(n + 1, sizeof *checkpoint->pair_of);
    int rc;
    if (table.tensors == NULL || checkpoint->pairs == NULL || checkpoint->pair_of == NULL) {
        rc = tp_error_set(error, -ENOMEM, "out of memory");
    } else {
        for (size_t i = 0; i < n; i++)
            table.tensors[i] = &checkpoint->tensors[i];
        qsort(table.tensors, n, sizeof *table.tensors, compare_names);
        rc = find_pairs(checkpoint, &table, strict, log, error);
    }
    free(table.tensors);
    return rc;
}
