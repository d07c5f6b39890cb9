/* Opening, in this order: which files (folder, index, single file), their headers, the
 * agreement of index and headers, MXFP4 pairs, the other files. Each step either completes or
 * leaves a message; tp_checkpoint_close() undoes any prefix of them. */
#include "fs/checkpoint/checkpoint.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decode/safetensors.h"
#include "fs/base/bytes.h"
#include "fs/checkpoint/index.h"
#include "fs/checkpoint/mxfp4.h"
#include "fs/checkpoint/packed.h"

static const char index_name[] = "model.safetensors.index.json";
static const char single_name[] = "model.safetensors";
enum { CONFIG_BYTES_MAX = 16 << 20, BLOCK_CACHE_BYTES = 32 << 20 };

/* What opening needs and the finished checkpoint does not. */
struct opening {
    struct tp_checkpoint *checkpoint;
    const struct tp_log *log;
    struct tp_error *error;
    struct tp_safetensors *headers; /* [n_shards] */
    struct tp_index index;
    const char *index_file; /* NULL: there is none */
    const char *only_file;  /* a single file was given: its name; NULL: a folder */
    bool only_is_packed;    /* it was NAME.tpk */
};

static int out_of_memory(struct opening *opening)
{
    return tp_error_set(opening->error, -ENOMEM, "out of memory");
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Whether the name is taken in the folder, by whatever: a link that leads nowhere is a fault of
 * the checkpoint, not a file that it does without. */
static bool is_named(const struct opening *opening, const char *name)
{
    struct stat status;
    return fstatat(opening->checkpoint->directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

static const char weights_suffix[] = ".safetensors";

/* "x.safetensors.tpk" is called "x.safetensors" from here on. */
static void take_suffix_off(char *name)
{
    static const char packed_suffix[] = ".safetensors" TP_PACKED_SUFFIX;
    size_t length = strlen(name);
    if (tp_bytes_end_with(name, length, packed_suffix))
        name[length - strlen(TP_PACKED_SUFFIX)] = '\0';
}

/* Sorts them and drops what is there twice: packed and not. */
static size_t sort_names(char **names, size_t n)
{
    size_t n_unique = 0;
    qsort(names, n, sizeof *names, compare_strings);
    for (size_t i = 0; i < n; i++) {
        if (n_unique > 0 && strcmp(names[n_unique - 1], names[i]) == 0)
            free(names[i]);
        else
            names[n_unique++] = names[i];
    }
    return n_unique;
}

/* The names in a folder, sorted, without "." and "..", packed files by their true names. */
static int list_folder(struct opening *opening, char ***ret_names, size_t *ret_n)
{
    int fd = openat(opening->checkpoint->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (stream == NULL) {
        int rc = -errno;
        if (fd >= 0)
            close(fd);
        return tp_error_set(opening->error, rc, "cannot list the folder: %s", strerror(-rc));
    }
    char **names = NULL;
    size_t n = 0, room = 0;
    int rc = 0;
    for (struct dirent *entry; rc == 0 && (entry = readdir(stream)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (n == room) {
            room = room == 0 ? 64 : 2 * room;
            char **more = realloc(names, room * sizeof *names);
            if (more == NULL) {
                rc = out_of_memory(opening);
                break;
            }
            names = more;
        }
        if ((names[n] = strdup(entry->d_name)) == NULL)
            rc = out_of_memory(opening);
        else
            take_suffix_off(names[n++]);
    }
    closedir(stream);
    if (rc == 0) {
        *ret_n = n == 0 ? 0 : sort_names(names, n);
        *ret_names = names;
        return 0;
    }
    while (n > 0)
        free(names[--n]);
    free(names);
    return rc;
}

static void free_names(char **names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

/* ---- which files ---- */

static bool is_packed(const struct opening *opening, const char *name)
{
    char *packed = NULL;
    if (!tp_bytes_end_with(name, strlen(name), weights_suffix) ||
        asprintf(&packed, "%s%s", name, TP_PACKED_SUFFIX) < 0)
        return false;
    bool is_there = is_named(opening, packed);
    free(packed);
    return is_there;
}

static int open_packed(struct opening *opening, struct tp_source *source, const char *name,
                       struct tp_error *error)
{
    struct tp_checkpoint *checkpoint = opening->checkpoint;
    if (checkpoint->blocks == NULL && tp_blocks_new(&checkpoint->blocks) < 0)
        return tp_error_set(error, -ENOMEM, "out of memory");
    return tp_source_open_packed(source, checkpoint->directory, name, checkpoint->blocks,
                                 opening->log, error);
}

/* Opens NAME, or NAME.tpk if that is what is there. */
static int open_source(struct opening *opening, struct tp_source *source, const char *name,
                       struct tp_error *error)
{
    if (!is_packed(opening, name))
        return tp_source_open(source, opening->checkpoint->directory, name, opening->log, error);
    if (is_named(opening, name))
        return tp_error_set(error, -EEXIST, "expected %s or %s%s, found both: remove one", name,
                            name, TP_PACKED_SUFFIX);
    return open_packed(opening, source, name, error);
}

/* A single file is the one that was named, whatever else there is. */
static int open_shard(struct opening *opening, struct tp_source *shard, const char *name)
{
    if (opening->only_file == NULL)
        return open_source(opening, shard, name, opening->error);
    if (opening->only_is_packed)
        return open_packed(opening, shard, name, opening->error);
    return tp_source_open(shard, opening->checkpoint->directory, name, opening->log,
                          opening->error);
}

static int open_shards(struct opening *opening, const char *const *names, size_t n)
{
    struct tp_checkpoint *checkpoint = opening->checkpoint;
    checkpoint->shards = calloc(n + 1, sizeof *checkpoint->shards);
    if (checkpoint->shards == NULL)
        return out_of_memory(opening);
    for (size_t i = 0; i < n; i++) {
        struct tp_source *shard = &checkpoint->shards[i];
        int rc = open_shard(opening, shard, names[i]);
        if (rc < 0)
            return rc;
        checkpoint->n_shards++;
        if (shard->modified.tv_sec > checkpoint->modified.tv_sec ||
            (shard->modified.tv_sec == checkpoint->modified.tv_sec &&
             shard->modified.tv_nsec > checkpoint->modified.tv_nsec))
            checkpoint->modified = shard->modified;
    }
    return 0;
}

/* A folder without index: model.safetensors, or else every *.safetensors in it. */
static int open_folder_shards(struct opening *opening)
{
    if (is_named(opening, single_name) || is_packed(opening, single_name))
        return open_shards(opening, (const char *const[]){single_name}, 1);
    char **names = NULL;
    size_t n = 0, n_shards = 0;
    int rc = list_folder(opening, &names, &n);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++) { /* move the shards to the front, in order */
        if (tp_bytes_end_with(names[i], strlen(names[i]), weights_suffix)) {
            char *shard = names[i];
            names[i] = names[n_shards];
            names[n_shards++] = shard;
        }
    }
    if (n_shards == 0)
        rc = tp_error_set(opening->error, -ENOENT,
                          "expected %s, %s or other *.safetensors files, found none", index_name,
                          single_name);
    else
        rc = open_shards(opening, (const char *const *)names, n_shards);
    free_names(names, n);
    return rc;
}

static int find_and_open_shards(struct opening *opening)
{
    int directory = opening->checkpoint->directory;
    if (opening->only_file != NULL)
        return open_shards(opening, &opening->only_file, 1);
    if (opening->index_file == NULL && is_named(opening, index_name))
        opening->index_file = index_name;
    if (opening->index_file == NULL)
        return open_folder_shards(opening);
    int rc = tp_index_read(directory, opening->index_file, &opening->index, opening->error);
    if (rc < 0)
        return rc;
    rc = open_shards(opening, opening->index.files, opening->index.n_files);
    return rc < 0 ? tp_error_prefix(opening->error, rc, "%s", opening->index_file) : rc;
}

/* ---- headers ---- */

static int read_header(struct opening *opening, struct tp_source *shard,
                       struct tp_safetensors *ret_header)
{
    uint8_t field[TP_SAFETENSORS_LENGTH_BYTES];
    uint64_t length;
    if (shard->size < sizeof field)
        return tp_error_set(opening->error, -EINVAL,
                            "expected at least %zu bytes, found %llu: not a safetensors file",
                            sizeof field, (unsigned long long)shard->size);
    int rc = tp_source_read_unverified(shard, field, sizeof field, 0);
    if (rc < 0)
        return tp_error_set(opening->error, rc, "cannot read the header: %s", strerror(-rc));
    rc = tp_safetensors_length(field, shard->size, &length, opening->error);
    if (rc < 0)
        return rc;
    char *text = malloc(length + 1);
    if (text == NULL)
        return out_of_memory(opening);
    rc = tp_source_read(shard, text, length, sizeof field);
    if (rc < 0)
        tp_error_set(opening->error, rc, "cannot read the header: %s", strerror(-rc));
    else
        rc = tp_safetensors_parse(text, length, shard->size - sizeof field - length, ret_header,
                                  opening->error);
    free(text);
    if (rc < 0)
        return rc;
    /* From here on offsets count from the start of the file. */
    for (size_t i = 0; i < ret_header->n_entries; i++) {
        ret_header->entries[i].begin += sizeof field + length;
        ret_header->entries[i].end += sizeof field + length;
    }
    return 0;
}

static int read_headers(struct opening *opening)
{
    struct tp_checkpoint *checkpoint = opening->checkpoint;
    opening->headers = calloc(checkpoint->n_shards + 1, sizeof *opening->headers);
    checkpoint->headers = calloc(checkpoint->n_shards + 1, sizeof *checkpoint->headers);
    if (opening->headers == NULL || checkpoint->headers == NULL)
        return out_of_memory(opening);
    for (size_t i = 0; i < checkpoint->n_shards; i++) {
        int rc = read_header(opening, &checkpoint->shards[i], &opening->headers[i]);
        if (rc < 0)
            return tp_error_prefix(opening->error, rc, "%s", checkpoint->shards[i].name);
        checkpoint->n_tensors += opening->headers[i].n_entries;
    }
    return 0;
}

static void take_tensor(const struct tp_safetensors_entry *entry, struct tp_source *shard,
                        struct tp_tensor *ret_tensor)
{
    *ret_tensor = (struct tp_tensor){
        .name = entry->name,
        .name_length = entry->name_length,
        .dtype = entry->dtype,
        .rank = entry->rank,
        .shape = entry->shape,
        .offset = entry->begin,
        .nbytes = entry->end - entry->begin,
        .shard = shard,
    };
    ret_tensor->elements = ret_tensor->nbytes / tp_dtype_size(entry->dtype);
}

/* Turns the headers into one list; the storage of their strings moves to the checkpoint. */
static int collect_tensors(struct opening *opening)
{
    struct tp_checkpoint *checkpoint = opening->checkpoint;
    checkpoint->tensors = calloc(checkpoint->n_tensors + 1, sizeof *checkpoint->tensors);
    if (checkpoint->tensors == NULL)
        return out_of_memory(opening);
    size_t at = 0;
    for (size_t i = 0; i < checkpoint->n_shards; i++) {
        struct tp_safetensors *header = &opening->headers[i];
        for (size_t j = 0; j < header->n_entries; j++)
            take_tensor(&header->entries[j], &checkpoint->shards[i], &checkpoint->tensors[at++]);
        checkpoint->headers[i] = header->storage;
        header->storage = NULL;
    }
    return 0;
}

/* ---- agreement ---- */

static int compare_tensor_names(const void *a, const void *b)
{
    const struct tp_tensor *left = *(const struct tp_tensor *const *)a;
    const struct tp_tensor *right = *(const struct tp_tensor *const *)b;
    return tp_bytes_compare(left->name, left->name_length, right->name, right->name_length);
}

/* Each name in one shard only. */
static int check_names_are_unique(struct opening *opening)
{
    const struct tp_checkpoint *checkpoint = opening->checkpoint;
    const struct tp_tensor **by_name = calloc(checkpoint->n_tensors + 1, sizeof *by_name);
    if (by_name == NULL)
        return out_of_memory(opening);
    for (size_t i = 0; i < checkpoint->n_tensors; i++)
        by_name[i] = &checkpoint->tensors[i];
    qsort(by_name, checkpoint->n_tensors, sizeof *by_name, compare_tensor_names);
    int rc = 0;
    for (size_t i = 1; rc == 0 && i < checkpoint->n_tensors; i++) {
        if (compare_tensor_names(&by_name[i - 1], &by_name[i]) == 0)
            rc = tp_error_set(opening->error, -EINVAL,
                              "tensor \"%.*s\": expected in one shard, found in %s and %s",
                              tp_bytes_shown(by_name[i]->name, by_name[i]->name_length),
                              by_name[i]->name, by_name[i - 1]->shard->name,
                              by_name[i]->shard->name);
    }
    free(by_name);
    return rc;
}

/* The index names exactly the tensors of its shards. */
static int check_index(struct opening *opening)
{
    const struct tp_checkpoint *checkpoint = opening->checkpoint;
    for (size_t i = 0; i < checkpoint->n_tensors; i++) {
        const struct tp_tensor *tensor = &checkpoint->tensors[i];
        const char *file = tp_index_find(&opening->index, tensor->name, tensor->name_length);
        int shown = tp_bytes_shown(tensor->name, tensor->name_length);
        if (file == NULL)
            return tp_error_set(opening->error, -EINVAL,
                                "%s: tensor \"%.*s\" is in %s, but weight_map does not name it",
                                opening->index_file, shown, tensor->name, tensor->shard->name);
        if (strcmp(file, tensor->shard->name) != 0)
            return tp_error_set(
                opening->error, -EINVAL, "%s: tensor \"%.*s\": expected in %s, found in %s",
                opening->index_file, shown, tensor->name, file, tensor->shard->name);
    }
    if (opening->index.n_entries == checkpoint->n_tensors)
        return 0;
    /* Names are unique on both sides, so some name of the index has no tensor. */
    const struct tp_tensor **by_name = calloc(checkpoint->n_tensors + 1, sizeof *by_name);
    if (by_name == NULL)
        return out_of_memory(opening);
    for (size_t i = 0; i < checkpoint->n_tensors; i++)
        by_name[i] = &checkpoint->tensors[i];
    qsort(by_name, checkpoint->n_tensors, sizeof *by_name, compare_tensor_names);
    size_t at = 0;
    while (at < checkpoint->n_tensors &&
           tp_bytes_compare(opening->index.entries[at].name, opening->index.entries[at].name_length,
                            by_name[at]->name, by_name[at]->name_length) == 0)
        at++;
    free(by_name);
    const struct tp_index_entry *entry = &opening->index.entries[at];
    return tp_error_set(opening->error, -EINVAL, "%s: tensor \"%.*s\" is not in %s",
                        opening->index_file, tp_bytes_shown(entry->name, entry->name_length),
                        entry->name, entry->file);
}

/* Faults of this process, not of the file: it cannot be done without the file then. */
static bool is_lack(int rc)
{
    return rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM;
}

/* Whether config.json says quantization_config.quant_method: mxfp4. A file that cannot be read
 * says nothing. */
static int ask_config(struct opening *opening, bool *ret_is_mxfp4)
{
    char *text;
    size_t length;
    struct tp_error error;
    *ret_is_mxfp4 = false;
    if (opening->only_file != NULL || !is_named(opening, "config.json"))
        return 0;
    int rc = tp_bytes_read_file(opening->checkpoint->directory, "config.json", CONFIG_BYTES_MAX,
                                &text, &length, &error);
    if (is_lack(rc))
        return tp_error_set(opening->error, rc, "%s", error.text);
    if (rc < 0) {
        tp_log(opening->log, TP_LOG_WARNING, "%s; taken as if it were not there", error.text);
        return 0;
    }
    cJSON *config = cJSON_ParseWithLengthOpts(text, length + 1, NULL, true); /* with its NUL */
    free(text);
    if (config == NULL)
        tp_log(opening->log, TP_LOG_WARNING,
               "config.json: expected JSON, found something else; taken as if it were not there");
    const cJSON *quantization = cJSON_GetObjectItemCaseSensitive(config, "quantization_config");
    const cJSON *method = cJSON_GetObjectItemCaseSensitive(quantization, "quant_method");
    *ret_is_mxfp4 = cJSON_IsString(method) && strcmp(method->valuestring, "mxfp4") == 0;
    cJSON_Delete(config);
    return 0;
}

/* ---- other files ---- */

static bool is_shard(const struct tp_checkpoint *checkpoint, const char *name)
{
    for (size_t i = 0; i < checkpoint->n_shards; i++) {
        if (strcmp(checkpoint->shards[i].name, name) == 0)
            return true;
    }
    return false;
}

static int open_other_files(struct opening *opening)
{
    struct tp_checkpoint *checkpoint = opening->checkpoint;
    char **names = NULL;
    size_t n = 0;
    if (opening->only_file != NULL)
        return 0;
    int rc = list_folder(opening, &names, &n);
    if (rc < 0)
        return rc;
    checkpoint->others = calloc(n + 1, sizeof *checkpoint->others);
    if (checkpoint->others == NULL)
        rc = out_of_memory(opening);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        struct stat status;
        struct tp_error error;
        if (is_shard(checkpoint, names[i]) ||
            (opening->index_file != NULL && strcmp(names[i], opening->index_file) == 0) ||
            (!is_packed(opening, names[i]) &&
             (fstatat(checkpoint->directory, names[i], &status, 0) < 0 ||
              !S_ISREG(status.st_mode))))
            continue;
        rc = open_source(opening, &checkpoint->others[checkpoint->n_others], names[i], &error);
        if (rc == 0) {
            checkpoint->n_others++;
        } else if (is_lack(rc)) {
            tp_error_set(opening->error, rc, "%s", error.text);
        } else {
            tp_log(opening->log, TP_LOG_WARNING, "%s; left out", error.text);
            rc = 0;
        }
    }
    free_names(names, n);
    return rc;
}

/* ---- the whole ---- */

/* The path without links; but a file keeps its own name: in a hub cache it is a link, and what
 * it leads to is called by a hash. */
static int resolve(const char *path, bool is_folder, char **ret_path)
{
    const char *slash = strrchr(path, '/'), *name = slash == NULL ? path : slash + 1;
    char *parent = NULL, *folder = NULL, *whole = NULL;
    if (is_folder) {
        whole = realpath(path, NULL);
    } else if ((parent = strndup(path, (size_t)(name - path))) != NULL &&
               (folder = realpath(slash == NULL ? "." : parent, NULL)) != NULL) {
        if (asprintf(&whole, "%s/%s", strcmp(folder, "/") == 0 ? "" : folder, name) < 0)
            whole = NULL;
    }
    int rc = whole == NULL ? -errno : 0;
    free(parent);
    free(folder);
    *ret_path = whole;
    return rc;
}

/* What it is called is the same for a packed file. */
static void take_only_file(struct opening *opening)
{
    char *name = opening->checkpoint->name;
    size_t length = strlen(name), suffix = strlen(TP_PACKED_SUFFIX);
    opening->only_file = name;
    opening->only_is_packed = length > suffix && tp_bytes_end_with(name, length, TP_PACKED_SUFFIX);
    if (opening->only_is_packed)
        name[length - suffix] = '\0';
}

/* Opens the folder and tells a single file, an index and a folder apart. */
static int open_folder(struct opening *opening, const char *path)
{
    struct tp_checkpoint *checkpoint = opening->checkpoint;
    struct stat status;
    int rc = stat(path, &status) < 0 ? -errno : 0;
    if (rc == 0)
        rc = resolve(path, S_ISDIR(status.st_mode), &checkpoint->path);
    if (rc < 0 || checkpoint->path == NULL)
        return tp_error_set(opening->error, rc, "%s", strerror(-rc));
    char *slash = strrchr(checkpoint->path, '/');
    checkpoint->name = strdup(slash + 1);
    if (checkpoint->name == NULL)
        return out_of_memory(opening);
    const char *folder = checkpoint->path;
    char *parent = NULL;
    if (!S_ISDIR(status.st_mode)) {
        size_t length = strlen(checkpoint->name);
        if (tp_bytes_end_with(checkpoint->name, length, ".safetensors.index.json"))
            opening->index_file = checkpoint->name;
        else if (S_ISREG(status.st_mode))
            take_only_file(opening);
        else
            return tp_error_set(opening->error, -EINVAL,
                                "expected a folder or a .safetensors file");
        parent = strndup(checkpoint->path, (size_t)(slash - checkpoint->path) + 1);
        if (parent == NULL)
            return out_of_memory(opening);
        folder = parent;
    }
    checkpoint->directory = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    rc = checkpoint->directory < 0 ? -errno : 0;
    free(parent);
    return rc < 0 ? tp_error_set(opening->error, rc, "%s", strerror(-rc)) : 0;
}

static int open_all(struct opening *opening, const char *path)
{
    bool is_mxfp4 = false;
    int rc = open_folder(opening, path);
    if (rc == 0)
        rc = find_and_open_shards(opening);
    if (rc == 0)
        rc = read_headers(opening);
    if (rc == 0)
        rc = collect_tensors(opening);
    if (rc == 0)
        rc = check_names_are_unique(opening);
    if (rc == 0 && opening->index_file != NULL)
        rc = check_index(opening);
    if (rc == 0)
        rc = ask_config(opening, &is_mxfp4);
    if (rc == 0)
        rc = tp_mxfp4_find_pairs(opening->checkpoint, is_mxfp4, opening->log, opening->error);
    if (rc == 0)
        rc = open_other_files(opening);
    if (rc == 0 && tp_checkpoint_cache_blocks(opening->checkpoint, BLOCK_CACHE_BYTES) < 0)
        rc = out_of_memory(opening);
    return rc;
}

/* Puts the path, or the end of a long one, in front of the message. */
static int say_where(const char *path, int rc, struct tp_error *error)
{
    enum { SHOWN_MAX = 200 };
    size_t length = strlen(path), cut = length > SHOWN_MAX ? length - SHOWN_MAX : 0;
    if (rc == -EMFILE && error != NULL)
        tp_error_set(error, rc, "%s; raise the limit with 'ulimit -n'", error->text);
    return tp_error_prefix(error, rc, "%s%s", cut > 0 ? "..." : "", path + cut);
}

int tp_checkpoint_open(const char *path, const struct tp_log *log,
                       struct tp_checkpoint **ret_checkpoint, struct tp_error *error)
{
    struct opening opening = {.log = log, .error = error};
    opening.checkpoint = calloc(1, sizeof *opening.checkpoint);
    if (opening.checkpoint == NULL)
        return out_of_memory(&opening);
    opening.checkpoint->directory = -1;
    int rc = open_all(&opening, path);
    for (size_t i = 0; opening.headers != NULL && i < opening.checkpoint->n_shards; i++)
        tp_safetensors_clear(&opening.headers[i]);
    free(opening.headers);
    tp_index_clear(&opening.index);
    if (rc < 0) {
        tp_checkpoint_close(opening.checkpoint);
        return say_where(path, rc, error);
    }
    *ret_checkpoint = opening.checkpoint;
    return 0;
}

void tp_checkpoint_close(struct tp_checkpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    for (size_t i = 0; i < checkpoint->n_pairs; i++)
        free((uint64_t *)checkpoint->pairs[i].shape);
    free(checkpoint->pairs);
    free(checkpoint->pair_of);
    for (size_t i = 0; checkpoint->headers != NULL && i < checkpoint->n_shards; i++)
        free(checkpoint->headers[i]);
    free(checkpoint->headers);
    free(checkpoint->tensors);
    for (size_t i = 0; i < checkpoint->n_shards; i++)
        tp_source_close(&checkpoint->shards[i]);
    free(checkpoint->shards);
    for (size_t i = 0; i < checkpoint->n_others; i++)
        tp_source_close(&checkpoint->others[i]);
    free(checkpoint->others);
    tp_blocks_free(checkpoint->blocks);
    if (checkpoint->directory >= 0)
        close(checkpoint->directory);
    free(checkpoint->name);
    free(checkpoint->path);
    free(checkpoint);
}

int tp_checkpoint_cache_blocks(struct tp_checkpoint *checkpoint, size_t capacity)
{
    return checkpoint->blocks == NULL ? 0 : tp_blocks_reserve(checkpoint->blocks, capacity);
}
