/* The order matters: everything that can be wrong with the checkpoint or the mount point is
 * found in the foreground process; then the kernel's mount, then the fork, then threads and
 * memory, then requests. */
#include "fs/mount/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <syslog.h>
#include <unistd.h>

#include "config.h"
#include "fs/checkpoint/checkpoint.h"
#include "fs/mount/daemon.h"
#include "fs/mount/mount_point.h"
#include "fs/mount/operations.h"
#include "fs/mount/watch.h"
#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

struct session {
    const struct tp_mount_options *options;
    struct tp_log log;
    struct tp_checkpoint *checkpoint;
    struct tp_tree *tree;
    char *mount_point;
    struct fuse_session *fuse;
    bool is_mounted;
    struct tp_daemon daemon;
    struct tp_mount mount;
    struct tp_watch *watch;
    char features[160];
};

/* What libfuse said last: it explains a failure better than its return value. */
static struct tp_error libfuse_message;
static const struct tp_log *libfuse_log;

__attribute__((format(printf, 2, 0))) static void
take_libfuse_message(enum fuse_log_level level, const char *format, va_list arguments)
{
    char text[sizeof libfuse_message.text];
    vsnprintf(text, sizeof text, format, arguments);
    text[strcspn(text, "\n")] = '\0';
    if (level == FUSE_LOG_DEBUG)
        fprintf(stderr, "%s\n", text);
    else if (libfuse_log != NULL)
        tp_log(libfuse_log, TP_LOG_INFO, "%s", text); /* what ends the session is said anyway */
    else
        tp_error_set(&libfuse_message, 0, "%s", text);
}

/* ---- before the fork ---- */

/* Descriptors 0 to 2 must be something, or a shard would be taken for stderr; what else the
 * caller had open is no business of a daemon. */
static int tidy_descriptors(bool foreground, struct tp_error *error)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            return tp_error_set(error, -errno, "cannot open /dev/null: %s", strerror(errno));
    }
    if (!foreground)
        close_range(3, ~0U, 0);
    return 0;
}

/* A shard and a thread each hold a descriptor. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int check_isa(struct tp_error *error)
{
    const char *name = getenv("TENSORPORT_ISA");
    if (name == NULL || name[0] == '\0' || tp_codecs_by_name(name) != NULL)
        return 0;
    char known[64] = "";
    for (const char *const *at = tp_codecs_names(); *at != NULL; at++) {
        if (tp_codecs_by_name(*at) != NULL)
            snprintf(known + strlen(known), sizeof known - strlen(known), " %s", *at);
    }
    return tp_error_set(error, -EINVAL, "TENSORPORT_ISA=%s: this machine has none such; it has:%s",
                        name, known);
}

static int open_source(struct session *session, struct tp_error *error)
{
    const struct tp_mount_options *options = session->options;
    int rc = check_isa(error);
    if (rc == 0)
        rc = tp_checkpoint_open(options->source, &session->log, &session->checkpoint, error);
    if (rc == 0)
        rc = tp_mount_point_prepare(options->mount_point, options->replace, &session->mount_point,
                                    error);
    if (rc == 0)
        rc = tp_mount_point_check_source(session->mount_point, session->checkpoint, error);
    if (rc == 0)
        rc = tp_tree_new(session->checkpoint, &options->view.view, &session->log, &session->tree,
                         error);
    return rc;
}

static int add_argument(struct fuse_args *arguments, const char *option)
{
    return fuse_opt_add_arg(arguments, "-o") == 0 && fuse_opt_add_arg(arguments, option) == 0
               ? 0
               : -ENOMEM;
}

/* "fsname=..." with its commas and backslashes escaped, for `mount` and `df` to show. */
static int add_source_name(struct fuse_args *arguments, const char *path)
{
    char *option = malloc(2 * strlen(path) + sizeof "fsname=");
    if (option == NULL)
        return -ENOMEM;
    char *to = stpcpy(option, "fsname=");
    for (const char *from = path; *from != '\0'; from++) {
        if (*from == ',' || *from == '\\')
            *to++ = '\\';
        *to++ = *from;
    }
    *to = '\0';
    int rc = add_argument(arguments, option);
    free(option);
    return rc;
}

