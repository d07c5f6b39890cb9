#include "fs/view/checksums.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "fs/base/text.h"
#include "fs/view/extents.h"

enum { BUFFER_BYTES = 256 << 10 };

struct record {
    struct tp_extents read; /* what of the file was delivered */
    bool is_read;
    bool is_hashed;
    XXH128_canonical_t hash;
};

struct tp_checksums {
    const struct tp_view *view;
    pthread_mutex_t computing; /* held while files are decoded: one at a time is enough */
    pthread_mutex_t lock;      /* protects the records; taken inside `computing` */
    struct record *records;    /* [view->n_files] */
};

int tp_checksums_new(const struct tp_view *view, struct tp_checksums **ret_checksums)
{
    struct tp_checksums *checksums = calloc(1, sizeof *checksums);
    if (checksums == NULL)
        return -ENOMEM;
    checksums->view = view;
    checksums->records = calloc(view->n_files + 1, sizeof *checksums->records);
    if (checksums->records == NULL) {
        free(checksums);
        return -ENOMEM;
    }
    pthread_mutex_init(&checksums->computing, NULL);
    pthread_mutex_init(&checksums->lock, NULL);
    *ret_checksums = checksums;
    return 0;
}

void tp_checksums_free(struct tp_checksums *checksums)
{
    if (checksums == NULL)
        return;
    pthread_mutex_destroy(&checksums->computing);
    pthread_mutex_destroy(&checksums->lock);
    free(checksums->records);
    free(checksums);
}

void tp_checksums_note_read(struct tp_checksums *checksums, size_t file, uint64_t offset,
                            size_t length)
{
    struct record *record = &checksums->records[file];
    pthread_mutex_lock(&checksums->lock);
    if (!record->is_read) {
        tp_extents_add(&record->read, offset, offset + length);
        record->is_read =
            tp_extents_cover(&record->read, tp_content_size(&checksums->view->files[file].content));
    }
    pthread_mutex_unlock(&checksums->lock);
}

size_t tp_checksums_line(const uint8_t hash[16], const char *path, FILE *stream)
{
    size_t length = 32 + 2 + strlen(path) + 1, escapes = 0;
    for (const char *at = path; *at != '\0'; at++)
        escapes += *at == '\\' || *at == '\n';
    if (stream != NULL) {
        if (escapes > 0)
            fputc('\\', stream);
        for (size_t i = 0; i < 16; i++)
            fprintf(stream, "%02x", hash[i]);
        fputs("  ", stream);
        for (const char *at = path; *at != '\0'; at++) {
            if (*at == '\\' || *at == '\n')
                fprintf(stream, "\\%c", *at == '\n' ? 'n' : '\\');
            else
                fputc(*at, stream);
        }
        fputc('\n', stream);
    }
    return length + escapes + (escapes > 0);
}

static bool is_read(struct tp_checksums *checksums, size_t file)
{
    pthread_mutex_lock(&checksums->lock);
    bool yes = checksums->records[file].is_read;
    pthread_mutex_unlock(&checksums->lock);
    return yes;
}

size_t tp_checksums_length(struct tp_checksums *checksums)
{
    size_t length = 0;
    for (size_t i = 0; i < checksums->view->n_files; i++) {
        char path[TP_FILE_PATH_MAX];
        if (!is_read(checksums, i))
            continue;
        tp_view_file_path(&checksums->view->files[i], path);
        length += tp_checksums_line(NULL, path, NULL);
    }
    return length;
}

static int hash_content(const struct tp_content *content, void *buffer, XXH3_state_t *state,
                        XXH128_canonical_t *ret_hash)
{
    uint64_t size = tp_content_size(content);
    XXH3_128bits_reset(state);
    for (uint64_t offset = 0; offset < size; offset += BUFFER_BYTES) {
        size_t now = size - offset < BUFFER_BYTES ? (size_t)(size - offset) : BUFFER_BYTES;
        int rc = tp_content_read(content, offset, now, buffer);
        if (rc < 0)
            return rc;
        XXH3_128bits_update(state, buffer, now);
    }
    XXH128_canonicalFromHash(ret_hash, XXH3_128bits_digest(state));
    return 0;
}

/* Hashes file `i` if that has not been done; only the holder of `computing` comes here. */
static bool hash_file(struct tp_checksums *checksums, size_t i, void *buffer, XXH3_state_t *state)
{
    struct record *record = &checksums->records[i];
    if (!record->is_hashed)
        record->is_hashed =
            hash_content(&checksums->view->files[i].content, buffer, state, &record->hash) == 0;
    return record->is_hashed;
}

/* The lines, in the order of the view. */
static void write_lines(struct tp_checksums *checksums, void *buffer, XXH3_state_t *state,
                        FILE *stream)
{
    pthread_mutex_lock(&checksums->computing);
    for (size_t i = 0; i < checksums->view->n_files; i++) {
        char path[TP_FILE_PATH_MAX];
        if (!is_read(checksums, i) || !hash_file(checksums, i, buffer, state))
            continue;
        tp_view_file_path(&checksums->view->files[i], path);
        tp_checksums_line(checksums->records[i].hash.digest, path, stream);
    }
    pthread_mutex_unlock(&checksums->computing);
}

int tp_checksums_text(struct tp_checksums *checksums, char **ret_text, size_t *ret_length)
{
    struct tp_text text;
    void *buffer = malloc(BUFFER_BYTES);
    XXH3_state_t *state = XXH3_createState();
    int rc = tp_text_open(&text);
    if (rc == 0 && (buffer == NULL || state == NULL))
        rc = -ENOMEM;
    if (rc == 0)
        write_lines(checksums, buffer, state, text.stream);
    rc = tp_text_close(&text, rc, ret_text, ret_length);
    XXH3_freeState(state);
    free(buffer);
    return rc;
}
