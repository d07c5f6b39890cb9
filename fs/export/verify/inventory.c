#include "fs/export/verify/inventory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decode/npy.h"
#include "fs/base/bytes.h"
#include "fs/export/convert/convert.h"

enum { PATH_SIZE = 2 * 256 + 2 };

int tp_inventory_add(struct tp_inventory *inventory, const char *path,
                     struct tp_inventory_file file)
{
    if ((inventory->n & (inventory->n - 1)) == 0) {
        struct tp_inventory_file *more =
            reallocarray(inventory->files, inventory->n == 0 ? 1 : 2 * inventory->n, sizeof *more);
        if (more == NULL)
            return -ENOMEM;
        inventory->files = more;
    }
    file.path = strdup(path);
    if (file.path == NULL)
        return -ENOMEM;
    inventory->files[inventory->n++] = file;
    return 0;
}

int tp_inventory_add_manifest(struct tp_inventory *inventory, const struct tp_manifest *manifest)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < manifest->n_tensors; i++) {
        const struct tp_manifest_tensor *tensor = &manifest->tensors[i];
        struct tp_inventory_file file = {.is_container = tensor->n_runs > 0};
        if (!file.is_container)
            file.tensor = tensor;
        for (size_t j = 0; j < tensor->n_runs; j++) {
            uint64_t end;
            if (__builtin_add_overflow(tensor->runs[j].offset, tensor->runs[j].nbytes, &end))
                end = UINT64_MAX;
            file.data_end = end > file.data_end ? end : file.data_end;
        }
        rc = tp_inventory_add(inventory, tensor->file, file);
    }
    return rc;
}

int tp_inventory_add_sums(struct tp_inventory *inventory, const struct tp_sums *sums, bool sha256)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sums->n; i++) {
        struct tp_inventory_file file = {.size = 0};
        *(sha256 ? &file.sha256 : &file.xxh3) = sums->list[i].digest;
        rc = tp_inventory_add(inventory, sums->list[i].path, file);
    }
    return rc;
}

/* ---- what is there ---- */

/* True when some file should be in the folder `name`. Linear, but there are few folders. */
static bool should_have(const struct tp_inventory *inventory, size_t n, const char *name)
{
    const size_t length = strlen(name);
    for (size_t i = 0; i < n; i++) {
        if (strncmp(inventory->files[i].path, name, length) == 0 &&
            inventory->files[i].path[length] == '/')
            return true;
    }
    return false;
}

static bool is_leftover(const char *name)
{
    return tp_bytes_end_with(name, strlen(name), ".partial");
}

struct scan {
    struct tp_inventory *inventory;
    size_t n_spoken_of;
    struct tp_faults *faults;
};

static int scan_folder(const struct scan *scan, int folder, const char *prefix);

/* A folder in the top, or in one of its folders. */
static int meet_folder(const struct scan *scan, int parent, const char *name, const char *path)
{
    if (strcmp(path, TP_CONVERT_STATE) == 0) {
        tp_faults_add(scan->faults, TP_FAULT_UNFINISHED, path,
                      "a conversion was interrupted here; finish it with 'tensorport convert "
                      "--resume'");
        return 0;
    }
    const bool expected = should_have(scan->inventory, scan->n_spoken_of, name);
    if (strchr(path, '/') != NULL || (!expected && !scan->inventory->is_partial)) {
        tp_faults_add(scan->faults, TP_FAULT_EXTRA, path, "no such folder should be here");
        return 0;
    }
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0)
        return scan_folder(scan, fd, path);
    tp_faults_add(scan->faults, TP_FAULT_UNREADABLE, path, "cannot open: %s", strerror(errno));
    return 0;
}

