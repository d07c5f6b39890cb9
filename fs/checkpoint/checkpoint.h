/* A checkpoint as it lies on disk: its shards, tensors and other files.
 *
 * Opening reads and validates every header and touches no payload. Afterwards the checkpoint
 * is immutable and may be used by any number of threads. Sources are
 *
 *   a folder with model.safetensors.index.json and the shards it names,
 *   a folder with one model.safetensors, or with any *.safetensors files and no index,
 *   one *.safetensors file, or one *.safetensors.index.json.
 *
 * In place of each NAME.safetensors there may be a packed file NAME.safetensors.tpk; the index
 * and everything that reads the checkpoint go on calling it NAME.safetensors.
 */
#ifndef TENSORPORT_FS_CHECKPOINT_CHECKPOINT_H
#define TENSORPORT_FS_CHECKPOINT_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "decode/dtype.h"
#include "decode/error.h"
#include "fs/base/log.h"
#include "fs/checkpoint/source.h"

/* A stored tensor. */
struct tp_tensor {
    const char *name; /* UTF-8, may contain NUL; NUL-terminated too */
    size_t name_length;
    enum tp_dtype dtype;
    size_t rank;
    const uint64_t *shape; /* [rank] */
    uint64_t elements;
    uint64_t offset; /* in the shard file */
    uint64_t nbytes;
    struct tp_source *shard;
};

/* MXFP4: `blocks` U8 [..., G, 16] and `scales` U8 [..., G] hold a tensor [..., 32 * G]. */
struct tp_mxfp4_pair {
    const struct tp_tensor *blocks;
    const struct tp_tensor *scales;
    const char *name; /* of the blocks without "_blocks"; not NUL-terminated */
    size_t name_length;
    size_t rank;
    const uint64_t *shape; /* [rank], decoded */
    uint64_t elements;
};

struct tp_checkpoint {
    char *path; /* resolved: the folder or file given */
    char *name; /* the last part of it */
    int directory;

    size_t n_shards;
    struct tp_source *shards; /* sorted by name */

    size_t n_tensors;
    struct tp_tensor *tensors; /* by shard, then offset */

    size_t n_pairs;
    struct tp_mxfp4_pair *pairs; /* in the order of their blocks */
    /* For each tensor its pair, or NULL: [n_tensors]. */
    const struct tp_mxfp4_pair **pair_of;

    size_t n_others;
    struct tp_source *others; /* the folder's other regular files, sorted by name */

    struct tp_blocks *blocks; /* of its packed files; NULL: it has none */

    struct timespec modified; /* the youngest shard's */
    void **headers;           /* storage of names and shapes, private */
};

/* Opens `path`. Faults of the checkpoint: a negative errno and a message with file, tensor,
 * expected and found. `log` receives warnings now and faults of the sources later; it must
 * outlive the checkpoint. */
int tp_checkpoint_open(const char *path, const struct tp_log *log,
                       struct tp_checkpoint **ret_checkpoint, struct tp_error *error);

void tp_checkpoint_close(struct tp_checkpoint *checkpoint);

/* Sets the bytes of the cache of unpacked blocks, 32 MiB at first; nothing happens if no file is
 * packed. No read may be in progress. -ENOMEM: there is no cache then. */
int tp_checkpoint_cache_blocks(struct tp_checkpoint *checkpoint, size_t capacity);

#endif
