#include "infer/cli/trace_files.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decode/npy.h"
#include "fs/base/bytes.h"
#include "fs/base/io.h"

enum { FILE_NAME_MAX = 64, SHAPE_MAX = 3, DIGITS = 4 };

struct tp_trace_file {
    char file[FILE_NAME_MAX];
    const char *name; /* of the stage; a constant */
    size_t layer;
    bool of_layer; /* otherwise of the whole model */
    enum tp_dtype dtype;
    uint64_t shape[SHAPE_MAX];
    size_t rank, header_bytes;
};

/* ---- the folder ---- */

/* "0012_...npy" or "index.json". */
static bool is_ours(const char *name)
{
    for (size_t i = 0; i < DIGITS; i++) {
        if (!isdigit((unsigned char)name[i]))
            return strcmp(name, "index.json") == 0;
    }
    return name[DIGITS] == '_' && tp_bytes_end_with(name, strlen(name), ".npy");
}

static int sweep(int directory, const char *path, bool force, struct tp_error *error)
{
    int copy = fcntl(directory, F_DUPFD_CLOEXEC, 0), rc = 0;
    DIR *list = copy < 0 ? NULL : fdopendir(copy);
    struct dirent *entry;
    if (list == NULL) {
        rc = tp_error_set(error, -errno, "%s: cannot read: %s", path, strerror(errno));
        if (copy >= 0)
            close(copy);
        return rc;
    }
    while (rc == 0 && (entry = readdir(list)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (!force)
            rc = tp_error_set(error, -EEXIST,
                              "%s: expected a folder that is empty or not there yet; --force "
                              "replaces an earlier trace",
                              path);
        else if (is_ours(entry->d_name) && unlinkat(directory, entry->d_name, 0) < 0)
            rc = tp_error_set(error, -errno, "%s/%s: cannot remove: %s", path, entry->d_name,
                              strerror(errno));
    }
    closedir(list);
    return rc;
}

int tp_trace_files_open(struct tp_trace_files *files, const char *path, bool force,
                        struct tp_error *error)
{
    if (mkdir(path, 0777) < 0 && errno != EEXIST)
        return tp_error_set(error, -errno, "%s: cannot make the folder: %s", path, strerror(errno));
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return tp_error_set(error, -errno, "%s: cannot open the folder: %s", path, strerror(errno));
    int rc = sweep(directory, path, force, error);
    if (rc < 0) {
        close(directory);
        return rc;
    }
    *files = (struct tp_trace_files){.directory = directory, .is_open = true};
    return 0;
}

/* ---- a file ---- */

static void describe(const struct tp_trace_files *files, struct tp_trace_file *file,
                     const char *name, size_t layer, size_t columns)
{
    static const struct {
        const char *name;
        bool all_heads;
    } by_heads[] = {{"queries", true}, {"keys", false}, {"values", false}, {"mixed", true}};
    const struct tp_model_config *config = files->config;
    *file = (struct tp_trace_file){
        .name = name,
        .layer = layer,
        .of_layer = layer < config->n_layers && strcmp(name, "embedding") != 0,
        .dtype = strcmp(name, "router_experts") == 0 ? TP_I32 : TP_F32,
        .shape = {files->n_tokens, columns},
        .rank = 2,
    };
    for (size_t i = 0; i < sizeof by_heads / sizeof *by_heads; i++) {
        if (strcmp(name, by_heads[i].name) != 0)
            continue;
        file->shape[1] = by_heads[i].all_heads ? config->n_heads : config->n_kv_heads;
        file->shape[2] = config->head_dim;
        file->rank = 3;
    }
    if (file->of_layer)
        snprintf(file->file, sizeof file->file, "%0*zu_layer_%02zu_%s.npy", DIGITS, files->n, layer,
                 name);
    else
        snprintf(file->file, sizeof file->file, "%0*zu_%s.npy", DIGITS, files->n, name);
    file->header_bytes = tp_npy_header_length(file->dtype, file->shape, file->rank);
}

static int fail(struct tp_trace_files *files, const char *name, int rc)
{
    if (files->rc == 0)
        files->rc = tp_error_set(&files->error, rc, "%s: cannot write: %s", name, strerror(-rc));
    return rc;
}

static int write_at(struct tp_trace_files *files, const char *name, int flags, const void *bytes,
                    size_t length, uint64_t offset)
{
    int fd = openat(files->directory, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, 0666);
    if (fd < 0)
        return fail(files, name, -errno);
    int rc = tp_write_at(fd, bytes, length, offset);
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    return rc < 0 ? fail(files, name, rc) : 0;
}

static struct tp_trace_file *begin_file(struct tp_trace_files *files, const char *name,
                                        size_t layer, size_t columns)
{
    if (files->n == files->room) {
        size_t room = 2 * files->room + 64;
        struct tp_trace_file *larger = realloc(files->files, room * sizeof *larger);
        if (larger == NULL) {
            fail(files, name, -ENOMEM);
            return NULL;
        }
        files->files = larger;
        files->room = room;
    }
    struct tp_trace_file *file = &files->files[files->n];
    describe(files, file, name, layer, columns);
    char *header = malloc(file->header_bytes);
    int rc = header == NULL ? fail(files, name, -ENOMEM) : 0;
    if (rc == 0) {
        tp_npy_header_write(file->dtype, file->shape, file->rank, header);
        rc = write_at(files, file->file, O_CREAT | O_EXCL, header, file->header_bytes, 0);
    }
    free(header);
    files->n += rc == 0;
    return rc == 0 ? file : NULL;
}

static struct tp_trace_file *find_file(struct tp_trace_files *files, const char *name, size_t layer)
{
    for (size_t i = 0; i < files->n; i++) {
        if (files->files[i].layer == layer && strcmp(files->files[i].name, name) == 0)
            return &files->files[i];
    }
    return NULL;
}

/* int32 in place of float32, which has the same width. */
static int32_t *to_numbers(const float *values, size_t n)
{
    int32_t *numbers = malloc(n * sizeof *numbers + 1);
    for (size_t i = 0; numbers != NULL && i < n; i++)
        numbers[i] = (int32_t)values[i];
    return numbers;
}

static void add(struct tp_trace_files *files, const char *name, size_t layer, size_t first,
                const float *values, size_t rows, size_t columns)
{
    struct tp_trace_file *file = find_file(files, name, layer);
    if (files->rc == 0 && file == NULL)
        file = begin_file(files, name, layer, columns);
    if (files->rc < 0 || file == NULL)
        return;
    uint64_t row_bytes = columns * sizeof *values, offset = file->header_bytes + first * row_bytes;
    if (file->dtype == TP_F32) {
        write_at(files, file->file, 0, values, rows * row_bytes, offset);
        return;
    }
    int32_t *numbers = to_numbers(values, rows * columns);
    if (numbers == NULL)
        fail(files, file->file, -ENOMEM);
    else
        write_at(files, file->file, 0, numbers, rows * row_bytes, offset);
    free(numbers);
}

/* ---- what is written ---- */

static void see(void *context, const char *name, size_t layer, const float *values, size_t rows,
                size_t columns)
{
    struct tp_trace_files *files = context;
    if (strcmp(name, "embedding") == 0)
        files->n_step = rows;
    add(files, name, layer, files->session->length + files->n_step - rows, values, rows, columns);
}

void tp_trace_files_attach(struct tp_trace_files *files, struct tp_session *session,
                           size_t n_tokens)
{
    files->session = session;
    files->config = session->config;
    files->n_tokens = n_tokens;
    files->trace = (struct tp_trace){.see = see, .context = files};
    session->trace = &files->trace;
}

void tp_trace_files_add_logits(struct tp_trace_files *files, size_t position, const float *logits)
{
    add(files, "logits", files->config->n_layers, position, logits, 1, files->config->vocab_size);
}

static cJSON *list_files(const struct tp_trace_files *files)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < files->n; i++) {
        const struct tp_trace_file *file = &files->files[i];
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "file", file->file);
        cJSON_AddStringToObject(object, "name", file->name);
        cJSON_AddItemToObject(object, "layer",
                              file->of_layer ? cJSON_CreateNumber((double)file->layer)
                                             : cJSON_CreateNull());
        cJSON *shape = cJSON_AddArrayToObject(object, "shape");
        for (size_t axis = 0; axis < file->rank; axis++)
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)file->shape[axis]));
        cJSON_AddStringToObject(object, "dtype", tp_dtype_numpy_name(file->dtype));
        cJSON_AddItemToArray(list, object);
    }
    return list;
}

int tp_trace_files_end(struct tp_trace_files *files, cJSON *about, struct tp_error *error)
{
    char *text = NULL;
    if (files->rc == 0) {
        cJSON_AddItemToObject(about, "files", list_files(files));
        text = cJSON_Print(about);
        if (text == NULL)
            fail(files, "index.json", -ENOMEM);
        else
            write_at(files, "index.json", O_CREAT | O_EXCL, text, strlen(text), 0);
        cJSON_free(text);
    }
    cJSON_Delete(about);
    if (files->rc < 0)
        *error = files->error;
    return files->rc;
}

void tp_trace_files_close(struct tp_trace_files *files)
{
    if (files->is_open)
        close(files->directory);
    free(files->files);
    *files = (struct tp_trace_files){0};
}
