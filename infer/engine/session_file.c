#include "infer/engine/session_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "infer/model/fingerprint.h"

static const char magic[8] = "\x89TPSESS\n";

enum { VERSION = 1, HEADER_HASHED = 56, SUM_BYTES = 16, POSITIONS_AT_A_TIME = 64 };

struct header {
    char magic[8];
    uint32_t version, width;
    struct tp_fingerprint model;
    uint64_t n_tokens, note_length, n_layers;
    uint64_t sum;
};
_Static_assert(sizeof(struct header) == 64, "the file's header has no padding");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file has the memory's byte order");

/* A file that is being read or written, with the checksum of what went through it. */
struct stream {
    const char *path;
    FILE *file;
    XXH3_state_t *hash;
    struct tp_error *error;
};

static uint64_t header_sum(const struct header *header)
{
    return XXH3_64bits(header, HEADER_HASHED);
}

static size_t position_bytes(const struct tp_model_config *config, size_t width)
{
    return 2 * config->n_kv_heads * config->head_dim * width;
}

static int open_hash(struct stream *stream)
{
    stream->hash = XXH3_createState();
    if (stream->hash == NULL)
        return tp_error_set(stream->error, -ENOMEM, "%s: out of memory", stream->path);
    XXH3_128bits_reset(stream->hash);
    return 0;
}

static XXH128_canonical_t sum_of(const struct stream *stream)
{
    XXH128_canonical_t sum;
    XXH128_canonicalFromHash(&sum, XXH3_128bits_digest(stream->hash));
    return sum;
}

/* ---- writing */

static int fail_to_write(const struct stream *stream)
{
    int rc = errno > 0 ? -errno : -EIO;
    return tp_error_set(stream->error, rc, "%s: cannot write: %s", stream->path, strerror(-rc));
}

static int put(struct stream *stream, const void *bytes, size_t length)
{
    errno = 0;
    if (length > 0 && fwrite(bytes, 1, length, stream->file) != length)
        return fail_to_write(stream);
    XXH3_128bits_update(stream->hash, bytes, length);
    return 0;
}

static int put_layer(struct stream *stream, const struct tp_session *session, size_t layer,
                     void *buffer, size_t bytes)
{
    const struct tp_backend_kind *kind = session->kind;
    size_t at = kind->sequence_first(session->sequence, layer);
    int rc = 0;
    while (rc == 0 && at < session->length) {
        size_t left = session->length - at;
        size_t n = left < POSITIONS_AT_A_TIME ? left : (size_t)POSITIONS_AT_A_TIME;
        rc = kind->sequence_export(session->sequence, layer, at, n, buffer);
        if (rc < 0)
            return tp_error_set(stream->error, rc, "cannot read keys and values: %s",
                                strerror(-rc));
        rc = put(stream, buffer, n * bytes);
        at += n;
    }
    return rc;
}

static int put_layers(struct stream *stream, const struct tp_session *session)
{
    const struct tp_backend_kind *kind = session->kind;
    size_t bytes = position_bytes(session->config, kind->sequence_width(session->sequence));
    void *buffer = malloc(POSITIONS_AT_A_TIME * bytes);
    int rc = 0;
    if (buffer == NULL)
        return tp_error_set(stream->error, -ENOMEM, "%s: out of memory", stream->path);
    for (size_t i = 0; rc == 0 && i < session->config->n_layers; i++) {
        uint64_t first = kind->sequence_first(session->sequence, i);
        rc = put(stream, &first, sizeof first);
    }
    for (size_t i = 0; rc == 0 && i < session->config->n_layers; i++)
        rc = put_layer(stream, session, i, buffer, bytes);
    free(buffer);
    return rc;
}

