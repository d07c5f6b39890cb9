/* A checkpoint: whether it is whole, and whether this machine is large enough for it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "fs/base/amount.h"
#include "fs/base/bytes.h"
#include "fs/checkpoint/checkpoint.h"
#include "fs/export/doctor/doctor.h"
#include "fs/export/mounts/mount_probe.h"
#include "fs/view/arguments.h"
#include "fs/view/view.h"

/* What the checks below ask of a model. */
struct model {
    const char *path;
    char quoted[2 * PATH_MAX];
    const struct tp_mount_entry *mount; /* that shows it, or NULL */
    char mount_quoted[2 * PATH_MAX];
    size_t n_files;  /* that a mount holds open */
    uint64_t shown;  /* bytes of the mount, or of the default view */
    uint64_t halved; /* the same in bfloat16 */
    uint64_t stored; /* the same as it is stored */
    uint64_t cache;  /* bytes that the mount's cache may take */
    const char *shown_as;
};

/* The command that mounts it with another option. */
static const char *mount_with(const struct model *model, const char *option,
                              char room[5 * PATH_MAX])
{
    snprintf(room, 5 * PATH_MAX, "tensorport-mount %s%s %s %s",
             model->mount != NULL ? "--replace " : "", option, model->quoted,
             model->mount != NULL ? model->mount_quoted : "MOUNTPOINT");
    return room;
}

/* ---- the files ---- */

/* True if `name` is what Git leaves for a large file that it did not fetch. */
static bool is_pointer(int folder, const char *name)
{
    static const char start[] = "version https://git-lfs";
    char text[sizeof start] = "";
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof start - 1);
    if (fd >= 0)
        close(fd);
    return length == sizeof start - 1 && strcmp(text, start) == 0;
}

/* How many of the folder's files are called *.safetensors, and how many of those are pointers. */
static size_t count_shards(const char *path, size_t *ret_pointers)
{
    DIR *folder = opendir(path);
    size_t n = 0, pointers = 0;
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        if (tp_bytes_end_with(entry->d_name, strlen(entry->d_name), ".safetensors")) {
            n++;
            pointers += is_pointer(dirfd(folder), entry->d_name);
        }
    }
    if (folder != NULL)
        closedir(folder);
    *ret_pointers = pointers;
    return n;
}

static rlim_t raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return RLIM_INFINITY;
    rlim_t most = limit.rlim_max;
    if (limit.rlim_cur < most) { /* as tensorport-mount does */
        limit.rlim_cur = most;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    return most;
}

/* A shard and a thread each hold a descriptor. */
static void check_descriptors(struct tp_doctor *doctor, size_t n_files)
{
    enum { BESIDES = 64 };
    char remedy[128];
    rlim_t most = raise_descriptor_limit();
    unsigned long long needed = (unsigned long long)n_files + BESIDES;
    snprintf(remedy, sizeof remedy, "sudo prlimit --pid $$ --nofile=%llu:%llu", 2 * needed,
             2 * needed);
    if (most < needed)
        tp_doctor_say(doctor, TP_FINDING_PROBLEM, "descriptors", remedy,
                      "%llu files may be open at most (ulimit -Hn); the checkpoint needs %llu",
                      (unsigned long long)most, (unsigned long long)needed);
    else
        tp_doctor_say(doctor, TP_FINDING_OK, "descriptors", NULL,
                      "%llu files may be open; %llu are needed", (unsigned long long)most, needed);
}

static void explain_broken(struct tp_doctor *doctor, const struct model *model, int code,
                           const char *message)
{
    char remedy[3 * PATH_MAX];
    size_t pointers, n = count_shards(model->path, &pointers);
    if (code == -EMFILE || code == -ENFILE) {
        check_descriptors(doctor, n);
        return;
    }
    if (pointers > 0)
        snprintf(remedy, sizeof remedy, "git -C %s lfs pull", model->quoted);
    else if (code == -ENOENT && access(model->path, F_OK) < 0)
        snprintf(remedy, sizeof remedy, "ls -l %s", model->quoted);
    else if (tp_mounts_code_is_dead(-code))
        snprintf(remedy, sizeof remedy, "sudo umount -l %s", model->quoted);
    else if (code == -EACCES)
        snprintf(remedy, sizeof remedy, "sudo chmod -R a+rX %s", model->quoted);
    else
        snprintf(remedy, sizeof remedy, "hf download REPOSITORY --local-dir %s", model->quoted);
    if (pointers > 0)
        tp_doctor_say(doctor, TP_FINDING_PROBLEM, "checkpoint", remedy,
                      "%s: %zu of %zu .safetensors files are Git LFS pointers, their contents were "
                      "not fetched: %s",
                      model->path, pointers, n, message);
    else
        tp_doctor_say(doctor, TP_FINDING_PROBLEM, "checkpoint", remedy, "%s", message);
}

