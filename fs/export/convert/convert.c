#include "fs/export/convert/convert.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "fs/base/amount.h"
#include "fs/base/bytes.h"
#include "fs/base/io.h"
#include "fs/base/text.h"
#include "fs/export/convert/journal.h"
#include "fs/view/checksums.h"

static const char xxh3_name[] = "XXH3SUMS", sha256_name[] = "SHA256SUMS";
static const char manifest_name[] = "manifest.json";

static const struct tp_artifact *find_artifact(const struct tp_export_plan *plan, const char *path)
{
    for (size_t i = 0; i < plan->n_artifacts; i++) {
        if (strcmp(plan->artifacts[i].path, path) == 0)
            return &plan->artifacts[i];
    }
    return NULL;
}

/* The view keeps the names of the checksums free, but not that of the journal's folder. */
static int check_names(const struct tp_convert_options *options, struct tp_error *error)
{
    if (find_artifact(options->plan, TP_CONVERT_STATE) == NULL)
        return 0;
    return tp_error_set(error, -EEXIST,
                        "%s: the checkpoint has a file called " TP_CONVERT_STATE
                        ", which convert needs for itself; rename it",
                        options->plan->view->checkpoint->path);
}

/* A folder without a journal is ours if its manifest is the very one we would write. */
static int check_finished(const struct tp_convert_options *options, int folder,
                          struct tp_error *error)
{
    const struct tp_artifact *artifact = find_artifact(options->plan, manifest_name);
    struct tp_artifact_scratch scratch = {0};
    struct tp_error ignored;
    char *found = NULL, *wanted = malloc((size_t)artifact->size + 1);
    size_t length;
    int rc = wanted == NULL
                 ? -ENOMEM
                 : tp_artifact_read(artifact, 0, (size_t)artifact->size, wanted, &scratch);
    bool same = rc == 0 &&
                tp_bytes_read_file(folder, manifest_name, (size_t)artifact->size, &found, &length,
                                   &ignored) == 0 &&
                length == artifact->size && memcmp(found, wanted, length) == 0;
    tp_artifact_scratch_clear(&scratch);
    free(found);
    free(wanted);
    if (rc < 0)
        return tp_error_set(error, rc, "out of memory");
    if (!same)
        return tp_error_set(error, -ENOTEMPTY,
                            "%s: holds something else, or what other options made; name a new "
                            "folder",
                            options->output);
    return 0;
}

/* ---- checksums ---- */

static void print_sha256_line(const uint8_t digest[TP_SHA256_BYTES], const char *path, FILE *stream)
{
    bool escape = strpbrk(path, "\\\n\r") != NULL;
    if (escape)
        fputc('\\', stream);
    for (size_t i = 0; i < TP_SHA256_BYTES; i++)
        fprintf(stream, "%02x", digest[i]);
    fputs("  ", stream);
    for (const char *at = path; *at != '\0'; at++) {
        if (*at == '\n' || *at == '\r' || *at == '\\')
            fprintf(stream, "\\%c", *at == '\n' ? 'n' : *at == '\r' ? 'r' : '\\');
        else
            fputc(*at, stream);
    }
    fputc('\n', stream);
}

static int make_sums(const struct tp_export_plan *plan, const struct tp_written *written,
                     bool sha256, char **ret_text, size_t *ret_length)
{
    struct tp_text text;
    int rc = tp_text_open(&text);
    for (size_t i = 0; rc == 0 && i < plan->n_artifacts; i++) {
        if (sha256)
            print_sha256_line(written[i].digests.sha256, plan->artifacts[i].path, text.stream);
        else
            tp_checksums_line(written[i].digests.xxh3, plan->artifacts[i].path, text.stream);
    }
    return tp_text_close(&text, rc, ret_text, ret_length);
}

