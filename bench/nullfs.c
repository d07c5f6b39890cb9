/* bench/nullfs: the yardstick. A FUSE file system that does no work: it answers every read from
 * one buffer that is always in the processor's cache. It takes the options of tensorport-mount
 * (fs/mount/session.c and operations.c: keep the two alike), so what it reaches is what any FUSE
 * file system could reach on this machine at this moment, and the rest is TensorPort's own cost.
 *
 * The tree: N files of one size, named 0, 1, 2, ... in the root. Stays in the foreground, says
 * "ready" on stdout once the kernel has accepted the mount, ends when it is unmounted or at
 * SIGINT or SIGTERM.
 */
#define FUSE_USE_VERSION 314
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <getopt.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    FOREVER = 365 * 24 * 3600,
    BLOCK_SIZE = 128 << 10,
    MAX_BACKGROUND = 64,
    THREADS = 10,
    LONGEST_REQUEST = 1 << 20, /* 256 pages, the kernel's own limit */
    FIRST_FILE = FUSE_ROOT_ID + 1,
};

static const char read_ahead_kb[] = "8192";

/* Not zeros: those could come from one shared page. */
static char content[LONGEST_REQUEST] __attribute__((aligned(4096)));

struct null {
    uint64_t size;
    uint64_t n_files;
    bool direct_io;
    const char *mount_point;
    int read_ahead_fd;
    atomic_bool read_ahead_raised;
};

static struct null *null_of(fuse_req_t request)
{
    return fuse_req_userdata(request);
}

static struct stat make_stat(const struct null *null, fuse_ino_t inode)
{
    bool is_root = inode == FUSE_ROOT_ID;
    return (struct stat){
        .st_ino = inode,
        .st_mode = is_root ? S_IFDIR | 0555 : S_IFREG | 0444,
        .st_nlink = is_root ? 2 : 1,
        .st_uid = getuid(),
        .st_gid = getgid(),
        .st_size = is_root ? 0 : (off_t)null->size,
        .st_blksize = BLOCK_SIZE,
        .st_blocks = is_root ? 0 : (blkcnt_t)((null->size + 511) / 512),
    };
}

static void op_init(void *userdata, struct fuse_conn_info *connection)
{
    (void)userdata;
    connection->max_background = MAX_BACKGROUND;
    connection->congestion_threshold = MAX_BACKGROUND * 3 / 4;
    puts("ready");
    fflush(stdout);
}

static void op_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    const struct null *null = null_of(request);
    struct fuse_entry_param entry = {.entry_timeout = FOREVER, .attr_timeout = FOREVER};
    char *end;
    unsigned long long number = strtoull(name, &end, 10);
    if (parent == FUSE_ROOT_ID && *end == '\0' && number < null->n_files) {
        entry.ino = FIRST_FILE + number;
        entry.attr = make_stat(null, entry.ino);
    }
    fuse_reply_entry(request, &entry);
}

static void op_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    struct stat status = make_stat(null_of(request), inode);
    (void)info;
    fuse_reply_attr(request, &status, FOREVER);
}

static void op_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    struct null *null = null_of(request);
    (void)inode;
    if (null->read_ahead_fd >= 0 && !atomic_exchange(&null->read_ahead_raised, true) &&
        write(null->read_ahead_fd, read_ahead_kb, sizeof read_ahead_kb - 1) < 0)
        perror("bench/nullfs: cannot raise the read-ahead");
    info->direct_io = null->direct_io;
    info->keep_cache = !null->direct_io;
    info->noflush = 1;
    fuse_reply_open(request, info);
}

static void op_read(fuse_req_t request, fuse_ino_t inode, size_t length, off_t offset,
                    struct fuse_file_info *info)
{
    const struct null *null = null_of(request);
    uint64_t from = (uint64_t)offset;
    uint64_t left = from < null->size ? null->size - from : 0;
    (void)inode;
    (void)info;
    if (length > left)
        length = (size_t)left;
    if (length > LONGEST_REQUEST) {
        fuse_reply_err(request, EIO);
        return;
    }
    struct iovec bytes = {content, length};
    fuse_reply_iov(request, &bytes, 1);
}

