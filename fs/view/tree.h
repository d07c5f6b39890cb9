/* The whole mounted tree, without a word of FUSE.
 *
 *     /                         the view asked for: shard_NNN, manifest.json, other files
 *     /.tensorport/             found by name, never listed
 *         views/NAME/           the other views, planned when first looked up
 *         stats.json metrics XXH3SUMS    made when they are opened
 *
 * Inode numbers are made of the place in the tree, so they are the same in every mount of the
 * same source with the same options:
 *
 *     1, 2, 3, ...              the top and what lies in .tensorport
 *     (view + 1) << 40          a view's top (the main view's is 1)
 *       + 1 + s                 its shard s
 *       + (1 << 39) + f         its file f
 */
#ifndef TENSORPORT_FS_VIEW_TREE_H
#define TENSORPORT_FS_VIEW_TREE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "fs/base/log.h"
#include "fs/view/checksums.h"
#include "fs/view/reader.h"
#include "fs/view/view.h"

enum {
    TP_NODE_TOP = 1,
    TP_NODE_HIDDEN,  /* .tensorport */
    TP_NODE_VIEWS,   /* .tensorport/views */
    TP_NODE_STATS,   /* .tensorport/stats.json */
    TP_NODE_METRICS, /* .tensorport/metrics */
    TP_NODE_SUMS,    /* .tensorport/XXH3SUMS */
};

enum { TP_N_VIEWS = 5 }; /* the main one and the four of .tensorport/views */

/* What the counters of a mount count. */
struct tp_activity {
    _Atomic uint64_t opens, reads, bytes_read, read_errors, lookups;
    _Atomic uint64_t open_files; /* now */
};

struct tp_tree {
    const struct tp_checkpoint *checkpoint;
    struct tp_view_options options;
    const struct tp_log *log;
    struct tp_reading reading; /* set by the owner before anything is read */
    const char *features;      /* how the tree is served, for the statistics; the owner's */
    struct tp_activity activity;
    struct timespec mounted;
    struct tp_checksums *checksums;

    pthread_mutex_t lock;              /* protects the following */
    struct tp_view *views[TP_N_VIEWS]; /* NULL until wanted; never changed afterwards */
};

struct tp_attributes {
    uint64_t inode;
    bool is_directory;
    bool is_live; /* made anew at each open: must not be cached */
    uint64_t size;
    uint64_t n_links;
    struct timespec modified;
};

/* Plans the main view. `checkpoint`, the patterns of `options` and `log` must outlive the
 * tree. */
int tp_tree_new(const struct tp_checkpoint *checkpoint, const struct tp_view_options *options,
                const struct tp_log *log, struct tp_tree **ret_tree, struct tp_error *error);
void tp_tree_free(struct tp_tree *tree);

const struct tp_view *tp_tree_main_view(const struct tp_tree *tree);

/* -ENOENT, -ENOTDIR. */
int tp_tree_lookup(struct tp_tree *tree, uint64_t parent, const char *name,
                   struct tp_attributes *ret_attributes);
int tp_tree_attributes(struct tp_tree *tree, uint64_t inode, struct tp_attributes *ret_attributes);

/* Entry `i` of a directory; `name` lies in the tree or in `room`. -ENOENT after the last. */
int tp_tree_list(struct tp_tree *tree, uint64_t directory, uint64_t i, char room[TP_SHARD_NAME_MAX],
                 const char **ret_name, struct tp_attributes *ret_attributes);

/* The file behind an inode; -EISDIR, -ENOENT, and -EINVAL for a live one. */
int tp_tree_file(struct tp_tree *tree, uint64_t inode, const struct tp_view_file **ret_file);

/* The text of a live file as of now; the caller frees it. -ENOMEM, -EIO. */
int tp_tree_live_text(struct tp_tree *tree, uint64_t inode, char **ret_text, size_t *ret_length);

/* Notes that bytes of a file were delivered. */
void tp_tree_note_read(struct tp_tree *tree, uint64_t inode, uint64_t offset, size_t length);

/* Extended attributes, for fs/view/xattr.c's names. The caller frees the value, which has no
 * NUL at its end. -ENODATA, -ENOMEM. */
extern const char tp_xattr_names[]; /* one after the other, as listxattr(2) gives them */
extern const size_t tp_xattr_names_length;
int tp_tree_xattr(struct tp_tree *tree, uint64_t inode, const char *name, char **ret_value,
                  size_t *ret_length);

/* Totals for statfs: bytes and number of all files of the main view. */
void tp_tree_totals(struct tp_tree *tree, uint64_t *ret_bytes, uint64_t *ret_files);

#endif
