/* A file that an export writes: pieces of memory and of the view, one after the other.
 *
 *     [ npy header and data of a tensor ]                             numpy-direct
 *     [ header ][ data of a tensor ][ data of the next ] ...          containers
 *
 * The bytes of an artifact are a function of the checkpoint and the options. Any range of them can
 * be made at any time, by any thread: to write it, to compare it with what is on disk, or to make
 * it again after a crash.
 */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_ARTIFACT_H
#define TENSORPORT_FS_EXPORT_CONVERT_ARTIFACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/view/content.h"
#include "fs/view/view.h"

enum tp_segment_kind {
    TP_SEGMENT_BYTES,      /* memory of the artifact's */
    TP_SEGMENT_CONTENT,    /* a range of a file of the view */
    TP_SEGMENT_TRANSPOSED, /* an MXFP4 pair [..., rows, columns] decoded as [..., columns, rows] */
    TP_SEGMENT_BLOCKS,     /* a tensor quantised to MXFP4: fs/export/convert/quantize.h */
    TP_SEGMENT_SCALES,
};

struct tp_quantized_tensor;

/* What quantising loses: sums of squares, and the largest magnitudes. */
struct tp_quantize_sums {
    double signal, noise; /* of values, and of errors */
    double largest, largest_error;
};

struct tp_segment {
    enum tp_segment_kind kind;
    uint64_t start; /* in the artifact */
    uint64_t length;
    char *bytes;
    const struct tp_content *content;
    uint64_t offset; /* in the content's file; TRANSPOSED shows all of the data */
    uint64_t rows, columns;
    struct tp_quantized_tensor *quantized; /* of BLOCKS and SCALES */
    const struct tp_view_tensor *tensor;   /* what it belongs to, for the progress; or NULL */
};

struct tp_artifact {
    char *path; /* relative to the output folder: "shard_000/x.npy" */
    uint64_t size;
    bool by_segments; /* the writer's pieces end where segments do */
    size_t n_segments;
    struct tp_segment *segments;
};

/* A thread's room for what it makes ranges from; zeroed at first. It remembers what it holds, so
 * ranges made in order cost the least. */
struct tp_artifact_scratch {
    size_t panel_max; /* most bytes of blocks to hold of a matrix; 0: the default, 16 MiB */

    const struct tp_segment *segment; /* whose matrix is held; NULL: none */
    uint64_t matrix;                  /* which of its matrices */
    uint64_t panel;                   /* which part of it, if it is larger than panel_max */
    uint8_t *blocks, *scales;         /* the part as stored */
    size_t block_capacity, scale_capacity;
    bool has_strip;
    uint64_t strip; /* which 32 columns of the matrix are decoded */
    uint8_t *strip_bytes;
    size_t strip_capacity;

    struct tp_quantize_sums sums; /* of the last range of blocks */
    uint64_t unfit;               /* after -EDOM: the value that cannot be quantised */
};

void tp_artifact_scratch_clear(struct tp_artifact_scratch *scratch);

/* Each adds to the end. `tensor` may be NULL. -ENOMEM. */
int tp_artifact_add_bytes(struct tp_artifact *artifact, const void *bytes, size_t length);
int tp_artifact_add_content(struct tp_artifact *artifact, const struct tp_content *content,
                            uint64_t offset, uint64_t length, const struct tp_view_tensor *tensor);
/* All data of an MXFP4 content whose last two dimensions are rows and columns. */
int tp_artifact_add_transposed(struct tp_artifact *artifact, const struct tp_content *content,
                               uint64_t rows, uint64_t columns,
                               const struct tp_view_tensor *tensor);

/* The blocks of a quantised tensor, or its scales. */
int tp_artifact_add_quantized(struct tp_artifact *artifact, enum tp_segment_kind kind,
                              struct tp_quantized_tensor *quantized, uint64_t length,
                              const struct tp_view_tensor *tensor);

/* Makes the bytes [offset, offset + length), which lie inside the artifact. -EIO when a source is
 * not what it was, -ENOMEM; -EDOM when it cannot be quantised, see tp_quantize_read(). */
int tp_artifact_read(const struct tp_artifact *artifact, uint64_t offset, size_t length,
                     void *target, struct tp_artifact_scratch *scratch);

/* The segment that holds byte `offset`. */
const struct tp_segment *tp_artifact_segment(const struct tp_artifact *artifact, uint64_t offset);

/* What a folder will hold when the export is done. */
struct tp_export_plan {
    const struct tp_view *view;
    size_t n_artifacts;
    struct tp_artifact *artifacts; /* in the order in which they are written */
    uint64_t total;                /* bytes of all of them */
};

/* Adds an empty artifact. Pointers to others of the plan are invalid afterwards. -ENOMEM. */
int tp_export_plan_add(struct tp_export_plan *plan, const char *path,
                       struct tp_artifact **ret_artifact);

/* Sums up, when all artifacts are whole. */
void tp_export_plan_finish(struct tp_export_plan *plan);

void tp_export_plan_clear(struct tp_export_plan *plan);

#endif
