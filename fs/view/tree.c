#include "fs/view/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/view/statistics.h"

enum { MAIN_VIEW = 0, VIEW_BITS = 40 };
#define FILE_BASE (UINT64_C(1) << (VIEW_BITS - 1))

static const char hidden_name[] = ".tensorport";
static const char *const live_names[] = {
    [TP_NODE_STATS] = "stats.json", [TP_NODE_METRICS] = "metrics", [TP_NODE_SUMS] = "XXH3SUMS"};

/* The views below .tensorport/views; number 0 is the main one, whose options are the user's. */
static const struct {
    const char *name;
    enum tp_precision precision;
    bool packed;
} hidden_views[TP_N_VIEWS] = {
    [1] = {"float32", TP_PRECISION_FLOAT32, false},
    [2] = {"float16", TP_PRECISION_FLOAT16, false},
    [3] = {"bfloat16", TP_PRECISION_BFLOAT16, false},
    [4] = {"packed", TP_PRECISION_SOURCE, true},
};

/* An inode number taken apart. */
struct place {
    enum { PLACE_NONE, PLACE_SPECIAL, PLACE_VIEW, PLACE_SHARD, PLACE_FILE } kind;
    unsigned view;
    uint64_t number; /* of the special node, shard or file */
};

static uint64_t view_inode(unsigned view)
{
    return view == MAIN_VIEW ? TP_NODE_TOP : (uint64_t)(view + 1) << VIEW_BITS;
}

static uint64_t shard_inode(unsigned view, size_t shard)
{
    return ((uint64_t)(view + 1) << VIEW_BITS) + 1 + shard;
}

static uint64_t file_inode(unsigned view, size_t file)
{
    return ((uint64_t)(view + 1) << VIEW_BITS) + FILE_BASE + file;
}

/* ---- views ---- */

static int add_view(struct tp_tree *tree, unsigned number, struct tp_error *error)
{
    struct tp_view_options options = tree->options;
    const struct tp_log *log = tree->log;
    if (number != MAIN_VIEW) {
        options.precision = hidden_views[number].precision;
        options.packed = hidden_views[number].packed;
        log = NULL; /* the main view's warnings are enough */
    }
    struct tp_view *view;
    int rc = tp_view_new(tree->checkpoint, &options, log, &view, error);
    if (rc < 0)
        return rc;
    tree->views[number] = view;
    return 0;
}

/* The view of that number if somebody has looked it up before. */
static const struct tp_view *known_view(struct tp_tree *tree, unsigned number)
{
    pthread_mutex_lock(&tree->lock);
    const struct tp_view *view = tree->views[number];
    pthread_mutex_unlock(&tree->lock);
    return view;
}

static const struct tp_view *wanted_view(struct tp_tree *tree, unsigned number)
{
    struct tp_error error = {""};
    pthread_mutex_lock(&tree->lock);
    if (tree->views[number] == NULL && add_view(tree, number, &error) < 0)
        tp_log(tree->log, TP_LOG_ERROR, "view %s: %s", hidden_views[number].name, error.text);
    const struct tp_view *view = tree->views[number];
    pthread_mutex_unlock(&tree->lock);
    return view;
}

const struct tp_view *tp_tree_main_view(const struct tp_tree *tree)
{
    return tree->views[MAIN_VIEW]; /* there from the start */
}

/* A number is only handed out once its view is planned, so anything else was never ours. */
static struct place find_place(struct tp_tree *tree, uint64_t inode,
                               const struct tp_view **ret_view)
{
    struct place place = {.kind = PLACE_NONE};
    *ret_view = NULL;
    if (inode == TP_NODE_TOP) {
        *ret_view = tp_tree_main_view(tree);
        return (struct place){.kind = PLACE_VIEW, .view = MAIN_VIEW};
    }
    if (inode >> VIEW_BITS == 0) {
        if (inode >= TP_NODE_HIDDEN && inode <= TP_NODE_SUMS)
            place = (struct place){.kind = PLACE_SPECIAL, .number = inode};
        return place;
    }
    uint64_t number = (inode >> VIEW_BITS) - 1, rest = inode & ((UINT64_C(1) << VIEW_BITS) - 1);
    const struct tp_view *view = number < TP_N_VIEWS ? known_view(tree, (unsigned)number) : NULL;
    if (view == NULL)
        return place;
    place.view = (unsigned)number;
    *ret_view = view;
    if (rest >= FILE_BASE && rest - FILE_BASE < view->n_files) {
        place.kind = PLACE_FILE;
        place.number = rest - FILE_BASE;
    } else if (rest >= 1 && rest - 1 < view->n_shards) {
        place.kind = PLACE_SHARD;
        place.number = rest - 1;
    } else if (rest == 0 && number != MAIN_VIEW) {
        place.kind = PLACE_VIEW;
    }
    return place;
}

/* ---- attributes ---- */

