/* Reads manifest.json of a folder that is to be checked: nothing in it is trusted. Schema:
 * tensorport-manifest(5). */
#ifndef TENSORPORT_FS_EXPORT_VERIFY_MANIFEST_READ_H
#define TENSORPORT_FS_EXPORT_VERIFY_MANIFEST_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/dtype.h"
#include "fs/export/verify/faults.h"
#include "fs/view/view.h"

/* Bytes of a stored tensor, as the manifest describes them. */
struct tp_manifest_stored {
    enum tp_dtype dtype;
    uint64_t nbytes;
};

struct tp_manifest_bytes {
    uint64_t offset, nbytes;
};

struct tp_manifest_tensor {
    char *name; /* may contain NUL; NUL-terminated */
    size_t name_length;
    char *file; /* safe: relative, at most one folder, no "..", no NUL */
    size_t rank;
    uint64_t *shape;
    enum tp_dtype dtype;
    uint64_t elements, nbytes;
    size_t n_runs; /* where it lies in a container; 0: it has its own .npy file */
    struct tp_manifest_bytes *runs;
    bool transposed;
    bool quantized;                   /* blocks or scales of: */
    bool is_pair;                     /* decoded from: */
    struct tp_manifest_stored stored; /* the stored tensor or the blocks */
    struct tp_manifest_stored scales;
};

struct tp_manifest {
    char *source; /* NULL if there is none to speak of */
    char *format; /* NULL for numpy-direct */
    enum tp_precision precision;
    bool packed;
    uint64_t shard_size, total_size, total_parameters;
    size_t n_tensors; /* only those without a fault */
    struct tp_manifest_tensor *tensors;
    bool quantized; /* some tensors are */
    bool whole;     /* nothing is wrong with it: it can be compared with a checkpoint */
};

/* Reads and checks the text; what is wrong goes to `faults`. The manifest is to be cleared in any
 * case. -EINVAL: not to be used at all; -ENOMEM. */
int tp_manifest_read(const char *text, size_t length, struct tp_faults *faults,
                     struct tp_manifest *ret_manifest);

void tp_manifest_clear(struct tp_manifest *manifest);

/* True for a path that stays in the folder: relative, one folder at most, no empty part, no "."
 * and "..". */
bool tp_manifest_path_is_safe(const char *path);

/* How the tensors contradict each other and the totals; called by tp_manifest_read(). */
int tp_manifest_check(const struct tp_manifest *manifest, struct tp_faults *faults);

#endif
