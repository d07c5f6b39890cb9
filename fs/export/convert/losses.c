#include "fs/export/convert/losses.h"

#include "decode/value_statistics.h"

/* True if float16 may not hold what is stored. */
static bool may_lose(const struct tp_segment *segment)
{
    return segment->tensor != NULL && segment->tensor->dtype == TP_F16 &&
           segment->content->kind != TP_CONTENT_COPY;
}

/* Elements [first, first + n) of a tensor that float32 holds exactly. */
static int count_float32(const struct tp_content *exact, uint64_t first, size_t n, float *room,
                         uint64_t *overflowed, uint64_t *became_zero)
{
    int rc =
        tp_content_read(exact, exact->head_length + first * sizeof *room, n * sizeof *room, room);
    if (rc == 0)
        tp_count_float16_losses(room, n, overflowed, became_zero);
    return rc;
}

/* The same of float64, in halves: the room is made for float32. */
static int count_float64(const struct tp_tensor *stored, uint64_t first, size_t n, float *room,
                         uint64_t *overflowed, uint64_t *became_zero)
{
    struct tp_value_statistics statistics = {0};
    size_t half = (n + 1) / 2;
    int rc = 0;
    for (size_t now; rc == 0 && n > 0; first += now, n -= now) {
        now = n < half ? n : half;
        rc = tp_source_read(stored->shard, room, now * sizeof(double),
                            stored->offset + first * sizeof(double));
        if (rc == 0)
            tp_value_statistics_add(&statistics, TP_F64, room, now);
    }
    *overflowed += statistics.float16_overflows;
    *became_zero += statistics.float16_zeros;
    return rc;
}

static int count(const struct tp_view_tensor *tensor, const struct tp_content *exact,
                 uint64_t first, uint64_t end, float *room, uint64_t *overflowed,
                 uint64_t *became_zero)
{
    size_t n = (size_t)(end - first);
    if (tensor->stored != NULL && tensor->stored->dtype == TP_F64)
        return count_float64(tensor->stored, first, n, room, overflowed, became_zero);
    return count_float32(exact, first, n, room, overflowed, became_zero);
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
            int rc = count(segment->tensor, &exact->files[segment->tensor - view->tensors].content,
                           (begin + 1) / 2, (end + 1) / 2, room, overflowed, became_zero);
            if (rc < 0)
                return rc;
        }
        offset += now;
        length -= now;
        segment++;
    }
    return 0;
}