static int measure(const struct tp_checkpoint *checkpoint, enum tp_precision precision, bool packed,
                   uint64_t *ret_bytes, struct tp_error *error)
{
    const struct tp_view_options options = {
        .precision = precision, .packed = packed, .shard_size = TP_SHARD_SIZE_DEFAULT};
    struct tp_view *view;
    int rc = tp_view_new(checkpoint, &options, NULL, &view, error);
    if (rc < 0)
        return rc;
    *ret_bytes = view->total_file_bytes;
    tp_view_free(view);
    return 0;
}

/* As inspect does. */
static bool open_checkpoint(struct tp_doctor *doctor, struct model *model)
{
    struct tp_checkpoint *checkpoint;
    struct tp_error error;
    raise_descriptor_limit();
    int rc = tp_checkpoint_open(model->path, NULL, &checkpoint, &error);
    if (rc < 0) {
        explain_broken(doctor, model, rc, error.text);
        return false;
    }
    model->n_files = checkpoint->n_shards + checkpoint->n_others;
    rc = measure(checkpoint, TP_PRECISION_FLOAT32, false, &model->shown, &error);
    if (rc == 0)
        rc = measure(checkpoint, TP_PRECISION_BFLOAT16, false, &model->halved, &error);
    if (rc == 0)
        rc = measure(checkpoint, TP_PRECISION_SOURCE, true, &model->stored, &error);
    if (rc < 0)
        explain_broken(doctor, model, rc, error.text);
    else
        tp_doctor_say(doctor, TP_FINDING_OK, "checkpoint", NULL, "%s: %zu tensors in %zu file%s",
                      model->path, checkpoint->n_tensors, checkpoint->n_shards,
                      checkpoint->n_shards == 1 ? "" : "s");
    tp_checkpoint_close(checkpoint);
    return rc == 0;
}

/* ---- where they lie ---- */

static bool is_remote(const char *type)
{
    static const char *const remote[] = {
        "nfs",       "nfs4",   "cifs",  "smb3",  "smbfs", "9p",     "afs",    "ceph",
        "glusterfs", "lustre", "davfs", "ncpfs", "drvfs", "vboxsf", "prl_fs", "virtiofs"};
    for (size_t i = 0; i < sizeof remote / sizeof *remote; i++) {
        if (strcmp(type, remote[i]) == 0)
            return true;
    }
    return strcmp(type, "fuse") == 0 ||
           (strncmp(type, "fuse.", 5) == 0 && strcmp(type, TP_MOUNT_TYPE) != 0);
}

static void check_file_system(struct tp_doctor *doctor, const struct model *model)
{
    char *path = realpath(model->path, NULL), remedy[3 * PATH_MAX];
    const struct tp_mount_entry *around =
        path == NULL ? NULL : tp_mounts_around(&doctor->table, path);
    snprintf(remedy, sizeof remedy, "cp -r %s /var/tmp/", model->quoted);
    if (around != NULL && is_remote(around->type))
        tp_doctor_say(doctor, TP_FINDING_WARNING, "file system", remedy,
                      "%s lies on %s (%s), which the network or another program serves: reads are "
                      "as slow as that, and hang when it does",
                      model->path, around->path, around->type);
    else if (around != NULL)
        tp_doctor_say(doctor, TP_FINDING_OK, "file system", NULL, "%s is local (%s)", around->path,
                      around->type);
    free(path);
}

/* ---- memory and disk ---- */

static void check_cache(struct tp_doctor *doctor, const struct model *model,
                        const struct tp_memory_limit *limit)
{
    char cache[TP_AMOUNT_MAX], most[TP_AMOUNT_MAX], option[64], remedy[5 * PATH_MAX];
    tp_format_bytes((double)model->cache, cache);
    tp_format_bytes((double)limit->bytes, most);
    snprintf(option, sizeof option, "--cache-size=%lluM",
             (unsigned long long)(limit->bytes / 8 >> 20));
    if (model->cache <= limit->bytes / 2)
        tp_doctor_say(doctor, TP_FINDING_OK, "cache", NULL, "%s, of %s of memory", cache, most);
    else
        tp_doctor_say(
            doctor, model->cache >= limit->bytes ? TP_FINDING_PROBLEM : TP_FINDING_WARNING, "cache",
            mount_with(model, option, remedy),
            "may take %s, but %s allows %s: the daemon would be killed", cache, limit->file, most);
}