static struct tp_attributes directory_attributes(const struct tp_tree *tree, uint64_t inode,
                                                 uint64_t n_subdirectories)
{
    return (struct tp_attributes){.inode = inode,
                                  .is_directory = true,
                                  .n_links = 2 + n_subdirectories,
                                  .modified = tree->checkpoint->modified};
}

static struct tp_attributes file_attributes(uint64_t inode, const struct tp_view_file *file)
{
    return (struct tp_attributes){.inode = inode,
                                  .size = tp_content_size(&file->content),
                                  .n_links = 1,
                                  .modified = file->modified};
}

static int special_attributes(struct tp_tree *tree, uint64_t inode,
                              struct tp_attributes *ret_attributes)
{
    if (inode == TP_NODE_HIDDEN || inode == TP_NODE_VIEWS) {
        *ret_attributes =
            directory_attributes(tree, inode, inode == TP_NODE_HIDDEN ? 1 : TP_N_VIEWS - 1);
        return 0;
    }
    struct tp_attributes attributes = {.inode = inode, .is_live = true, .n_links = 1};
    clock_gettime(CLOCK_REALTIME, &attributes.modified);
    if (inode == TP_NODE_SUMS) { /* its length is known without its content */
        attributes.size = tp_checksums_length(tree->checksums);
    } else {
        char *text;
        size_t length;
        int rc = tp_tree_live_text(tree, inode, &text, &length);
        if (rc < 0)
            return rc;
        free(text);
        attributes.size = length;
    }
    *ret_attributes = attributes;
    return 0;
}

int tp_tree_attributes(struct tp_tree *tree, uint64_t inode, struct tp_attributes *ret_attributes)
{
    const struct tp_view *view;
    struct place place = find_place(tree, inode, &view);
    switch (place.kind) {
    case PLACE_SPECIAL:
        return special_attributes(tree, inode, ret_attributes);
    case PLACE_VIEW:
        *ret_attributes = directory_attributes(tree, inode, view->n_shards);
        return 0;
    case PLACE_SHARD:
        *ret_attributes = directory_attributes(tree, inode, 0);
        return 0;
    case PLACE_FILE:
        *ret_attributes = file_attributes(inode, &view->files[place.number]);
        return 0;
    case PLACE_NONE:
        break;
    }
    return -ENOENT;
}

/* ---- lookup ---- */

static int lookup_special(struct tp_tree *tree, uint64_t parent, const char *name,
                          struct tp_attributes *ret_attributes)
{
    if (parent == TP_NODE_HIDDEN) {
        if (strcmp(name, "views") == 0)
            return special_attributes(tree, TP_NODE_VIEWS, ret_attributes);
        for (uint64_t node = TP_NODE_STATS; node <= TP_NODE_SUMS; node++) {
            if (strcmp(name, live_names[node]) == 0)
                return special_attributes(tree, node, ret_attributes);
        }
        return -ENOENT;
    }
    if (parent != TP_NODE_VIEWS)
        return -ENOTDIR;
    for (unsigned number = 1; number < TP_N_VIEWS; number++) {
        if (strcmp(name, hidden_views[number].name) == 0)
            return wanted_view(tree, number) == NULL
                       ? -EIO
                       : tp_tree_attributes(tree, view_inode(number), ret_attributes);
    }
    return -ENOENT;
}

static int lookup_file(const struct tp_view *view, unsigned number, int64_t shard, const char *name,
                       struct tp_attributes *ret_attributes)
{
    const struct tp_view_file *file = tp_view_find_file(view, shard, name);
    if (file == NULL)
        return -ENOENT;
    *ret_attributes = file_attributes(file_inode(number, (size_t)(file - view->files)), file);
    return 0;
}

int tp_tree_lookup(struct tp_tree *tree, uint64_t parent, const char *name,
                   struct tp_attributes *ret_attributes)
{
    const struct tp_view *view;
    struct place place = find_place(tree, parent, &view);
    switch (place.kind) {
    case PLACE_SPECIAL:
        return lookup_special(tree, parent, name, ret_attributes);
    case PLACE_VIEW: {
        if (place.view == MAIN_VIEW && strcmp(name, hidden_name) == 0)
            return special_attributes(tree, TP_NODE_HIDDEN, ret_attributes);
        int64_t shard = tp_view_find_shard(view, name);
        if (shard >= 0)
            return tp_tree_attributes(tree, shard_inode(place.view, (size_t)shard), ret_attributes);
        return lookup_file(view, place.view, TP_VIEW_TOP, name, ret_attributes);
    }
    case PLACE_SHARD:
        return lookup_file(view, place.view, (int64_t)place.number, name, ret_attributes);
    case PLACE_FILE:
        return -ENOTDIR;
    case PLACE_NONE:
        break;
    }
    return -ENOENT;
}

/* ---- listing ---- */