static int meet(const struct scan *scan, int folder, const char *prefix, const char *name)
{
    char path[PATH_SIZE];
    struct stat status;
    snprintf(path, sizeof path, "%s%s%s", prefix, prefix[0] != '\0' ? "/" : "", name);
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
        tp_faults_add(scan->faults, TP_FAULT_UNREADABLE, path, "cannot look at it: %s",
                      strerror(errno));
        return 0;
    }
    if (S_ISDIR(status.st_mode))
        return meet_folder(scan, folder, name, path);
    return tp_inventory_add(scan->inventory, path,
                            (struct tp_inventory_file){.is_there = true,
                                                       .mode = status.st_mode,
                                                       .size = (uint64_t)status.st_size});
}

/* Takes the descriptor over. */
static int scan_folder(const struct scan *scan, int folder, const char *prefix)
{
    DIR *stream = fdopendir(folder);
    int rc = 0;
    if (stream == NULL) {
        close(folder);
        return -ENOMEM;
    }
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (entry == NULL)
            break;
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = meet(scan, folder, prefix, entry->d_name);
        if (rc < 0)
            break;
    }
    if (rc == 0 && errno != 0)
        tp_faults_add(scan->faults, TP_FAULT_UNREADABLE, prefix, "cannot list it: %s",
                      strerror(errno));
    closedir(stream);
    return rc;
}

int tp_inventory_scan(struct tp_inventory *inventory, int folder, struct tp_faults *faults)
{
    const struct scan scan = {inventory, inventory->n, faults};
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        return scan_folder(&scan, fd, "");
    tp_faults_add(faults, TP_FAULT_UNREADABLE, "", "cannot open: %s", strerror(errno));
    return 0;
}

/* ---- putting it together ---- */

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct tp_inventory_file *)a)->path,
                  ((const struct tp_inventory_file *)b)->path);
}

static void take_over(struct tp_inventory_file *into, struct tp_inventory_file *other)
{
    if (other->is_there) {
        into->is_there = true;
        into->mode = other->mode;
        into->size = other->size;
    }
    into->tensor = into->tensor != NULL ? into->tensor : other->tensor;
    into->data_end = into->data_end > other->data_end ? into->data_end : other->data_end;
    into->is_container |= other->is_container;
    into->xxh3 = into->xxh3 != NULL ? into->xxh3 : other->xxh3;
    into->sha256 = into->sha256 != NULL ? into->sha256 : other->sha256;
    into->artifact = into->artifact != NULL ? into->artifact : other->artifact;
    free(other->path);
}

void tp_inventory_merge(struct tp_inventory *inventory)
{
    size_t kept = 0;
    if (inventory->n > 0)
        qsort(inventory->files, inventory->n, sizeof *inventory->files, compare);
    for (size_t i = 0; i < inventory->n; i++) {
        if (kept > 0 && compare(&inventory->files[kept - 1], &inventory->files[i]) == 0)
            take_over(&inventory->files[kept - 1], &inventory->files[i]);
        else
            inventory->files[kept++] = inventory->files[i];
    }
    inventory->n = kept;
}

void tp_inventory_clear(struct tp_inventory *inventory)
{
    for (size_t i = 0; i < inventory->n; i++)
        free(inventory->files[i].path);
    free(inventory->files);
    *inventory = (struct tp_inventory){0};
}

/* ---- judging ---- */

static bool is_own(const char *path)
{
    return strcmp(path, "manifest.json") == 0 || strcmp(path, "XXH3SUMS") == 0 ||
           strcmp(path, "SHA256SUMS") == 0;
}

static uint64_t npy_size(const struct tp_manifest_tensor *tensor)
{
    uint64_t size, head = tp_npy_header_length(tensor->dtype, tensor->shape, tensor->rank);
    return __builtin_add_overflow(head, tensor->nbytes, &size) ? UINT64_MAX : size;
}

bool tp_inventory_size_is_right(const struct tp_inventory_file *file)
{
    return (file->tensor == NULL || npy_size(file->tensor) == file->size) &&
           (file->artifact == NULL || file->artifact->size == file->size) &&
           file->size >= file->data_end;
}

