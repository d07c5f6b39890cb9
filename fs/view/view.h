/* A view: the files that a checkpoint appears as, under given options.
 *
 * Plans names, shards and contents once; afterwards it is immutable and needs no lock. The
 * mount and the exports show the same view.
 */
#ifndef TENSORPORT_FS_VIEW_VIEW_H
#define TENSORPORT_FS_VIEW_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "fs/checkpoint/checkpoint.h"
#include "fs/view/content.h"

enum tp_precision {
    TP_PRECISION_FLOAT32,
    TP_PRECISION_FLOAT16,
    TP_PRECISION_BFLOAT16,
    TP_PRECISION_SOURCE,
};

/* The names for --precision and --mxfp4, NULL at the end; the latter's index is `packed`. */
extern const char *const tp_precision_names[];
extern const char *const tp_mxfp4_names[];

struct tp_view_options {
    enum tp_precision precision;
    bool packed;         /* show MXFP4 as the two stored tensors */
    uint64_t shard_size; /* bytes */
    /* Glob patterns (fnmatch) on tensor names; a pair matches by any of its three names. A
     * tensor is shown if some `include` matches, or there is none, and no `exclude` does. */
    const char *const *include;
    size_t n_include;
    const char *const *exclude;
    size_t n_exclude;
};

#define TP_SHARD_SIZE_DEFAULT UINT64_C(1800000000)

/* What is special about a file that shows a tensor. */
struct tp_view_tensor {
    const char *name; /* the true one; may contain NUL */
    size_t name_length;
    enum tp_dtype dtype;    /* as shown */
    const char *dtype_name; /* "float32" */
    size_t rank;
    const uint64_t *shape;
    const struct tp_tensor *stored;   /* NULL for a decoded pair */
    const struct tp_mxfp4_pair *pair; /* NULL for anything else */
};

enum { TP_VIEW_TOP = -1 };

struct tp_view_file {
    const char *name;
    int64_t shard; /* number of its shard_NNN, or TP_VIEW_TOP */
    struct tp_content content;
    struct timespec modified;
    const struct tp_view_tensor *tensor; /* NULL for other files */
};

struct tp_view {
    const struct tp_checkpoint *checkpoint;
    struct tp_view_options options; /* the patterns belong to the caller */

    size_t n_files;
    struct tp_view_file *files; /* tensors by shard, in checkpoint order; then the top's */
    size_t n_tensors;           /* the first so many of the files */
    struct tp_view_tensor *tensors;

    size_t n_shards;
    size_t *shard_first; /* [n_shards + 1]: where in `files` each shard begins */

    uint64_t total_size;       /* bytes of all tensors as shown, without npy headers */
    uint64_t total_parameters; /* elements of all tensors; 32 for each MXFP4 block */
    uint64_t total_file_bytes; /* of all files */

    const struct tp_view_file **by_name; /* private: [n_files] sorted by shard and name */
    char **file_names;                   /* private */
    char *heads;                         /* private: npy headers */
    char *manifest;                      /* private */
};

/* Plans the view. `checkpoint` and the patterns must outlive it. The log gets a warning if
 * tensors are larger than a shard, and for other files whose names the view needs itself. */
int tp_view_new(const struct tp_checkpoint *checkpoint, const struct tp_view_options *options,
                const struct tp_log *log, struct tp_view **ret_view, struct tp_error *error);

void tp_view_free(struct tp_view *view);

/* "shard_007" and back; the number, or -1 when no shard of the view is called so. */
enum { TP_SHARD_NAME_MAX = 32 };
void tp_view_shard_name(size_t shard, char name[TP_SHARD_NAME_MAX]);
int64_t tp_view_find_shard(const struct tp_view *view, const char *name);

/* "shard_007/x.npy", or just the name at the top: where a file is in the tree. */
enum { TP_FILE_PATH_MAX = TP_SHARD_NAME_MAX + 256 };
void tp_view_file_path(const struct tp_view_file *file, char path[TP_FILE_PATH_MAX]);

/* The file called `name` in shard `shard` (or TP_VIEW_TOP), or NULL. */
const struct tp_view_file *tp_view_find_file(const struct tp_view *view, int64_t shard,
                                             const char *name);

#endif
