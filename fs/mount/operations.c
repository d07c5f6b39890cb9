#include "fs/mount/operations.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    FOREVER = 365 * 24 * 3600, /* seconds: nothing in the tree ever changes */
    BLOCK_SIZE = 128 << 10,    /* what cp and Python take as the size of their buffers */
    MAX_BACKGROUND = 64,
    FIRST_BUFFER = 1 << 20, /* the longest request of today's kernels */
};

/* Buffered, the kernel reads ahead 128 KiB whatever INIT says; with this many KiB its requests
 * are long and several are on their way (see bench/). */
static const char read_ahead_kb[] = "8192";

/* An open file: a reader, or the text of a live file as of its opening. Counted, because the
 * kernel may release the file as soon as it has an answer, while the thread that gave the
 * answer still holds the tiles it came from. */
struct handle {
    atomic_uint references;
    struct tp_link link; /* in the mount's list while the file is open */
    struct tp_reader *reader;
    uint64_t size;
    char *text;
};

static struct tp_mount *mount_of(fuse_req_t request)
{
    return fuse_req_userdata(request);
}

static struct handle *handle_of(const struct fuse_file_info *info)
{
    return (struct handle *)(uintptr_t)info->fh;
}

static void note_use(struct tp_mount *mount)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    atomic_store_explicit(&mount->last_used, now.tv_sec, memory_order_relaxed);
}

static void fill_stat(const struct tp_mount *mount, const struct tp_attributes *attributes,
                      struct stat *ret_status)
{
    *ret_status = (struct stat){
        .st_ino = attributes->inode,
        .st_mode = attributes->is_directory ? S_IFDIR | 0555 : S_IFREG | 0444,
        .st_nlink = attributes->n_links,
        .st_uid = mount->user,
        .st_gid = mount->group,
        .st_size = (off_t)attributes->size,
        .st_blksize = BLOCK_SIZE,
        .st_blocks = (blkcnt_t)((attributes->size + 511) / 512),
        .st_atim = attributes->modified,
        .st_mtim = attributes->modified,
        .st_ctim = attributes->modified,
    };
}

static struct fuse_entry_param make_entry(const struct tp_mount *mount,
                                          const struct tp_attributes *attributes)
{
    struct fuse_entry_param entry = {
        .ino = attributes->inode,
        .entry_timeout = FOREVER,
        .attr_timeout = attributes->is_live ? 0 : FOREVER,
    };
    fill_stat(mount, attributes, &entry.attr);
    return entry;
}

static void op_init(void *userdata, struct fuse_conn_info *connection)
{
    struct tp_mount *mount = userdata;
    connection->max_read = mount->max_read; /* must be what the kernel was told */
    connection->max_background = MAX_BACKGROUND;
    connection->congestion_threshold = MAX_BACKGROUND * 3 / 4;
    note_use(mount);
    mount->ready(mount->context);
}

static void op_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct tp_mount *mount = mount_of(request);
    struct tp_attributes attributes;
    atomic_fetch_add_explicit(&mount->tree->activity.lookups, 1, memory_order_relaxed);
    int rc = tp_tree_lookup(mount->tree, parent, name, &attributes);
    if (rc < 0 && rc != -ENOENT) {
        fuse_reply_err(request, -rc);
        return;
    }
    struct fuse_entry_param entry = {.entry_timeout = FOREVER}; /* inode 0: no such name */
    if (rc == 0)
        entry = make_entry(mount, &attributes);
    fuse_reply_entry(request, &entry);
}

static void op_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    struct tp_mount *mount = mount_of(request);
    struct tp_attributes attributes;
    struct stat status;
    (void)info;
    int rc = tp_tree_attributes(mount->tree, inode, &attributes);
    if (rc < 0) {
        fuse_reply_err(request, -rc);
        return;
    }
    fill_stat(mount, &attributes, &status);
    fuse_reply_attr(request, &status, attributes.is_live ? 0 : FOREVER);
}

/* Only now: the kernel sets its own value when it takes in the answer to INIT, and an open
 * file proves that it has. */
static void raise_read_ahead(struct tp_mount *mount)
{
    if (mount->read_ahead_fd < 0 || atomic_exchange(&mount->read_ahead_raised, true))
        return;
    if (write(mount->read_ahead_fd, read_ahead_kb, sizeof read_ahead_kb - 1) < 0)
        tp_log(mount->tree->log, TP_LOG_INFO, "cannot raise the read-ahead: %s", strerror(errno));
}

static int open_handle(struct tp_mount *mount, fuse_ino_t inode, struct handle *handle)
{
    const struct tp_view_file *file;
    int rc = tp_tree_file(mount->tree, inode, &file);
    if (rc == -EINVAL) {
        size_t length;
        rc = tp_tree_live_text(mount->tree, inode, &handle->text, &length);
        handle->size = rc == 0 ? length : 0;
        return rc;
    }
    if (rc < 0)
        return rc;
    handle->size = tp_content_size(&file->content);
    return tp_reader_open(&mount->tree->reading, &file->content, inode, &handle->reader);
}