static void op_opendir(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    (void)inode;
    (void)info;
    fuse_reply_err(request, ENOSYS);
}

static void op_readdir(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                       struct fuse_file_info *info)
{
    const struct null *null = null_of(request);
    char buffer[4096], name[24];
    size_t used = 0, room = size < sizeof buffer ? size : sizeof buffer;
    (void)inode;
    (void)info;
    for (uint64_t i = (uint64_t)offset; i < null->n_files; i++) {
        struct stat status = make_stat(null, FIRST_FILE + i);
        snprintf(name, sizeof name, "%llu", (unsigned long long)i);
        size_t needs =
            fuse_add_direntry(request, buffer + used, room - used, name, &status, (off_t)i + 1);
        if (needs > room - used)
            break;
        used += needs;
    }
    fuse_reply_buf(request, buffer, used);
}

static const struct fuse_lowlevel_ops operations = {
    .init = op_init,
    .lookup = op_lookup,
    .getattr = op_getattr,
    .open = op_open,
    .read = op_read,
    .opendir = op_opendir,
    .readdir = op_readdir,
};

/* The mount's read_ahead_kb, or -1: only root may write it. The last mount on the path counts. */
static int open_read_ahead(const char *mount_point)
{
    char line[8192], path[4096], file[64] = "";
    unsigned major, minor;
    char *resolved = realpath(mount_point, NULL);
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    while (mounts != NULL && resolved != NULL && fgets(line, sizeof line, mounts) != NULL) {
        if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &major, &minor, path) == 3 &&
            strcmp(path, resolved) == 0)
            snprintf(file, sizeof file, "/sys/class/bdi/%u:%u/read_ahead_kb", major, minor);
    }
    if (mounts != NULL)
        fclose(mounts);
    free(resolved);
    return open(file, O_WRONLY | O_CLOEXEC);
}

static int serve(struct fuse_session *session)
{
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    if (config == NULL)
        return -ENOMEM;
    fuse_loop_cfg_set_clone_fd(config, 1);
    fuse_loop_cfg_set_max_threads(config, THREADS);
    int rc = fuse_session_loop_mt(session, config);
    fuse_loop_cfg_destroy(config);
    return rc;
}

static int run(struct null *null)
{
    char *arguments[] = {(char *)"nullfs", (char *)"-o",
                         (char *)"ro,default_permissions,fsname=nullfs,subtype=nullfs", NULL};
    struct fuse_args fuse_arguments = FUSE_ARGS_INIT(3, arguments);
    struct fuse_session *session =
        fuse_session_new(&fuse_arguments, &operations, sizeof operations, null);
    fuse_opt_free_args(&fuse_arguments);
    if (session == NULL)
        return 1;
    int rc = 1;
    if (fuse_set_signal_handlers(session) == 0 &&
        fuse_session_mount(session, null->mount_point) == 0) {
        null->read_ahead_fd = null->direct_io ? -1 : open_read_ahead(null->mount_point);
        rc = serve(session) < 0;
        fuse_session_unmount(session);
        fuse_remove_signal_handlers(session);
    }
    fuse_session_destroy(session);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"size", required_argument, NULL, 's'},
        {"files", required_argument, NULL, 'n'},
        {"direct-io", no_argument, NULL, 'd'},
        {NULL, 0, NULL, 0},
    };
    struct null null = {.size = UINT64_C(1) << 30, .n_files = 2, .read_ahead_fd = -1};
    for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (option == 's')
            null.size = strtoull(optarg, NULL, 0);
        else if (option == 'n')
            null.n_files = strtoull(optarg, NULL, 0);
        else if (option == 'd')
            null.direct_io = true;
        else
            optind = argc; /* an unknown option: explain */
    }
    if (optind != argc - 1) {
        fprintf(stderr,
                "usage: bench/nullfs [--size BYTES] [--files N] [--direct-io] MOUNTPOINT\n");
        return 2;
    }
    null.mount_point = argv[optind];
    memset(content, 0x3f, sizeof content);
    return run(&null);
}
