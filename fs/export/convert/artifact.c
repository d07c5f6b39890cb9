#include "fs/export/convert/artifact.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/export/convert/quantize.h"
#include "fs/export/convert/transpose.h"

/* Room for one more; the arrays double. */
static struct tp_segment *add_segment(struct tp_artifact *artifact)
{
    size_t n = artifact->n_segments;
    if ((n & (n - 1)) == 0) {
        struct tp_segment *more =
            realloc(artifact->segments, (n == 0 ? 1 : 2 * n) * sizeof *artifact->segments);
        if (more == NULL)
            return NULL;
        artifact->segments = more;
    }
    return &artifact->segments[artifact->n_segments++];
}

static int append(struct tp_artifact *artifact, struct tp_segment segment)
{
    if (segment.length == 0)
        return 0;
    struct tp_segment *room = add_segment(artifact);
    if (room == NULL)
        return -ENOMEM;
    segment.start = artifact->size;
    *room = segment;
    artifact->size += segment.length;
    return 0;
}

int tp_artifact_add_bytes(struct tp_artifact *artifact, const void *bytes, size_t length)
{
    if (length == 0)
        return 0;
    char *copy = malloc(length);
    if (copy == NULL)
        return -ENOMEM;
    memcpy(copy, bytes, length);
    int rc = append(artifact,
                    (struct tp_segment){.kind = TP_SEGMENT_BYTES, .length = length, .bytes = copy});
    if (rc < 0)
        free(copy);
    return rc;
}

int tp_artifact_add_content(struct tp_artifact *artifact, const struct tp_content *content,
                            uint64_t offset, uint64_t length, const struct tp_view_tensor *tensor)
{
    return append(artifact, (struct tp_segment){.kind = TP_SEGMENT_CONTENT,
                                                .length = length,
                                                .content = content,
                                                .offset = offset,
                                                .tensor = tensor});
}

int tp_artifact_add_transposed(struct tp_artifact *artifact, const struct tp_content *content,
                               uint64_t rows, uint64_t columns, const struct tp_view_tensor *tensor)
{
    return append(artifact, (struct tp_segment){.kind = TP_SEGMENT_TRANSPOSED,
                                                .length = content->data_length,
                                                .content = content,
                                                .rows = rows,
                                                .columns = columns,
                                                .tensor = tensor});
}

int tp_artifact_add_quantized(struct tp_artifact *artifact, enum tp_segment_kind kind,
                              struct tp_quantized_tensor *quantized, uint64_t length,
                              const struct tp_view_tensor *tensor)
{
    artifact->by_segments = true;
    return append(artifact,
                  (struct tp_segment){
                      .kind = kind, .length = length, .quantized = quantized, .tensor = tensor});
}

const struct tp_segment *tp_artifact_segment(const struct tp_artifact *artifact, uint64_t offset)
{
    size_t first = 0, end = artifact->n_segments;
    while (end - first > 1) {
        size_t middle = first + (end - first) / 2;
        if (artifact->segments[middle].start <= offset)
            first = middle;
        else
            end = middle;
    }
    return &artifact->segments[first];
}

static int read_segment(const struct tp_segment *segment, uint64_t offset, size_t length,
                        void *target, struct tp_artifact_scratch *scratch)
{
    switch (segment->kind) {
    case TP_SEGMENT_BYTES:
        memcpy(target, segment->bytes + offset, length);
        return 0;
    case TP_SEGMENT_CONTENT:
        return tp_content_read(segment->content, segment->offset + offset, length, target);
    case TP_SEGMENT_TRANSPOSED:
        return tp_transpose_read(segment, offset, length, target, scratch);
    case TP_SEGMENT_BLOCKS:
    case TP_SEGMENT_SCALES:
        return tp_quantize_read(segment, offset, length, target, scratch);
    }
    return -EINVAL;
}

int tp_artifact_read(const struct tp_artifact *artifact, uint64_t offset, size_t length,
                     void *target, struct tp_artifact_scratch *scratch)
{
    uint8_t *at = target;
    if (length == 0)
        return 0;
    for (const struct tp_segment *segment = tp_artifact_segment(artifact, offset); length > 0;
         segment++) {
        uint64_t inside = offset - segment->start;
        size_t now =
            segment->length - inside < length ? (size_t)(segment->length - inside) : length;
        int rc = read_segment(segment, inside, now, at, scratch);
        if (rc < 0)
            return rc;
        offset += now;
        at += now;
        length -= now;
    }
    return 0;
}

void tp_artifact_scratch_clear(struct tp_artifact_scratch *scratch)
{
    free(scratch->blocks);
    free(scratch->scales);
    free(scratch->strip_bytes);
    *scratch = (struct tp_artifact_scratch){.panel_max = scratch->panel_max};
}

int tp_export_plan_add(struct tp_export_plan *plan, const char *path,
                       struct tp_artifact **ret_artifact)
{
    size_t n = plan->n_artifacts;
    if ((n & (n - 1)) == 0) {
        struct tp_artifact *more =
            realloc(plan->artifacts, (n == 0 ? 1 : 2 * n) * sizeof *plan->artifacts);
        if (more == NULL)
            return -ENOMEM;
        plan->artifacts = more;
    }
    char *copy = strdup(path);
    if (copy == NULL)
        return -ENOMEM;
    plan->artifacts[plan->n_artifacts] = (struct tp_artifact){.path = copy};
    *ret_artifact = &plan->artifacts[plan->n_artifacts++];
    return 0;
}

void tp_export_plan_finish(struct tp_export_plan *plan)
{
    plan->total = 0;
    for (size_t i = 0; i < plan->n_artifacts; i++)
        plan->total += plan->artifacts[i].size;
}

void tp_export_plan_clear(struct tp_export_plan *plan)
{
    for (size_t i = 0; i < plan->n_artifacts; i++) {
        struct tp_artifact *artifact = &plan->artifacts[i];
        for (size_t j = 0; j < artifact->n_segments; j++)
            free(artifact->segments[j].bytes);
        free(artifact->segments);
        free(artifact->path);
    }
    free(plan->artifacts);
    *plan = (struct tp_export_plan){0};
}