/* What to do when it does not fit: a smaller view of the same values, else more memory. */
static const char *fit_memory(const struct model *model, const struct tp_memory_limit *limit,
                              char remedy[5 * PATH_MAX])
{
    char quoted[2 * PATH_MAX];
    if (model->halved <= limit->bytes)
        return mount_with(model, "--precision=bfloat16", remedy);
    if (model->stored <= limit->bytes)
        return mount_with(model, "--precision=source --mxfp4=packed", remedy);
    if (!limit->is_cgroup)
        return mount_with(model, "--include='*.layers.0.*'", remedy);
    snprintf(remedy, 5 * PATH_MAX, "echo %llu | sudo tee %s",
             (unsigned long long)(model->shown + (model->shown >> 3)),
             tp_doctor_quote(limit->file, quoted));
    return remedy;
}

static void check_memory(struct tp_doctor *doctor, const struct model *model)
{
    char shown[TP_AMOUNT_MAX], most[TP_AMOUNT_MAX], remedy[5 * PATH_MAX];
    struct tp_memory_limit limit;
    if (!tp_doctor_find_memory(doctor, &limit))
        return;
    check_cache(doctor, model, &limit);
    tp_format_bytes((double)model->shown, shown);
    tp_format_bytes((double)limit.bytes, most);
    if (model->shown <= limit.bytes)
        tp_doctor_say(doctor, TP_FINDING_OK, "memory", NULL, "all of it as %s takes %s, of %s",
                      model->shown_as, shown, most);
    else
        tp_doctor_say(doctor, TP_FINDING_WARNING, "memory", fit_memory(model, &limit, remedy),
                      "all of it as %s takes %s, but %s allows %s: what loads it whole is killed",
                      model->shown_as, shown, limit.file, most);
}

/* Where convert would write if it were told to write here. */
static void check_disk(struct tp_doctor *doctor, const struct model *model)
{
    char shown[TP_AMOUNT_MAX], free_text[TP_AMOUNT_MAX], remedy[3 * PATH_MAX];
    struct statvfs status;
    if (statvfs(".", &status) < 0)
        return;
    uint64_t left = (uint64_t)status.f_bavail * status.f_frsize;
    tp_format_bytes((double)model->shown, shown);
    tp_format_bytes((double)left, free_text);
    if (model->halved <= left)
        snprintf(remedy, sizeof remedy, "tensorport convert --precision=bfloat16 %s OUTPUT",
                 model->quoted);
    else
        snprintf(remedy, sizeof remedy, "df -h (and give convert an OUTPUT with room for it)");
    if (model->shown <= left)
        tp_doctor_say(doctor, TP_FINDING_OK, "disk", NULL,
                      "%s are free here; to convert it takes %s", free_text, shown);
    else
        tp_doctor_say(doctor, TP_FINDING_WARNING, "disk", remedy,
                      "to convert it here takes %s, but %s are free", shown, free_text);
}

/* What a live mount says of itself. */
static void ask_mount(const struct tp_doctor *doctor, struct model *model, char precision[32])
{
    char room[PATH_MAX];
    struct tp_mount_probe probe = {.path = tp_doctor_path(doctor, model->mount->path, room)};
    if (tp_mount_probe(&probe, 1, TP_MOUNT_PROBE_MS) < 0 || probe.statistics == NULL)
        return;
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(probe.statistics, "precision");
    double shown = tp_mount_statistic(probe.statistics, "files", "bytes");
    double cache = tp_mount_statistic(probe.statistics, "cache", "capacity_bytes");
    if (cJSON_IsString(item)) {
        snprintf(precision, 32, "%s", item->valuestring);
        model->shown_as = precision;
    }
    if (shown > 0 && shown < 0x1p62)
        model->shown = (uint64_t)shown;
    if (cache >= 0 && cache < 0x1p62)
        model->cache = (uint64_t)cache;
    cJSON_Delete(probe.statistics);
}

void tp_doctor_check_model(struct tp_doctor *doctor, const char *path,
                           const struct tp_mount_entry *mount)
{
    struct model model = {
        .path = path, .mount = mount, .cache = TP_CACHE_SIZE_DEFAULT, .shown_as = "float32"};
    char precision[32];
    snprintf(model.quoted, sizeof model.quoted, "%s", tp_doctor_quote(path, model.mount_quoted));
    if (mount != NULL) {
        char room[2 * PATH_MAX];
        snprintf(model.mount_quoted, sizeof model.mount_quoted, "%s",
                 tp_doctor_quote(mount->path, room));
    }
    bool is_whole = open_checkpoint(doctor, &model);
    check_file_system(doctor, &model);
    if (!is_whole)
        return;
    if (mount != NULL)
        ask_mount(doctor, &model, precision);
    check_descriptors(doctor, model.n_files);
    check_memory(doctor, &model);
    if (mount == NULL)
        check_disk(doctor, &model);
}