static int make_fuse_arguments(const struct session *session, struct fuse_args *arguments)
{
    const struct tp_mount_options *options = session->options;
    int rc = fuse_opt_add_arg(arguments, tp_mount_program.name) == 0 ? 0 : -ENOMEM;
    if (rc == 0)
        rc = add_argument(arguments, "ro,default_permissions,subtype=tensorport-mount");
    if (rc == 0)
        rc = add_source_name(arguments, session->checkpoint->path);
    if (rc == 0 && options->kernel_options != NULL)
        rc = add_argument(arguments, options->kernel_options);
    if (rc == 0 && options->debug)
        rc = fuse_opt_add_arg(arguments, "-d") == 0 ? 0 : -ENOMEM;
    return rc;
}

static int mount_tree(struct session *session, struct tp_error *error)
{
    struct fuse_args arguments = FUSE_ARGS_INIT(0, NULL);
    fuse_set_log_func(take_libfuse_message);
    int rc = make_fuse_arguments(session, &arguments);
    if (rc < 0)
        tp_error_set(error, rc, "out of memory");
    if (rc == 0) {
        session->fuse = fuse_session_new(&arguments, &tp_mount_operations,
                                         sizeof tp_mount_operations, &session->mount);
        if (session->fuse == NULL || fuse_session_mount(session->fuse, session->mount_point) != 0)
            rc = tp_error_set(error, -EIO, "%s: cannot mount: %s", session->mount_point,
                              libfuse_message.text[0] != '\0' ? libfuse_message.text
                                                              : "libfuse does not say why");
    }
    fuse_opt_free_args(&arguments);
    session->is_mounted = rc == 0;
    return rc;
}

/* ---- after it ---- */

static void log_to_syslog(struct session *session)
{
    openlog(tp_mount_program.name, LOG_PID, LOG_DAEMON);
    session->log.to_syslog = true;
}

/* The kernel has accepted the mount. */
static void announce(void *context)
{
    struct session *session = context;
#ifdef HAVE_SYSTEMD
    sd_notifyf(0, "READY=1\nSTATUS=%zu tensors at %s", tp_tree_main_view(session->tree)->n_tensors,
               session->mount_point);
#endif
    if (!session->options->foreground)
        log_to_syslog(session);
    tp_daemon_ready(&session->daemon);
}

/* The processors but one: that one is the readers'. */
static size_t spare_processors(void)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    return processors <= 2 ? 1 : (size_t)processors - 1;
}

static size_t prefetch_threads(void)
{
    enum { MOST = 8 };
    return spare_processors() < MOST ? spare_processors() : MOST;
}

/* Both caches share what is allowed. Of a packed checkpoint the unpacked blocks are what is dear,
 * and what random reads come back to; tiles are only needed for streams. */
static int make_caches(struct session *session)
{
    enum { SHARE = 8 };
    size_t all = session->options->serve.cache_size;
    size_t tiles = session->checkpoint->blocks == NULL ? all : all / SHARE;
    int rc = tp_cache_new(tiles, TP_TILE_SIZE, &session->tree->reading.cache);
    return rc < 0 ? rc : tp_checkpoint_cache_blocks(session->checkpoint, all - tiles);
}

static int start_reading(struct session *session, struct tp_error *error)
{
    struct tp_reading *reading = &session->tree->reading;
    int rc = make_caches(session);
    if (rc < 0)
        return tp_error_set(error, rc, "cannot reserve %llu bytes for the cache",
                            (unsigned long long)session->options->serve.cache_size);
    if (tp_gate_new(spare_processors(), &session->mount.gate) < 0)
        return tp_error_set(error, -ENOMEM, "out of memory");
    /* The page cache of the mount keeps what was delivered, unless it is bypassed: then the
     * sources' pages are the only copy in memory and worth keeping. */
    reading->forget_sources = !session->options->serve.direct_io;
    struct tp_cache_counters counters;
    tp_cache_count(reading->cache, &counters);
    if (counters.capacity > 0 &&
        tp_prefetcher_new(reading->cache, prefetch_threads(), &reading->prefetcher) < 0)
        tp_log(&session->log, TP_LOG_WARNING, "no thread for reading ahead: reads will be slower");
    return 0;
}

