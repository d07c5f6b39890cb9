#include "fs/export/pack/pack_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/io.h"
#include "fs/checkpoint/source.h"

enum { COPY_BYTES = 1 << 20 };

int tp_pack_run_fail(struct tp_pack_run *run, const char *name, int rc)
{
    return tp_error_set(run->error, rc, "%s/%s: %s", run->files.folder, name, strerror(-rc));
}

int tp_pack_run_check_stop(const struct tp_pack_run *run)
{
    return run->options->stop != NULL && tp_stop_is_wanted(run->options->stop) ? -EINTR : 0;
}

int tp_pack_run_start(struct tp_pack_run *run, const char *verb)
{
    uint64_t total = 0;
    int rc = tp_file_list_open(run->options->input, run->options->log, &run->files, run->error);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < run->files.n; i++)
        total += run->files.sizes[i];
    run->progress = tp_progress_start(run->options->progress, verb, total);
    return 0;
}

/* As it is read it is checked to be what was opened. */
static int copy_bytes(struct tp_pack_run *run, struct tp_source *source, int to)
{
    uint8_t *buffer = malloc(COPY_BYTES);
    int rc = buffer == NULL ? tp_pack_run_fail(run, source->name, -ENOMEM) : 0;
    for (uint64_t at = 0; rc == 0 && at < source->size; at += COPY_BYTES) {
        size_t now = source->size - at < COPY_BYTES ? (size_t)(source->size - at) : COPY_BYTES;
        rc = tp_source_read(source, buffer, now, at);
        if (rc == 0)
            rc = tp_pack_run_check_stop(run);
        if (rc < 0) {
            tp_pack_run_fail(run, source->name, rc);
        } else if ((rc = tp_write_at(to, buffer, now, at)) < 0) {
            tp_error_set(run->error, rc, "%s/%s: cannot write: %s", run->options->output,
                         source->name, strerror(-rc));
        }
        tp_progress_add(run->progress, now);
    }
    free(buffer);
    return rc;
}

int tp_pack_run_copy(struct tp_pack_run *run, size_t i)
{
    const char *name = run->files.names[i];
    struct tp_source source;
    int fd = -1;
    int rc = tp_source_open(&source, run->files.directory, name, NULL, run->error);
    if (rc < 0)
        return tp_error_prefix(run->error, rc, "%s", run->files.folder);
    tp_progress_item(run->progress, name, strlen(name));
    rc = tp_output_create(run->output, name, &fd, run->error);
    if (rc == 0)
        rc = copy_bytes(run, &source, fd);
    if (rc == 0)
        rc = tp_output_complete(run->output, fd, source.modified, run->error);
    if (rc == 0) {
        run->summary.n_files++;
        run->summary.copied_bytes += source.size;
    }
    tp_source_close(&source);
    return rc;
}

int tp_pack_run_end(struct tp_pack_run *run, int rc)
{
    if (rc == 0 && run->output != NULL)
        rc = tp_output_commit(run->output, run->error);
    tp_progress_finish(run->progress);
    tp_output_close(run->output);
    tp_file_list_close(&run->files);
    return rc;
}