static int put_all(struct stream *stream, const struct tp_session *session,
                   const struct tp_model *model, const void *note, size_t note_length)
{
    struct header header = {.version = VERSION,
                            .width = (uint32_t)session->kind->sequence_width(session->sequence),
                            .n_tokens = session->length,
                            .note_length = note_length,
                            .n_layers = model->config.n_layers};
    memcpy(header.magic, magic, sizeof magic);
    int rc = tp_model_fingerprint(model, &header.model);
    if (rc < 0)
        return tp_error_set(stream->error, rc, "%s: out of memory", stream->path);
    header.sum = header_sum(&header);
    rc = put(stream, &header, sizeof header);
    if (rc == 0)
        rc = put(stream, session->tokens, session->length * sizeof *session->tokens);
    if (rc == 0)
        rc = put_layers(stream, session);
    if (rc == 0)
        rc = put(stream, note, note_length);
    XXH128_canonical_t sum = sum_of(stream);
    if (rc == 0)
        rc = put(stream, &sum, sizeof sum);
    errno = 0;
    if (rc == 0 && (fflush(stream->file) != 0 || fsync(fileno(stream->file)) < 0))
        rc = fail_to_write(stream);
    return rc;
}

/* Where the file is about to be. Some file systems cannot, and need not. */
static void flush_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash == NULL ? strdup(".") : strndup(path, (size_t)(slash - path) + 1);
    int fd = folder == NULL ? -1 : open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(folder);
}

/* Opens a file of a new name, which takes the place of the X in `partial`. */
static int open_partial(struct stream *stream, char *partial)
{
    int fd = mkostemp(partial, O_CLOEXEC);
    stream->file = fd < 0 ? NULL : fdopen(fd, "w");
    if (stream->file != NULL)
        return 0;
    int rc = fail_to_write(stream);
    if (fd >= 0) {
        unlink(partial);
        close(fd);
    }
    return rc;
}

/* Writes the file beside its name, then gives it the name. */
static int replace_file(struct stream *stream, char *partial, const struct tp_session *session,
                        const struct tp_model *model, const void *note, size_t note_length)
{
    int rc = open_partial(stream, partial);
    if (rc < 0)
        return rc;
    rc = put_all(stream, session, model, note, note_length);
    errno = 0;
    if (fclose(stream->file) != 0 && rc == 0)
        rc = fail_to_write(stream);
    if (rc == 0 && rename(partial, stream->path) < 0)
        rc = fail_to_write(stream);
    if (rc < 0)
        unlink(partial);
    else
        flush_folder(stream->path);
    return rc;
}

int tp_session_save(const struct tp_session *session, const struct tp_model *model,
                    const void *note, size_t note_length, const char *path, struct tp_error *error)
{
    struct stream stream = {.path = path, .error = error};
    char *partial;
    if (note_length > TP_SESSION_NOTE_MAX)
        return tp_error_set(error, -EFBIG, "%s: expected a note of at most %d bytes, found %zu",
                            path, TP_SESSION_NOTE_MAX, note_length);
    if (asprintf(&partial, "%s.XXXXXX", path) < 0)
        return tp_error_set(error, -ENOMEM, "%s: out of memory", path);
    int rc = open_hash(&stream);
    if (rc == 0)
        rc = replace_file(&stream, partial, session, model, note, note_length);
    XXH3_freeState(stream.hash);
    free(partial);
    return rc;
}

/* ---- reading */

static int damaged(const struct stream *stream, const char *what)
{
    return tp_error_set(stream->error, -EINVAL, "%s: the file is damaged: %s", stream->path, what);
}

static int get(struct stream *stream, void *bytes, size_t length)
{
    errno = 0;
    if (length > 0 && fread(bytes, 1, length, stream->file) != length) {
        int rc = errno != 0 ? -errno : -EIO;
        return errno == 0 ? damaged(stream, "it ends too early")
                          : tp_error_set(stream->error, rc, "%s: cannot read: %s", stream->path,
                                         strerror(-rc));
    }
    XXH3_128bits_update(stream->hash, bytes, length);
    return 0;
}

static int open_file(struct stream *stream, uint64_t *ret_length)
{
    struct stat status;
    int fd = open(stream->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        int rc = -errno;
        return tp_error_set(stream->error, rc, "%s: cannot open: %s", stream->path, strerror(-rc));
    }
    if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode)) {
        close(fd);
        return tp_error_set(stream->error, -EINVAL, "%s: expected a regular file", stream->path);
    }
    stream->file = fdopen(fd, "r");
    if (stream->file == NULL) {
        close(fd);
        return tp_error_set(stream->error, -ENOMEM, "%s: out of memory", stream->path);
    }
    *ret_length = (uint64_t)status.st_size;
    return 0;
}