static void describe_features(struct session *session)
{
    snprintf(session->features, sizeof session->features,
             "libfuse %s, clone_fd, readdirplus, no_opendir, %s%s", fuse_pkgversion(),
             session->options->serve.direct_io ? "direct_io" : "page cache",
             session->mount.read_ahead_fd >= 0 ? ", read-ahead 8 MiB" : "");
    session->tree->features = session->features;
}

static int serve(struct session *session)
{
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    if (config == NULL)
        return -ENOMEM;
    fuse_loop_cfg_set_clone_fd(config, 1);
    fuse_loop_cfg_set_max_threads(config, session->options->serve.threads);
    int rc = fuse_session_loop_mt(session->fuse, config);
    fuse_loop_cfg_destroy(config);
    return rc;
}

static int start_and_serve(struct session *session, struct tp_error *error)
{
    session->mount.read_ahead_fd = session->options->serve.direct_io
                                       ? -1
                                       : tp_mount_point_open_read_ahead(session->mount_point);
    int rc = start_reading(session, error);
    if (rc < 0)
        return rc;
    describe_features(session);
    rc = tp_watch_start(session->mount_point, session->options->idle_timeout, &session->mount,
                        &session->watch);
    if (rc < 0)
        return tp_error_set(error, rc, "cannot start a thread: %s", strerror(-rc));
    libfuse_log = &session->log;
    rc = serve(session);
    if (rc == -ECONNABORTED && !tp_mount_point_is_ours(session->mount_point))
        rc = 0; /* unmounted while a request was being fetched */
    return rc == 0 ? 0
                   : tp_error_set(error, -EIO, "%s: the kernel ended the mount: error %d",
                                  session->mount_point, rc);
}

static void clean_up(struct session *session)
{
    if (session->watch != NULL)
        tp_watch_stop(session->watch);
    if (session->is_mounted)
        fuse_session_unmount(session->fuse);
    if (session->fuse != NULL)
        fuse_session_destroy(session->fuse);
    if (session->tree != NULL) {
        tp_mount_free_handles(&session->mount);
        tp_prefetcher_free(session->tree->reading.prefetcher);
        tp_cache_free(session->tree->reading.cache);
        tp_tree_free(session->tree);
    }
    tp_gate_free(session->mount.gate);
    if (session->mount.read_ahead_fd >= 0)
        close(session->mount.read_ahead_fd);
    free(session->mount_point);
    tp_checkpoint_close(session->checkpoint);
}

/* Descriptors can run out anywhere; the remedy is the same everywhere. */
static void add_advice(struct tp_error *error)
{
    size_t length = strlen(error->text);
    if (strstr(error->text, strerror(EMFILE)) != NULL && strstr(error->text, "ulimit") == NULL)
        snprintf(error->text + length, sizeof error->text - length,
                 "; raise the limit with 'ulimit -n'");
}

int tp_session_run(const struct tp_mount_options *options)
{
    struct session session = {
        .options = options,
        .log = {.program = tp_mount_program.name, .level = options->serve.log_level},
        .daemon = {.pipe = -1},
        .mount = {.user = options->user,
                  .group = options->group,
                  .direct_io = options->serve.direct_io,
                  .max_read = options->max_read,
                  .ready = announce,
                  .context = &session,
                  .read_ahead_fd = -1},
    };
    struct tp_error error = {""};
    raise_descriptor_limit();
    tp_mount_init_handles(&session.mount);
    int rc = tidy_descriptors(options->foreground, &error);
    if (rc == 0)
        rc = open_source(&session, &error);
    if (rc == 0) {
        tp_watch_block_signals(); /* a mount must not be left behind: from here on they wait */
        session.mount.tree = session.tree;
        rc = mount_tree(&session, &error);
    }
    if (rc == 0) {
        rc = options->foreground ? 0
                                 : tp_daemon_start(tp_mount_program.name, &session.daemon, &error);
    }
    if (rc == 0)
        rc = start_and_serve(&session, &error);
    if (rc < 0)
        add_advice(&error);
    if (rc < 0 && session.log.to_syslog)
        tp_log(&session.log, TP_LOG_ERROR, "%s", error.text);
    else if (rc < 0)
        tp_daemon_fail(&session.daemon, tp_mount_program.name, &error);
    clean_up(&session);
    return rc < 0 ? 1 : 0;
}