static int list_special(struct tp_tree *tree, uint64_t directory, uint64_t i, const char **ret_name,
                        struct tp_attributes *ret_attributes)
{
    if (directory == TP_NODE_HIDDEN && i <= TP_NODE_SUMS - TP_NODE_VIEWS) {
        uint64_t node = TP_NODE_VIEWS + i;
        *ret_name = node == TP_NODE_VIEWS ? "views" : live_names[node];
        return special_attributes(tree, node, ret_attributes);
    }
    if (directory == TP_NODE_VIEWS && i < TP_N_VIEWS - 1) {
        *ret_name = hidden_views[i + 1].name;
        return lookup_special(tree, directory, *ret_name, ret_attributes);
    }
    return directory == TP_NODE_HIDDEN || directory == TP_NODE_VIEWS ? -ENOENT : -ENOTDIR;
}

static int list_file(const struct tp_view *view, unsigned number, size_t file,
                     const char **ret_name, struct tp_attributes *ret_attributes)
{
    *ret_name = view->files[file].name;
    *ret_attributes = file_attributes(file_inode(number, file), &view->files[file]);
    return 0;
}

int tp_tree_list(struct tp_tree *tree, uint64_t directory, uint64_t i, char room[TP_SHARD_NAME_MAX],
                 const char **ret_name, struct tp_attributes *ret_attributes)
{
    const struct tp_view *view;
    struct place place = find_place(tree, directory, &view);
    switch (place.kind) {
    case PLACE_SPECIAL:
        return list_special(tree, directory, i, ret_name, ret_attributes);
    case PLACE_VIEW:
        if (i < view->n_shards) {
            tp_view_shard_name((size_t)i, room);
            *ret_name = room;
            return tp_tree_attributes(tree, shard_inode(place.view, (size_t)i), ret_attributes);
        }
        i -= view->n_shards;
        if (i >= view->n_files - view->n_tensors)
            return -ENOENT;
        return list_file(view, place.view, view->n_tensors + (size_t)i, ret_name, ret_attributes);
    case PLACE_SHARD: {
        size_t first = view->shard_first[place.number];
        if (i >= view->shard_first[place.number + 1] - first)
            return -ENOENT;
        return list_file(view, place.view, first + (size_t)i, ret_name, ret_attributes);
    }
    case PLACE_FILE:
        return -ENOTDIR;
    case PLACE_NONE:
        break;
    }
    return -ENOENT;
}

/* ---- files ---- */

int tp_tree_file(struct tp_tree *tree, uint64_t inode, const struct tp_view_file **ret_file)
{
    const struct tp_view *view;
    struct place place = find_place(tree, inode, &view);
    if (place.kind == PLACE_FILE) {
        *ret_file = &view->files[place.number];
        return 0;
    }
    if (place.kind == PLACE_NONE)
        return -ENOENT;
    return place.kind == PLACE_SPECIAL && inode >= TP_NODE_STATS ? -EINVAL : -EISDIR;
}

int tp_tree_live_text(struct tp_tree *tree, uint64_t inode, char **ret_text, size_t *ret_length)
{
    switch (inode) {
    case TP_NODE_STATS:
        return tp_statistics_json(tree, ret_text, ret_length);
    case TP_NODE_METRICS:
        return tp_statistics_prometheus(tree, ret_text, ret_length);
    case TP_NODE_SUMS:
        return tp_checksums_text(tree->checksums, ret_text, ret_length);
    default:
        return -EINVAL;
    }
}

void tp_tree_note_read(struct tp_tree *tree, uint64_t inode, uint64_t offset, size_t length)
{
    const struct tp_view *view;
    struct place place = find_place(tree, inode, &view);
    if (place.kind == PLACE_FILE && place.view == MAIN_VIEW)
        tp_checksums_note_read(tree->checksums, place.number, offset, length);
}

void tp_tree_totals(struct tp_tree *tree, uint64_t *ret_bytes, uint64_t *ret_files)
{
    const struct tp_view *view = tp_tree_main_view(tree);
    *ret_bytes = view->total_file_bytes;
    *ret_files = view->n_files + view->n_shards + 1;
}

/* ---- the whole ---- */

int tp_tree_new(const struct tp_checkpoint *checkpoint, const struct tp_view_options *options,
                const struct tp_log *log, struct tp_tree **ret_tree, struct tp_error *error)
{
    struct tp_tree *tree = calloc(1, sizeof *tree);
    if (tree == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    tree->checkpoint = checkpoint;
    tree->options = *options;
    tree->log = log;
    pthread_mutex_init(&tree->lock, NULL);
    clock_gettime(CLOCK_REALTIME, &tree->mounted);
    int rc = add_view(tree, MAIN_VIEW, error);
    if (rc == 0)
        rc = tp_checksums_new(tp_tree_main_view(tree), &tree->checksums) < 0
                 ? tp_error_set(error, -ENOMEM, "out of memory")
                 : 0;
    if (rc < 0) {
        tp_tree_free(tree);
        return rc;
    }
    *ret_tree = tree;
    return 0;
}

void tp_tree_free(struct tp_tree *tree)
{
    tp_checksums_free(tree->checksums);
    for (size_t i = 0; i < TP_N_VIEWS; i++)
        tp_view_free(tree->views[i]);
    pthread_mutex_destroy(&tree->lock);
    free(tree);
}