static void drop_handle(struct handle *handle)
{
    if (atomic_fetch_sub(&handle->references, 1) > 1)
        return;
    if (handle->reader != NULL)
        tp_reader_close(handle->reader);
    free(handle->text);
    free(handle);
}

static void list_handle(struct tp_mount *mount, struct handle *handle)
{
    pthread_mutex_lock(&mount->handles_lock);
    tp_list_append(&mount->handles, &handle->link);
    pthread_mutex_unlock(&mount->handles_lock);
    atomic_fetch_add(&mount->tree->activity.open_files, 1);
}

static void unlist_handle(struct tp_mount *mount, struct handle *handle)
{
    atomic_fetch_sub(&mount->tree->activity.open_files, 1);
    pthread_mutex_lock(&mount->handles_lock);
    tp_list_remove(&handle->link);
    pthread_mutex_unlock(&mount->handles_lock);
    drop_handle(handle);
}

void tp_mount_init_handles(struct tp_mount *mount)
{
    pthread_mutex_init(&mount->handles_lock, NULL);
    tp_list_init(&mount->handles);
}

void tp_mount_free_handles(struct tp_mount *mount)
{
    while (!tp_list_is_empty(&mount->handles))
        unlist_handle(mount, TP_LIST_ENTRY(mount->handles.next, struct handle, link));
    pthread_mutex_destroy(&mount->handles_lock);
}

static void op_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    struct tp_mount *mount = mount_of(request);
    struct handle *handle = calloc(1, sizeof *handle);
    int rc = handle == NULL ? -ENOMEM : open_handle(mount, inode, handle);
    if (rc < 0) {
        free(handle);
        fuse_reply_err(request, -rc);
        return;
    }
    raise_read_ahead(mount);
    atomic_init(&handle->references, 1);
    info->fh = (uintptr_t)handle;
    info->direct_io = mount->direct_io || handle->text != NULL;
    info->keep_cache = !info->direct_io;
    info->noflush = 1; /* nothing was written: close() need not ask */
    atomic_fetch_add_explicit(&mount->tree->activity.opens, 1, memory_order_relaxed);
    list_handle(mount, handle);
    tp_tree_note_read(mount->tree, inode, 0, 0);   /* all there is to read of an empty file */
    if (fuse_reply_open(request, info) == -ENOENT) /* the caller was interrupted */
        unlist_handle(mount, handle);
}

static void op_release(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    struct tp_mount *mount = mount_of(request);
    (void)inode;
    unlist_handle(mount, handle_of(info));
    note_use(mount);
    fuse_reply_err(request, 0);
}

/* A buffer for answers that do not come from tiles: one for each thread, warm after its first
 * use, as long as the longest request seen. */
struct answer_buffer {
    size_t size;
    void *bytes;
};

static pthread_key_t answer_buffer_key;
static pthread_once_t answer_buffer_once = PTHREAD_ONCE_INIT;

static void free_answer_buffer(void *value)
{
    struct answer_buffer *buffer = value;
    munmap(buffer->bytes, buffer->size);
    free(buffer);
}

static void make_answer_buffer_key(void)
{
    pthread_key_create(&answer_buffer_key, free_answer_buffer);
}

/* NULL when there is no memory. */
static void *get_answer_buffer(size_t length)
{
    pthread_once(&answer_buffer_once, make_answer_buffer_key);
    struct answer_buffer *buffer = pthread_getspecific(answer_buffer_key);
    if (buffer != NULL && buffer->size >= length)
        return buffer->bytes;
    size_t size = length < FIRST_BUFFER ? FIRST_BUFFER : length;
    void *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED)
        return NULL;
    if (buffer == NULL)
        buffer = calloc(1, sizeof *buffer);
    else
        munmap(buffer->bytes, buffer->size);
    if (buffer == NULL || pthread_setspecific(answer_buffer_key, buffer) != 0) {
        munmap(bytes, size);
        free(buffer);
        return NULL;
    }
    *buffer = (struct answer_buffer){size, bytes};
    return bytes;
}

static int answer_read(fuse_req_t request, fuse_ino_t inode, struct handle *handle, uint64_t offset,
                       size_t length)
{
    struct tp_mount *mount = mount_of(request);
    struct tp_pieces pieces;
    void *buffer = get_answer_buffer(length);
    if (buffer == NULL)
        return -ENOMEM;
    /* Who asks for one thing at a time has nobody to be kept in line with, and would find the
     * thread that gave him his answer still inside. */
    struct tp_gate *gate = tp_reader_is_idle(handle->reader) ? NULL : mount->gate;
    tp_gate_enter(gate);
    int rc = tp_reader_read(handle->reader, offset, length, buffer, &pieces);
    if (rc < 0) {
        tp_gate_leave(gate);
        return rc;
    }
    atomic_fetch_add(&handle->references, 1);
    atomic_fetch_add_explicit(&mount->tree->activity.bytes_read, length, memory_order_relaxed);
    tp_tree_note_read(mount->tree, inode, offset, length); /* before the reader can ask for it */
    fuse_reply_iov(request, pieces.bytes, (int)pieces.n);
    tp_gate_leave(gate);
    tp_reader_done(handle->reader, &pieces);
    drop_handle(handle);
    return 0;
}

