#include "fs/export/verify/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/base/bytes.h"
#include "fs/export/convert/convert.h"
#include "fs/export/verify/inventory.h"
#include "fs/export/verify/verify_read.h"

/* Of manifest.json and the checksums: far more than a hundred thousand tensors take. */
enum { TEXT_MAX = 1 << 30 };

static const char manifest_name[] = "manifest.json";

static int out_of_memory(struct tp_error *error)
{
    return tp_error_set(error, -ENOMEM, "out of memory");
}

/* NULL in *ret_text for a file that is not there, or cannot be read, which is a fault. */
static int read_text(int folder, const char *name, struct tp_faults *faults, char **ret_text,
                     size_t *ret_length)
{
    struct stat status;
    struct tp_error error;
    *ret_text = NULL;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
        return 0;
    int rc = tp_bytes_read_file(folder, name, TEXT_MAX, ret_text, ret_length, &error);
    if (rc == -ENOMEM)
        return rc;
    if (rc < 0)
        tp_faults_add(faults, TP_FAULT_UNREADABLE, name, "%s", error.text);
    return 0;
}

static bool is_unfinished(int folder)
{
    struct stat status;
    return fstatat(folder, TP_CONVERT_STATE, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

static int read_manifest(struct tp_verified *verified, int folder)
{
    char *text;
    size_t length;
    int rc = read_text(folder, manifest_name, &verified->faults, &text, &length);
    if (rc < 0)
        return rc;
    if (text == NULL) {
        if (!is_unfinished(folder) && tp_faults_total(&verified->faults) == 0)
            tp_faults_add(&verified->faults, TP_FAULT_MISSING, manifest_name,
                          "is not here: nothing that tensorport wrote");
        return 0;
    }
    rc = tp_manifest_read(text, length, &verified->faults, &verified->manifest);
    free(text);
    return rc == -ENOMEM ? rc : 0;
}

static int read_sums(struct tp_verified *verified, int folder, bool sha256)
{
    const char *name = sha256 ? "SHA256SUMS" : "XXH3SUMS";
    char *text;
    size_t length;
    int rc = read_text(folder, name, &verified->faults, &text, &length);
    if (rc < 0 || text == NULL)
        return rc;
    *(sha256 ? &verified->has_sha256 : &verified->has_xxh3) = true;
    rc = tp_sums_read(text, length, name, sha256 ? TP_SHA256_BYTES : TP_XXH3_BYTES,
                      &verified->faults, sha256 ? &verified->sha256 : &verified->xxh3);
    free(text);
    return rc;
}

static int open_source(const struct tp_verify_options *options, struct tp_verified *verified,
                       struct tp_error *error)
{
    if (options->source == NULL)
        return 0;
    if (!verified->manifest.whole) {
        tp_faults_add(&verified->faults, TP_FAULT_SOURCE, manifest_name,
                      "does not say what to compare with the source; nothing was compared");
        return 0;
    }
    if (verified->manifest.quantized)
        return tp_error_set(error, -EINVAL,
                            "%s: was quantised, so its values are not those of %s; compare it with "
                            "'tensorport convert --resume' and the options that made it",
                            options->folder, options->source);
    int rc = tp_verify_source_open(options->source, &verified->manifest, options->log,
                                   &verified->faults, &verified->source, error);
    verified->has_source = rc == 0;
    return rc;
}

/* All that is known. */
static int take_inventory(struct tp_verified *verified, int folder, struct tp_inventory *inventory)
{
    inventory->is_partial = !verified->manifest.whole;
    int rc = tp_inventory_add_manifest(inventory, &verified->manifest);
    if (rc == 0)
        rc = tp_inventory_add_sums(inventory, &verified->xxh3, false);
    if (rc == 0)
        rc = tp_inventory_add_sums(inventory, &verified->sha256, true);
    if (rc == 0 && verified->has_source)
        rc = tp_verify_source_add(&verified->source, &verified->manifest, inventory);
    if (rc == 0)
        rc = tp_inventory_scan(inventory, folder, &verified->faults);
    tp_inventory_merge(inventory);
    return rc;
}

static int check_files(const struct tp_verify_options *options, struct tp_verified *verified,
                       int folder, const struct tp_inventory *inventory)
{
    tp_inventory_judge(inventory, verified->has_xxh3, verified->has_sha256, verified->has_source,
                       &verified->faults, &verified->n_unknown);
    tp_verify_read_totals(inventory, &verified->n_files, &verified->bytes);
    struct tp_progress *progress =
        tp_progress_start(options->progress, "verifying", verified->bytes);
    int rc = tp_verify_read(inventory, folder, options->n_workers, progress, &verified->faults);
    tp_progress_finish(progress);
    return rc;
}

static int verify(const struct tp_verify_options *options, struct tp_verified *verified, int folder,
                  struct tp_error *error)
{
    struct tp_inventory inventory = {.n = 0};
    int rc = read_manifest(verified, folder);
    if (rc == 0)
        rc = read_sums(verified, folder, false);
    if (rc == 0)
        rc = read_sums(verified, folder, true);
    if (rc < 0)
        return out_of_memory(error);
    rc = open_source(options, verified, error);
    if (rc < 0)
        return rc;
    rc = take_inventory(verified, folder, &inventory);
    if (rc == 0)
        rc = check_files(options, verified, folder, &inventory);
    tp_inventory_clear(&inventory);
    return rc < 0 ? out_of_memory(error) : 0;
}

int tp_verify(const struct tp_verify_options *options, struct tp_verified *ret_verified,
              struct tp_error *error)
{
    int folder = open(options->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return tp_error_set(error, -errno, "%s: expected a folder: %s", options->folder,
                            strerror(errno));
    *ret_verified = (struct tp_verified){.n_files = 0};
    tp_faults_init(&ret_verified->faults);
    int rc = verify(options, ret_verified, folder, error);
    close(folder);
    if (rc < 0)
        tp_verified_clear(ret_verified);
    return rc;
}

void tp_verified_clear(struct tp_verified *verified)
{
    tp_verify_source_close(&verified->source);
    tp_sums_clear(&verified->xxh3);
    tp_sums_clear(&verified->sha256);
    tp_manifest_clear(&verified->manifest);
    tp_faults_clear(&verified->faults);
}
