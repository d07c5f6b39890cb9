/* Writes the artifacts of a plan to a folder in ways that `tensorport convert` does not take:
 *
 *     plan-dump CHECKPOINT FOLDER FORMAT PIECE PANEL
 *
 * PIECE above 0: in ranges of 1 to PIECE bytes; after each, an earlier one is made again and has
 * to be the same. PIECE 0: only what is in memory, the data is left out as a hole.
 * PANEL: tp_artifact_scratch.panel_max. FORMAT may be "mxfp4": --quantize. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/io.h"
#include "fs/export/convert/formats.h"
#include "fs/export/convert/quantized_view.h"

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005U + 1442695040888963407U;
    return *state >> 33;
}

struct dump {
    const struct tp_artifact *artifact;
    struct tp_artifact_scratch scratch;
    size_t piece;
    int fd;
    char *made, *there; /* [piece] */
    uint64_t random;
};

static int write_range(struct dump *dump, uint64_t offset, size_t length)
{
    int rc = tp_artifact_read(dump->artifact, offset, length, dump->made, &dump->scratch);
    return rc < 0 ? rc : tp_write_at(dump->fd, dump->made, length, offset);
}

/* Some range that ends before `end`. */
static int repeat_range(struct dump *dump, uint64_t end)
{
    size_t length = 1 + (size_t)(next_random(&dump->random) % dump->piece), found;
    if (length > end)
        length = (size_t)end;
    uint64_t offset = next_random(&dump->random) % (end - length + 1);
    int rc = tp_artifact_read(dump->artifact, offset, length, dump->made, &dump->scratch);
    if (rc == 0)
        rc = tp_read_at(dump->fd, dump->there, length, offset, &found);
    return rc == 0 && memcmp(dump->made, dump->there, length) != 0 ? -EBADMSG : rc;
}

static int write_all(struct dump *dump)
{
    const struct tp_artifact *artifact = dump->artifact;
    int rc = 0;
    for (uint64_t at = 0; rc == 0 && at < artifact->size;) {
        size_t length = 1 + (size_t)(next_random(&dump->random) % dump->piece);
        if (length > artifact->size - at)
            length = (size_t)(artifact->size - at);
        rc = write_range(dump, at, length);
        at += length;
        if (rc == 0)
            rc = repeat_range(dump, at);
    }
    return rc;
}

static int write_memory_only(struct dump *dump)
{
    const struct tp_artifact *artifact = dump->artifact;
    int rc = ftruncate(dump->fd, (off_t)artifact->size) < 0 ? -errno : 0;
    for (size_t i = 0; rc == 0 && i < artifact->n_segments; i++) {
        const struct tp_segment *segment = &artifact->segments[i];
        if (segment->kind == TP_SEGMENT_BYTES)
            rc = tp_write_at(dump->fd, segment->bytes, (size_t)segment->length, segment->start);
    }
    return rc;
}

static int dump_plan(const struct tp_export_plan *plan, int folder, size_t piece, size_t panel)
{
    struct dump dump = {.piece = piece, .scratch.panel_max = panel};
    dump.made = malloc(piece + 1);
    dump.there = malloc(piece + 1);
    int rc = dump.made == NULL || dump.there == NULL ? -ENOMEM : 0;
    for (size_t i = 0; rc == 0 && i < plan->n_artifacts; i++) {
        dump.artifact = &plan->artifacts[i];
        dump.fd = openat(folder, dump.artifact->path, O_RDWR | O_CREAT | O_EXCL, 0644);
        rc = dump.fd < 0 ? -errno : piece > 0 ? write_all(&dump) : write_memory_only(&dump);
        if (dump.fd >= 0)
            close(dump.fd);
    }
    tp_artifact_scratch_clear(&dump.scratch);
    free(dump.made);
    free(dump.there);
    return rc;
}

static int dump_to(const struct tp_export_plan *plan, char **argv, struct tp_error *error)
{
    int folder = open(argv[2], O_RDONLY | O_DIRECTORY);
    int rc = dump_plan(plan, folder, strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10));
    close(folder);
    return rc < 0 ? tp_error_set(error, rc, "%s", strerror(-rc)) : 0;
}

static int run_format(const struct tp_view *view, enum tp_export_format format, char **argv,
                      struct tp_error *error)
{
    struct tp_export_plan plan;
    int rc = tp_export_plan_new(view, format, &plan, error);
    if (rc == 0) {
        rc = dump_to(&plan, argv, error);
        tp_export_plan_clear(&plan);
    }
    return rc;
}

static int run_quantized(const struct tp_view *view, char **argv, struct tp_error *error)
{
    const struct tp_quantize_patterns patterns = {.n_include = 0};
    const struct tp_log log = {.program = argv[0], .level = TP_LOG_ERROR};
    struct tp_quantized_view *quantized;
    struct tp_export_plan plan;
    int rc = tp_quantized_view_new(view, &patterns, &log, &quantized, error);
    if (rc < 0)
        return rc;
    rc = tp_quantized_plan_new(quantized, &plan, error);
    if (rc == 0) {
        rc = dump_to(&plan, argv, error);
        tp_export_plan_clear(&plan);
    }
    tp_quantized_view_free(quantized);
    return rc;
}

/* `format` is an index of tp_export_format_names, whose end stands for "mxfp4". */
static int run(char **argv, size_t format, struct tp_error *error)
{
    const struct tp_log log = {.program = argv[0], .level = TP_LOG_ERROR};
    bool quantizes = tp_export_format_names[format] == NULL;
    const struct tp_view_options options = {
        .precision = quantizes ? TP_PRECISION_SOURCE
                               : tp_export_default_precision((enum tp_export_format)format),
        .packed = quantizes,
        .shard_size = TP_SHARD_SIZE_DEFAULT};
    struct tp_checkpoint *checkpoint;
    struct tp_view *view;
    int rc = tp_checkpoint_open(argv[1], &log, &checkpoint, error);
    if (rc < 0)
        return rc;
    rc = tp_view_new(checkpoint, &options, &log, &view, error);
    if (rc == 0) {
        rc = quantizes ? run_quantized(view, argv, error)
                       : run_format(view, (enum tp_export_format)format, argv, error);
        tp_view_free(view);
    }
    tp_checkpoint_close(checkpoint);
    return rc;
}

int main(int argc, char **argv)
{
    struct tp_error error = {"expected CHECKPOINT FOLDER FORMAT PIECE PANEL"};
    size_t format = 0;
    while (argc == 6 && tp_export_format_names[format] != NULL &&
           strcmp(argv[3], tp_export_format_names[format]) != 0)
        format++;
    bool is_known =
        argc == 6 && (tp_export_format_names[format] != NULL || strcmp(argv[3], "mxfp4") == 0);
    if (is_known && run(argv, format, &error) == 0)
        return 0;
    fprintf(stderr, "%s: %s\n", argv[0], error.text);
    return 1;
}
