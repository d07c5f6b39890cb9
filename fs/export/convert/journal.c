#include "fs/export/convert/journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "fs/base/bytes.h"
#include "fs/base/io.h"
#include "fs/base/text.h"

static const char journal_name[] = "journal";
static const char new_journal_name[] = "journal.new"; /* becomes it when it is on the disk */
enum { JOURNAL_MAX = 1 << 20 };

static int fail(const struct tp_convert_options *options, const char *what, int rc,
                struct tp_error *error)
{
    return tp_error_set(error, rc, "%s: cannot %s: %s", options->output, what, strerror(-rc));
}

/* ---- what the journal says ---- */

static void hash_number(XXH3_state_t *state, uint64_t number)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(number >> (8 * i));
    XXH3_128bits_update(state, bytes, sizeof bytes);
}

static void hash_sources(XXH3_state_t *state, const struct tp_source *sources, size_t n)
{
    hash_number(state, n);
    for (size_t i = 0; i < n; i++) {
        XXH3_128bits_update(state, sources[i].name, strlen(sources[i].name) + 1);
        hash_number(state, sources[i].size);
        hash_number(state, (uint64_t)sources[i].modified.tv_sec);
        hash_number(state, (uint64_t)sources[i].modified.tv_nsec);
    }
}

/* Names, sizes and times of all files of the checkpoint. */
static int identify(const struct tp_checkpoint *checkpoint, FILE *stream)
{
    XXH128_canonical_t hash;
    XXH3_state_t *state = XXH3_createState();
    if (state == NULL)
        return -ENOMEM;
    XXH3_128bits_reset(state);
    hash_sources(state, checkpoint->shards, checkpoint->n_shards);
    hash_sources(state, checkpoint->others, checkpoint->n_others);
    XXH128_canonicalFromHash(&hash, XXH3_128bits_digest(state));
    XXH3_freeState(state);
    fputs("source: ", stream);
    for (size_t i = 0; i < sizeof hash.digest; i++)
        fprintf(stream, "%02x", hash.digest[i]);
    fputc('\n', stream);
    return 0;
}

static int make_text(const struct tp_convert_options *options, char **ret_text, size_t *ret_length)
{
    struct tp_text text;
    int rc = tp_text_open(&text);
    if (rc == 0) {
        fprintf(text.stream, "tensorport convert 1\noptions: %s\n", options->description);
        rc = identify(options->plan->view->checkpoint, text.stream);
    }
    return tp_text_close(&text, rc, ret_text, ret_length);
}

/* The length of the first `n` lines. */
static size_t lines(const char *text, size_t n)
{
    size_t length = 0;
    for (; n > 0; n--) {
        length += strcspn(text + length, "\n");
        length += text[length] == '\n';
    }
    return length;
}

static int compare(const struct tp_convert_options *options, const char *found, const char *wanted,
                   struct tp_error *error)
{
    enum { PREFIX = 1, OPTIONS = 2 };
    size_t prefix = lines(wanted, PREFIX), both = lines(wanted, OPTIONS);
    if (strcmp(found, wanted) == 0)
        return 0;
    if (strncmp(found, wanted, prefix) != 0)
        return tp_error_set(error, -EINVAL,
                            "%s: its journal is of another version, or damaged; remove the folder",
                            options->output);
    if (strncmp(found, wanted, both) != 0) {
        const char *begun = found + prefix + strlen("options: ");
        return tp_error_set(error, -EINVAL,
                            "%s: was begun with %.*s; resume with the same options, or name a new "
                            "folder",
                            options->output, (int)strcspn(begun, "\n"), begun);
    }
    return tp_error_set(error, -EINVAL,
                        "%s: was begun from another checkpoint, or %s has changed since; name a "
                        "new folder",
                        options->output, options->plan->view->checkpoint->path);
}

/* ---- folders ---- */