static const char *type_name(size_t width)
{
    return width == sizeof(float) ? "f32" : "bf16";
}

/* What the header says, against the session that is to hold it. */
static int check_header(const struct stream *stream, const struct header *header,
                        const struct tp_session *session, const struct tp_fingerprint *model)
{
    size_t width = session->kind->sequence_width(session->sequence);
    if (memcmp(header->magic, magic, sizeof magic) != 0)
        return tp_error_set(stream->error, -EINVAL, "%s: expected a session that tpinfer saved",
                            stream->path);
    if (header->sum != header_sum(header))
        return damaged(stream, "its header's checksum differs");
    if (header->version != VERSION)
        return tp_error_set(stream->error, -EINVAL,
                            "%s: expected a session of version %d, found %" PRIu32, stream->path,
                            VERSION, header->version);
    if (memcmp(&header->model, model, sizeof *model) != 0 ||
        header->n_layers != session->config->n_layers)
        return tp_error_set(stream->error, -EINVAL, "%s: the session belongs to another model",
                            stream->path);
    if (header->width != sizeof(float) && header->width != sizeof(uint16_t))
        return damaged(stream, "it has numbers of no known type");
    if (header->width != width)
        return tp_error_set(stream->error, -EINVAL,
                            "%s: expected keys and values in %s, found %s; give --kv-type %s",
                            stream->path, type_name(width), type_name(header->width),
                            type_name(header->width));
    if (header->n_tokens > session->context)
        return tp_error_set(stream->error, -ENOSPC,
                            "%s: the session has %" PRIu64
                            " tokens, the context room for %zu; give a larger --context",
                            stream->path, header->n_tokens, session->context);
    if (header->note_length > TP_SESSION_NOTE_MAX)
        return damaged(stream, "its note is too long");
    return 0;
}

static int get_tokens(struct stream *stream, const struct header *header,
                      struct tp_session *session)
{
    size_t n = (size_t)header->n_tokens;
    int rc = get(stream, session->tokens, n * sizeof *session->tokens);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        if (session->tokens[i] >= session->config->vocab_size)
            rc = damaged(stream, "it has tokens that the model has not");
    }
    return rc;
}

/* Where each layer begins; all lengths are known then, and must make up the file's. */
static int get_firsts(struct stream *stream, const struct header *header,
                      const struct tp_session *session, uint64_t file_length, size_t *firsts)
{
    size_t n_layers = session->config->n_layers;
    uint64_t positions = 0, total, n = header->n_tokens;
    for (size_t i = 0; i < n_layers; i++) {
        uint64_t first;
        int rc = get(stream, &first, sizeof first);
        if (rc < 0)
            return rc;
        if (first > n || (first > 0 && session->config->windows[i] == 0))
            return damaged(stream, "a layer lacks positions");
        firsts[i] = (size_t)first;
        if (__builtin_add_overflow(positions, n - first, &positions))
            return damaged(stream, "it has more positions than can be counted");
    }
    if (__builtin_mul_overflow(positions, position_bytes(session->config, header->width), &total) ||
        __builtin_add_overflow(total, sizeof *header + n * sizeof(uint32_t), &total) ||
        __builtin_add_overflow(total, n_layers * sizeof(uint64_t), &total) ||
        __builtin_add_overflow(total, header->note_length + SUM_BYTES, &total) ||
        total != file_length)
        return damaged(stream, "it is not as long as it says");
    return 0;
}

static int get_layer(struct stream *stream, const struct tp_session *session, size_t layer,
                     size_t first, size_t n_tokens, void *buffer, size_t bytes)
{
    for (size_t at = first; at < n_tokens;) {
        size_t left = n_tokens - at;
        size_t n = left < POSITIONS_AT_A_TIME ? left : (size_t)POSITIONS_AT_A_TIME;
        int rc = get(stream, buffer, n * bytes);
        if (rc < 0)
            return rc;
        rc = session->kind->sequence_import(session->sequence, layer, at, n, buffer);
        if (rc < 0)
            return tp_error_set(stream->error, rc, "cannot store keys and values: %s",
                                strerror(-rc));
        at += n;
    }
    return 0;
}