/* One fault, by the first that knows better. */
static void judge_size(const struct tp_inventory_file *file, struct tp_faults *faults)
{
    if (file->tensor != NULL && npy_size(file->tensor) != file->size)
        tp_faults_add(faults, TP_FAULT_SIZE, file->path,
                      "expected %" PRIu64 " bytes by manifest.json, found %" PRIu64,
                      npy_size(file->tensor), file->size);
    else if (file->size < file->data_end)
        tp_faults_add(faults, TP_FAULT_SIZE, file->path,
                      "expected at least %" PRIu64 " bytes by manifest.json, found %" PRIu64,
                      file->data_end, file->size);
    else if (file->artifact != NULL && file->artifact->size != file->size)
        tp_faults_add(faults, TP_FAULT_SIZE, file->path,
                      "expected %" PRIu64 " bytes by the source, found %" PRIu64,
                      file->artifact->size, file->size);
}

static const char *type_name(mode_t mode)
{
    return S_ISLNK(mode)    ? "a symbolic link"
           : S_ISFIFO(mode) ? "a pipe"
           : S_ISSOCK(mode) ? "a socket"
                            : "a device";
}

static bool judge_presence(const struct tp_inventory_file *file, struct tp_faults *faults)
{
    if (file->is_there)
        return true;
    const char *who = file->tensor != NULL || file->is_container ? "manifest.json"
                      : file->xxh3 != NULL                       ? "XXH3SUMS"
                      : file->sha256 != NULL                     ? "SHA256SUMS"
                                                                 : "the source";
    tp_faults_add(faults, TP_FAULT_MISSING, file->path, "is not here as a file, but in %s", who);
    return false;
}

/* Whether nobody speaks of the file. */
static bool is_unknown(const struct tp_inventory_file *file)
{
    return file->tensor == NULL && !file->is_container && file->xxh3 == NULL &&
           file->sha256 == NULL && file->artifact == NULL && !is_own(file->path);
}

static void judge_listing(const struct tp_inventory_file *file, bool xxh3, bool sha256, bool source,
                          struct tp_faults *faults)
{
    const bool is_sums = is_own(file->path) && strcmp(file->path, "manifest.json") != 0;
    if (is_sums)
        return;
    if (xxh3 && file->xxh3 == NULL)
        tp_faults_add(faults, TP_FAULT_SUMS, "XXH3SUMS", "does not list %.300s", file->path);
    if (sha256 && file->sha256 == NULL)
        tp_faults_add(faults, TP_FAULT_SUMS, "SHA256SUMS", "does not list %.300s", file->path);
    if (source && file->artifact == NULL)
        tp_faults_add(faults, TP_FAULT_EXTRA, file->path, "the source gives no such file");
}

static void judge(const struct tp_inventory_file *file, bool is_partial, bool xxh3, bool sha256,
                  bool source, struct tp_faults *faults, size_t *n_unknown)
{
    if (!judge_presence(file, faults))
        return;
    if (is_unknown(file) && is_leftover(file->path)) {
        tp_faults_add(faults, TP_FAULT_UNFINISHED, file->path,
                      "a file that was being written when something was interrupted; finish it "
                      "with 'tensorport convert --resume'");
        return;
    }
    if (is_unknown(file)) {
        if (!is_partial && (xxh3 || sha256 || source || strchr(file->path, '/') != NULL))
            tp_faults_add(faults, TP_FAULT_EXTRA, file->path, "no such file should be here");
        else
            ++*n_unknown;
        return;
    }
    if (!S_ISREG(file->mode)) {
        tp_faults_add(faults, TP_FAULT_TYPE, file->path, "expected a file, found %s",
                      type_name(file->mode));
        return;
    }
    judge_listing(file, xxh3, sha256, source, faults);
    judge_size(file, faults);
}

void tp_inventory_judge(const struct tp_inventory *inventory, bool xxh3, bool sha256, bool source,
                        struct tp_faults *faults, size_t *ret_n_unknown)
{
    size_t n_unknown = 0;
    for (size_t i = 0; i < inventory->n; i++)
        judge(&inventory->files[i], inventory->is_partial, xxh3, sha256, source, faults,
              &n_unknown);
    *ret_n_unknown = n_unknown;
}