/* Calls `see` for each entry but "." and ".."; 0 or a negative errno. */
static int each_entry(int folder, int (*see)(int folder, const char *name, void *context),
                      void *context)
{
    int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = copy < 0 ? NULL : fdopendir(copy);
    if (stream == NULL) {
        int rc = -errno;
        if (copy >= 0)
            close(copy);
        return rc;
    }
    int rc = 0;
    const struct dirent *entry;
    while (rc == 0 && (errno = 0, entry = readdir(stream)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = see(folder, entry->d_name, context);
    }
    if (rc == 0)
        rc = -errno;
    closedir(stream);
    return rc;
}

static int refuse_other(int folder, const char *name, void *context)
{
    (void)folder;
    (void)context;
    return strcmp(name, TP_CONVERT_STATE) == 0 ? 0 : -ENOTEMPTY;
}

/* Leftovers of a conversion that was killed: all but the journal. */
static int remove_leftover(int folder, const char *name, void *context)
{
    (void)context;
    if (strcmp(name, journal_name) != 0 && unlinkat(folder, name, 0) < 0)
        return -errno;
    return 0;
}

/* 0 if nothing but the state lies in the folder, -ENOTEMPTY, or another error. */
static int check_empty(const struct tp_journal *journal)
{
    return each_entry(journal->folder, refuse_other, NULL);
}

static int open_state(const struct tp_convert_options *options, struct tp_journal *journal,
                      struct tp_error *error)
{
    journal->state =
        openat(journal->folder, TP_CONVERT_STATE, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (journal->state < 0)
        return errno == ENOENT ? 0 : fail(options, "open " TP_CONVERT_STATE, -errno, error);
    if (flock(journal->state, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK
                   ? tp_error_set(error, -EBUSY, "%s: another conversion is writing to it",
                                  options->output)
                   : fail(options, "lock " TP_CONVERT_STATE, -errno, error);
    return 0;
}

static int open_output(const struct tp_convert_options *options, struct tp_journal *journal,
                       struct tp_error *error)
{
    journal->made_output = mkdir(options->output, 0777) == 0;
    if (!journal->made_output && errno != EEXIST)
        return fail(options, "make the folder", -errno, error);
    journal->folder = open(options->output, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (journal->folder < 0)
        return fail(options, "open the folder", -errno, error);
    return 0;
}

/* What to do with a folder that has no journal. */
static int consider_other(const struct tp_convert_options *options, struct tp_journal *journal,
                          struct tp_error *error)
{
    int rc = check_empty(journal);
    if (rc != -ENOTEMPTY)
        return rc < 0 ? fail(options, "list the folder", rc, error) : 0;
    if (!options->resume)
        return tp_error_set(error, rc, "%s: the folder is not empty; name a new one",
                            options->output);
    journal->finished = true;
    return 0;
}

static int consider_journal(const struct tp_convert_options *options, struct tp_journal *journal,
                            const char *found, struct tp_error *error)
{
    char *wanted;
    size_t length;
    if (!options->resume)
        return tp_error_set(error, -EEXIST,
                            "%s: holds an unfinished conversion; continue with --resume, or remove "
                            "the folder",
                            options->output);
    int rc = make_text(options, &wanted, &length);
    if (rc < 0)
        return tp_error_set(error, rc, "out of memory");
    rc = compare(options, found, wanted, error);
    free(wanted);
    if (rc < 0)
        return rc;
    rc = each_entry(journal->state, remove_leftover, NULL);
    if (rc < 0)
        return fail(options, "tidy " TP_CONVERT_STATE, rc, error);
    journal->resumed = true;
    return 0;
}

static int open_journal(const struct tp_convert_options *options, struct tp_journal *journal,
                        struct tp_error *error)
{
    char *text;
    size_t length;
    int rc = open_output(options, journal, error);
    if (rc == 0)
        rc = open_state(options, journal, error);
    if (rc < 0)
        return rc;
    if (journal->state < 0)
        return consider_other(options, journal, error);
    /* A state without a journal was killed before anything was put in place. */
    if (faccessat(journal->state, journal_name, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
        return consider_other(options, journal, error);
    rc = tp_bytes_read_file(journal->state, journal_name, JOURNAL_MAX, &text, &length, error);
    if (rc < 0)
        return rc;
    rc = consider_journal(options, journal, text, error);
    free(text);
    return rc;
}

int tp_journal_open(const struct tp_convert_options *options, struct tp_journal *ret_journal,
                    struct tp_error *error)
{
    struct tp_journal journal = {.folder = -1, .state = -1};
    int rc = open_journal(options, &journal, error);
    if (rc < 0)
        tp_journal_close(options, &journal);
    else
        *ret_journal = journal;
    return rc;
}

/* ---- the beginning and the end ---- */

static int write_journal(const struct tp_convert_options *options, struct tp_journal *journal)
{
    char *text;
    size_t length;
    int rc = make_text(options, &text, &length);
    if (rc < 0)
        return rc;
    int fd = openat(journal->state, new_journal_name,
                    O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    rc = fd < 0 ? -errno : tp_write_at(fd, text, length, 0);
    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    if (fd >= 0)
        close(fd);
    free(text);
    if (rc == 0 && renameat(journal->state, new_journal_name, journal->state, journal_name) < 0)
        rc = -errno;
    return rc;
}

int tp_journal_begin(const struct tp_convert_options *options, struct tp_journal *journal,
                     struct tp_error *error)
{
    if (journal->resumed)
        return 0;
    if (journal->state < 0) {
        if (mkdirat(journal->folder, TP_CONVERT_STATE, 0777) < 0)
            return fail(options, "make " TP_CONVERT_STATE, -errno, error);
        journal->made_state = true;
        int rc = open_state(options, journal, error);
        if (rc < 0)
            return rc;
    }
    journal->made_state = true;
    int rc = write_journal(options, journal);
    return rc < 0 ? fail(options, "write the journal", rc, error) : 0;
}

static void remove_state(const struct tp_journal *journal)
{
    each_entry(journal->state, remove_leftover, NULL);
    unlinkat(journal->state, journal_name, 0);
    unlinkat(journal->folder, TP_CONVERT_STATE, AT_REMOVEDIR);
}

int tp_journal_remove(const struct tp_convert_options *options, struct tp_journal *journal,
                      struct tp_error *error)
{
    remove_state(journal);
    if (faccessat(journal->folder, TP_CONVERT_STATE, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return tp_error_set(error, -EIO, "%s/%s: cannot remove it", options->output,
                            TP_CONVERT_STATE);
    journal->made_state = false;
    fsync(journal->folder); /* some file systems cannot, and need not */
    return 0;
}

void tp_journal_close(const struct tp_convert_options *options, struct tp_journal *journal)
{
    bool nothing_done = journal->folder >= 0 && check_empty(journal) == 0;
    if (nothing_done && journal->made_state && journal->state >= 0)
        remove_state(journal);
    if (nothing_done && journal->made_output)
        rmdir(options->output);
    if (journal->state >= 0)
        close(journal->state);
    if (journal->folder >= 0)
        close(journal->folder);
    *journal = (struct tp_journal){.folder = -1, .state = -1};
}