static void op_read(fuse_req_t request, fuse_ino_t inode, size_t length, off_t offset,
                    struct fuse_file_info *info)
{
    struct tp_mount *mount = mount_of(request);
    struct handle *handle = handle_of(info);
    uint64_t from = (uint64_t)offset;
    atomic_fetch_add_explicit(&mount->tree->activity.reads, 1, memory_order_relaxed);
    note_use(mount);
    if (from >= handle->size)
        length = 0;
    else if (length > handle->size - from)
        length = (size_t)(handle->size - from);
    if (length == 0 || handle->text != NULL) {
        atomic_fetch_add(&handle->references, 1);
        fuse_reply_buf(request, length == 0 ? NULL : handle->text + from, length);
        drop_handle(handle);
        return;
    }
    int rc = answer_read(request, inode, handle, from, length);
    if (rc < 0) {
        atomic_fetch_add_explicit(&mount->tree->activity.read_errors, 1, memory_order_relaxed);
        fuse_reply_err(request, -rc);
    }
}

/* Saying ENOSYS once spares every later opendir and lets the kernel cache what it lists. */
static void op_opendir(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    (void)inode;
    (void)info;
    fuse_reply_err(request, ENOSYS);
}

/* Entry number `i` of a directory; 0 and 1 are "." and "..". */
static int list_entry(struct tp_mount *mount, fuse_ino_t inode, uint64_t i,
                      char room[TP_SHARD_NAME_MAX], const char **ret_name,
                      struct tp_attributes *ret_attributes)
{
    if (i >= 2)
        return tp_tree_list(mount->tree, inode, i - 2, room, ret_name, ret_attributes);
    *ret_name = i == 0 ? "." : "..";
    return tp_tree_attributes(mount->tree, inode, ret_attributes);
}

static void list(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, bool plus)
{
    struct tp_mount *mount = mount_of(request);
    char *buffer = malloc(size), room[TP_SHARD_NAME_MAX];
    size_t used = 0;
    int rc = buffer == NULL ? -ENOMEM : 0;
    for (uint64_t i = (uint64_t)offset; rc == 0; i++) {
        const char *name;
        struct tp_attributes attributes;
        rc = list_entry(mount, inode, i, room, &name, &attributes);
        if (rc < 0)
            break;
        struct fuse_entry_param entry = make_entry(mount, &attributes);
        if (i < 2)
            entry.ino = 0; /* the kernel must not take these for lookups */
        size_t needs = plus ? fuse_add_direntry_plus(request, buffer + used, size - used, name,
                                                     &entry, (off_t)i + 1)
                            : fuse_add_direntry(request, buffer + used, size - used, name,
                                                &entry.attr, (off_t)i + 1);
        if (needs > size - used)
            break;
        used += needs;
    }
    if (rc < 0 && rc != -ENOENT && used == 0)
        fuse_reply_err(request, -rc);
    else
        fuse_reply_buf(request, buffer, used);
    free(buffer);
}

static void op_readdir(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                       struct fuse_file_info *info)
{
    (void)info;
    list(request, inode, size, offset, false);
}

static void op_readdirplus(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                           struct fuse_file_info *info)
{
    (void)info;
    list(request, inode, size, offset, true);
}

static void op_statfs(fuse_req_t request, fuse_ino_t inode)
{
    uint64_t bytes, files;
    (void)inode;
    tp_tree_totals(mount_of(request)->tree, &bytes, &files);
    struct statvfs status = {
        .f_bsize = BLOCK_SIZE,
        .f_frsize = 512,
        .f_blocks = (bytes + 511) / 512,
        .f_files = files,
        .f_namemax = 255,
    };
    fuse_reply_statfs(request, &status);
}

/* The protocol of the xattr calls: size 0 asks for the length. */
static void reply_xattr(fuse_req_t request, const char *value, size_t length, size_t size)
{
    if (size == 0)
        fuse_reply_xattr(request, length);
    else if (size < length)
        fuse_reply_err(request, ERANGE);
    else
        fuse_reply_buf(request, value, length);
}

static void op_getxattr(fuse_req_t request, fuse_ino_t inode, const char *name, size_t size)
{
    char *value;
    size_t length;
    int rc = tp_tree_xattr(mount_of(request)->tree, inode, name, &value, &length);
    if (rc < 0) {
        fuse_reply_err(request, -rc);
        return;
    }
    reply_xattr(request, value, length, size);
    free(value);
}

static void op_listxattr(fuse_req_t request, fuse_ino_t inode, size_t size)
{
    const struct tp_view_file *file;
    bool has = tp_tree_file(mount_of(request)->tree, inode, &file) == 0 && file->tensor != NULL;
    reply_xattr(request, tp_xattr_names, has ? tp_xattr_names_length : 0, size);
}

const struct fuse_lowlevel_ops tp_mount_operations = {
    .init = op_init,
    .lookup = op_lookup,
    .getattr = op_getattr,
    .open = op_open,
    .read = op_read,
    .release = op_release,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .readdirplus = op_readdirplus,
    .statfs = op_statfs,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
};