static int write_sums(const struct tp_convert_options *options, const struct tp_journal *journal,
                      const struct tp_written *written, bool sha256, struct tp_error *error)
{
    const char *name = sha256 ? sha256_name : xxh3_name;
    char *text;
    size_t length;
    int rc = make_sums(options->plan, written, sha256, &text, &length);
    if (rc < 0)
        return tp_error_set(error, rc, "out of memory");
    int fd =
        openat(journal->state, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    rc = fd < 0 ? -errno : tp_write_at(fd, text, length, 0);
    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    if (fd >= 0)
        close(fd);
    free(text);
    if (rc == 0 && renameat(journal->state, name, journal->folder, name) < 0)
        rc = -errno;
    return rc < 0 ? tp_error_set(error, rc, "%s/%s: cannot write: %s", options->output, name,
                                 strerror(-rc))
                  : 0;
}

/* ---- all of it ---- */

/* The names in the folders must be on the disk before the journal goes. */
static void sync_folders(const struct tp_convert_options *options, int folder)
{
    char previous[TP_FILE_PATH_MAX] = "";
    for (size_t i = 0; i < options->plan->n_artifacts; i++) {
        const char *path = options->plan->artifacts[i].path, *slash = strchr(path, '/');
        char name[TP_FILE_PATH_MAX];
        if (slash == NULL)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(slash - path), path);
        if (strcmp(name, previous) == 0)
            continue;
        int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0) {
            fsync(fd);
            close(fd);
        }
        memcpy(previous, name, sizeof previous);
    }
    fsync(folder);
}

/* Not an error: a file system may compress, or share with the checkpoint. */
static void warn_of_room(const struct tp_convert_options *options, const struct tp_journal *journal)
{
    struct statvfs system;
    char wanted[TP_AMOUNT_MAX], found[TP_AMOUNT_MAX];
    if (fstatvfs(journal->folder, &system) < 0)
        return;
    uint64_t room = (uint64_t)system.f_bavail * system.f_frsize;
    tp_format_bytes((double)options->plan->total, wanted);
    tp_format_bytes((double)room, found);
    if (room < options->plan->total)
        tp_log(options->log, TP_LOG_WARNING, "%s: %s are to be written, %s are free",
               options->output, wanted, found);
}

static int write_all(const struct tp_convert_options *options, const struct tp_journal *journal,
                     struct tp_written *written, struct tp_write_totals *ret_totals,
                     struct tp_error *error)
{
    struct tp_write_options write = {
        .plan = options->plan,
        .output = options->output,
        .folder = journal->folder,
        .state = journal->state,
        .check = journal->resumed || journal->finished,
        .xxh3 = options->xxh3,
        .sha256 = options->sha256,
        .n_workers = options->n_workers,
        .exact = options->exact,
        .progress = tp_progress_start(options->progress, "starting", options->plan->total),
        .stop = options->stop,
    };
    int rc = tp_write_artifacts(&write, written, ret_totals, error);
    tp_progress_finish(write.progress);
    return rc;
}

static int convert(const struct tp_convert_options *options, struct tp_journal *journal,
                   struct tp_write_totals *ret_totals, struct tp_error *error)
{
    struct tp_written *written = calloc(options->plan->n_artifacts + 1, sizeof *written);
    if (written == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    int rc = journal->finished ? check_finished(options, journal->folder, error) : 0;
    if (rc == 0)
        rc = tp_journal_begin(options, journal, error);
    if (rc == 0 && !journal->resumed && !journal->finished)
        warn_of_room(options, journal);
    if (rc == 0)
        rc = write_all(options, journal, written, ret_totals, error);
    if (rc == 0)
        sync_folders(options, journal->folder);
    if (rc == 0 && options->xxh3)
        rc = write_sums(options, journal, written, false, error);
    if (rc == 0 && options->sha256)
        rc = write_sums(options, journal, written, true, error);
    if (rc == 0)
        rc = tp_journal_remove(options, journal, error);
    free(written);
    return rc;
}

int tp_convert(const struct tp_convert_options *options, struct tp_write_totals *ret_totals,
               struct tp_error *error)
{
    struct tp_journal journal;
    struct tp_write_totals totals = {0};
    int rc = check_names(options, error);
    if (rc == 0)
        rc = tp_journal_open(options, &journal, error);
    if (rc < 0)
        return rc;
    rc = convert(options, &journal, &totals, error);
    tp_journal_close(options, &journal);
    if (rc == 0)
        *ret_totals = totals;
    return rc;
}
