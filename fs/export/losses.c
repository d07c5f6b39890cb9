#include "fs/export/losses.h"

#include "decode/value_statistics.h"

/* True if float16 may not hold what is stored. */
static bool may_lose(const struct tp_segment *segment)
{
    return segment->tensor != NULL && segment->tensor->dtype == TP_F16 &&
           segment->content->kind != TP_CONTENT_COPY;
}

/* Elements [first, end) of a tensor. */
static int count(const struct tp_content *exact, uint64_t first, uint64_t end, float *room,
                 uint64_t *overflowed, uint64_t *became_zero)
{
    uint64_t over = 0, zero = 0;
    size_t n = (size_t)(end - first);
    int rc =
        tp_content_read(exact, exact->head_length + first * sizeof *room, n * sizeof *room, room);
    if (rc < 0)
        return rc;
    tp_count_float16_losses(room, n, &over, &zero);
    *overflowed += over;
    *became_zero += zero;
    return 0;
}

int tp_count_losses(const struct tp_artifact *artifact, uint64_t offset, size_t length,
                    const struct tp_view *exact, const struct tp_view *view, float *room,
                    uint64_t *overflowed, uint64_t *became_zero)
{
    if (length == 0)
        return 0;
    const struct tp_segment *segment = tp_artifact_segment(artifact, offset);
    while (length > 0) {
        uint64_t inside = offset - segment->start;
        size_t now =
            segment->length - inside < length ? (size_t)(segment->length - inside) : length;
        if (may_lose(segment)) {
            uint64_t begin = segment->offset + inside, end = begin + now;
            uint64_t head = segment->kind == TP_SEGMENT_CONTENT ? segment->content->head_length : 0;
            begin = begin > head ? begin - head : 0;
            end = end > head ? end - head : 0;
            int rc = count(&exact->files[segment->tensor - view->tensors].content, (begin + 1) / 2,
                           (end + 1) / 2, room, overflowed, became_zero);
            if (rc < 0)
                return rc;
        }
        offset += now;
        length -= now;
        segment++;
    }
    return 0;
}
