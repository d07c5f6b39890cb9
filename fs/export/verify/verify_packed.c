#include "fs/export/verify/verify_packed.h"

#include <string.h>

#include "fs/checkpoint/checkpoint.h"

static void note(void *context, const char *file, const char *text)
{
    tp_faults_add(context, TP_FAULT_CHECKSUM, file, "%s", text);
}

/* What no file shows by itself: that one is missing, or contradicts the index. */
static void open_checkpoint(const char *folder, struct tp_faults *faults)
{
    struct tp_checkpoint *checkpoint;
    struct tp_error error = {""};
    if (tp_checkpoint_open(folder, NULL, &checkpoint, &error) == 0) {
        tp_checkpoint_close(checkpoint);
        return;
    }
    const char *text = error.text; /* without the folder, which is said anyway */
    size_t length = strlen(folder);
    if (strncmp(text, folder, length) == 0 && strncmp(text + length, ": ", 2) == 0)
        text += length + 2;
    tp_faults_add(faults, TP_FAULT_SOURCE, "", "%s", text);
}

int tp_verify_packed(const struct tp_verify_options *options,
                     struct tp_verified_packed *ret_verified, struct tp_error *error)
{
    const struct tp_pack_options read = {
        .input = options->folder,
        .workers =
            options->n_workers < TP_PACK_WORKERS_MAX ? options->n_workers : TP_PACK_WORKERS_MAX,
        .progress = options->progress,
        .log = options->log,
    };
    tp_faults_init(&ret_verified->faults);
    int rc = tp_packed_verify(&read, note, &ret_verified->faults, &ret_verified->summary, error);
    if (rc < 0)
        tp_verified_packed_clear(ret_verified);
    else if (tp_faults_total(&ret_verified->faults) == 0) /* or it would be said twice */
        open_checkpoint(options->folder, &ret_verified->faults);
    return rc;
}

void tp_verified_packed_clear(struct tp_verified_packed *verified)
{
    tp_faults_clear(&verified->faults);
}
