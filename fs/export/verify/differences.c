#include "fs/export/verify/differences.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode/codec.h"
#include "fs/base/io.h"

enum { ELEMENT_TEXT_SIZE = 96, ELEMENT_BYTES_MAX = 8 };

/* The number of equal bytes at the start. */
static size_t count_equal(const uint8_t *a, const uint8_t *b, size_t length)
{
    enum { STRIDE = 4096 };
    size_t at = 0;
    while (length - at >= STRIDE && memcmp(a + at, b + at, STRIDE) == 0)
        at += STRIDE;
    while (at < length && a[at] == b[at])
        at++;
    return at;
}

/* Keeps the first difference of a tensor, or of a segment that belongs to none. */
static int add(struct tp_differences *differences, struct tp_difference difference)
{
    for (size_t i = 0; i < differences->n; i++) {
        struct tp_difference *known = &differences->list[i];
        const struct tp_view_tensor *tensor = known->segment->tensor;
        if (known->segment != difference.segment &&
            (tensor == NULL || tensor != difference.segment->tensor))
            continue;
        if (difference.offset < known->offset)
            *known = difference;
        return 0;
    }
    if (differences->n >= TP_FAULTS_KEPT) /* in one file: nobody would see more */
        return 0;
    struct tp_difference *more = reallocarray(differences->list, differences->n + 1, sizeof *more);
    if (more == NULL)
        return -ENOMEM;
    differences->list = more;
    more[differences->n++] = difference;
    return 0;
}

int tp_differences_find(struct tp_differences *differences, const struct tp_artifact *artifact,
                        const void *found, const void *expected, uint64_t offset, size_t length)
{
    const uint8_t *a = found, *b = expected;
    size_t at = 0;
    while (at < length) {
        at += count_equal(a + at, b + at, length - at);
        if (at == length)
            break;
        const struct tp_segment *segment = tp_artifact_segment(artifact, offset + at);
        int rc = add(differences, (struct tp_difference){segment, offset + at});
        if (rc < 0)
            return rc;
        uint64_t end = segment->start + segment->length;
        at = end - offset < length ? (size_t)(end - offset) : length;
    }
    return 0;
}

/* ---- telling ---- */

/* "1.5 (0x3fc0)" */
static void format_element(enum tp_dtype dtype, const uint8_t bytes[ELEMENT_BYTES_MAX],
                           char text[ELEMENT_TEXT_SIZE])
{
    const size_t width = tp_dtype_size(dtype);
    uint64_t bits = 0;
    float single = 0, imaginary;
    double real;
    memcpy(&bits, bytes, width);
    if (tp_dtype_is_float(dtype) && dtype != TP_F64) {
        if (dtype == TP_F32)
            memcpy(&single, bytes, sizeof single);
        else
            tp_codecs()->convert[dtype][TP_TARGET_F32](bytes, &single, 1);
        snprintf(text, ELEMENT_TEXT_SIZE, "%.9g (0x%0*" PRIx64 ")", (double)single,
                 (int)(2 * width), bits);
    } else if (dtype == TP_F64) {
        memcpy(&real, bytes, sizeof real);
        snprintf(text, ELEMENT_TEXT_SIZE, "%.17g (0x%016" PRIx64 ")", real, bits);
    } else if (dtype == TP_C64) {
        memcpy(&single, bytes, sizeof single);
        memcpy(&imaginary, bytes + sizeof single, sizeof imaginary);
        snprintf(text, ELEMENT_TEXT_SIZE, "%.9g%+.9gj", (double)single, (double)imaginary);
    } else if (dtype == TP_I8 || dtype == TP_I16 || dtype == TP_I32 || dtype == TP_I64) {
        unsigned int unused = 64 - 8 * (unsigned int)width;
        snprintf(text, ELEMENT_TEXT_SIZE, "%" PRId64, (int64_t)(bits << unused) >> unused);
    } else {
        snprintf(text, ELEMENT_TEXT_SIZE, "%" PRIu64, bits);
    }
}

/* The element of the segment's tensor that holds byte `offset` of the file, and where in the file
 * it begins. False for what is no data of a tensor. */
static bool find_element(const struct tp_segment *segment, uint64_t offset, uint64_t *ret_element,
                         uint64_t *ret_begin)
{
    if (segment->tensor == NULL || segment->kind == TP_SEGMENT_BYTES)
        return false;
    const uint64_t width = tp_dtype_size(segment->tensor->dtype);
    uint64_t inside = offset - segment->start, head = 0;
    if (segment->kind == TP_SEGMENT_CONTENT) {
        inside += segment->offset;
        head = segment->content->head_length;
    }
    if (inside < head)
        return false;
    *ret_element = (inside - head) / width;
    *ret_begin = offset - (inside - head) % width;
    return true;
}

static void report_bytes(const struct tp_difference *difference, const char *path,
                         struct tp_faults *faults)
{
    tp_faults_add(faults, TP_FAULT_VALUE, path,
                  "byte %" PRIu64 " differs from what the source gives", difference->offset);
}

static void report(const struct tp_difference *difference, const struct tp_artifact *artifact,
                   const char *path, int fd, struct tp_artifact_scratch *scratch,
                   struct tp_faults *faults)
{
    const struct tp_view_tensor *tensor = difference->segment->tensor;
    uint8_t bytes[2][ELEMENT_BYTES_MAX];
    char text[2][ELEMENT_TEXT_SIZE];
    uint64_t element, begin;
    size_t length;
    if (!find_element(difference->segment, difference->offset, &element, &begin) ||
        tp_read_at(fd, bytes[0], tp_dtype_size(tensor->dtype), begin, &length) < 0 ||
        length < tp_dtype_size(tensor->dtype) ||
        tp_artifact_read(artifact, begin, length, bytes[1], scratch) < 0) {
        report_bytes(difference, path, faults);
        return;
    }
    format_element(tensor->dtype, bytes[0], text[0]);
    format_element(tensor->dtype, bytes[1], text[1]);
    tp_faults_add_value(faults, path, tensor->name, tensor->name_length, element, text[0], text[1]);
}

void tp_differences_report(struct tp_differences *differences, const struct tp_artifact *artifact,
                           const char *path, int fd, struct tp_artifact_scratch *scratch,
                           struct tp_faults *faults)
{
    for (size_t i = 0; i < differences->n; i++)
        report(&differences->list[i], artifact, path, fd, scratch, faults);
    free(differences->list);
    *differences = (struct tp_differences){0};
}