static int get_layers(struct stream *stream, const struct header *header,
                      struct tp_session *session, uint64_t file_length)
{
    size_t n_layers = session->config->n_layers;
    size_t bytes = position_bytes(session->config, header->width);
    size_t *firsts = calloc(n_layers, sizeof *firsts);
    void *buffer = malloc(POSITIONS_AT_A_TIME * bytes);
    int rc = firsts == NULL || buffer == NULL
                 ? tp_error_set(stream->error, -ENOMEM, "%s: out of memory", stream->path)
                 : get_firsts(stream, header, session, file_length, firsts);
    for (size_t i = 0; rc == 0 && i < n_layers; i++)
        rc = get_layer(stream, session, i, firsts[i], (size_t)header->n_tokens, buffer, bytes);
    if (rc == 0 &&
        session->kind->sequence_resume(session->sequence, firsts, (size_t)header->n_tokens) < 0)
        rc = damaged(stream, "a layer lacks positions");
    session->length = (size_t)header->n_tokens;
    free(firsts);
    free(buffer);
    return rc;
}

static int get_note(struct stream *stream, const struct header *header, char **ret_note)
{
    XXH128_canonical_t found, expected;
    char *note = calloc(1, (size_t)header->note_length + 1);
    if (note == NULL)
        return tp_error_set(stream->error, -ENOMEM, "%s: out of memory", stream->path);
    int rc = get(stream, note, (size_t)header->note_length);
    expected = sum_of(stream);
    if (rc == 0)
        rc = get(stream, &found, sizeof found);
    if (rc == 0 && memcmp(&found, &expected, sizeof found) != 0)
        rc = damaged(stream, "its checksum differs");
    if (rc < 0)
        free(note);
    else
        *ret_note = note;
    return rc;
}

/* Fills `session`, which is new. */
static int get_all(struct stream *stream, const struct tp_model *model, struct tp_session *session,
                   char **ret_note, size_t *ret_note_length)
{
    struct tp_fingerprint fingerprint;
    struct header header;
    uint64_t length = 0;
    int rc = open_file(stream, &length);
    if (rc == 0 && tp_model_fingerprint(model, &fingerprint) < 0)
        rc = tp_error_set(stream->error, -ENOMEM, "%s: out of memory", stream->path);
    if (rc == 0 && length < sizeof header)
        rc = tp_error_set(stream->error, -EINVAL, "%s: expected a session that tpinfer saved",
                          stream->path);
    if (rc == 0)
        rc = get(stream, &header, sizeof header);
    if (rc == 0)
        rc = check_header(stream, &header, session, &fingerprint);
    if (rc == 0)
        rc = get_tokens(stream, &header, session);
    if (rc == 0)
        rc = get_layers(stream, &header, session, length);
    if (rc == 0)
        rc = get_note(stream, &header, ret_note);
    if (rc == 0)
        *ret_note_length = (size_t)header.note_length;
    return rc;
}

int tp_session_load(struct tp_session *session, const struct tp_model *model, const char *path,
                    char **ret_note, size_t *ret_note_length, struct tp_error *error)
{
    struct stream stream = {.path = path, .error = error};
    struct tp_session loaded = {0};
    int rc = tp_session_open(session->kind, session->backend, session->config, session->context,
                             &loaded, error);
    if (rc < 0)
        tp_error_prefix(error, rc, "%s", path);
    else
        rc = open_hash(&stream);
    if (rc == 0)
        rc = get_all(&stream, model, &loaded, ret_note, ret_note_length);
    if (rc == 0) {
        struct tp_session old = *session;
        *session = loaded;
        loaded = old;
    }
    if (loaded.kind != NULL)
        tp_session_close(&loaded);
    if (stream.file != NULL)
        fclose(stream.file);
    XXH3_freeState(stream.hash);
    return rc;
}
