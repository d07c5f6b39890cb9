#include "infer/tokenizer/normalizer.h"

#include <errno.h>
#include <stdlib.h>

void tp_normalizer_clear(struct tp_normalizer *normalizer)
{
    for (size_t i = 0; i < normalizer->n; i++) {
        tp_pattern_free(normalizer->steps[i].pattern);
        free(normalizer->steps[i].content);
    }
    normalizer->n = 0;
}

void tp_normalizer_buffers_clear(struct tp_normalizer_buffers *buffers)
{
    tp_buffer_clear(&buffers->turns[0]);
    tp_buffer_clear(&buffers->turns[1]);
}

static int prepend(const struct tp_normalizer_step *step, const char *text, size_t length,
                   struct tp_buffer *out)
{
    int rc = length > 0 ? tp_buffer_append(out, step->content, step->length) : 0;
    return rc < 0 ? rc : tp_buffer_append(out, text, length);
}

static int replace(const struct tp_normalizer_step *step, struct tp_matcher *matcher,
                   const char *text, size_t length, struct tp_buffer *out)
{
    size_t at = 0, begin, end;
    int found = 0;
    while (at < length &&
           (found = tp_pattern_find(step->pattern, matcher, text, length, at, &begin, &end)) == 1) {
        if (end == begin) /* a match of nothing replaces nothing */
            break;
        int rc = tp_buffer_append(out, text + at, begin - at);
        if (rc == 0)
            rc = tp_buffer_append(out, step->content, step->length);
        if (rc < 0)
            return rc;
        at = end;
    }
    return found < 0 ? found : tp_buffer_append(out, text + at, length - at);
}

int tp_normalize(const struct tp_normalizer *normalizer, struct tp_matcher *matcher,
                 const char *text, size_t length, struct tp_normalizer_buffers *buffers,
                 const char **ret_text, size_t *ret_length)
{
    for (size_t i = 0; i < normalizer->n; i++) {
        const struct tp_normalizer_step *step = &normalizer->steps[i];
        struct tp_buffer *out = &buffers->turns[i % 2];
        out->length = 0;
        int rc = step->pattern == NULL ? prepend(step, text, length, out)
                                       : replace(step, matcher, text, length, out);
        if (rc < 0)
            return rc;
        text = out->bytes;
        length = out->length;
    }
    *ret_text = text != NULL ? text : "";
    *ret_length = length;
    return 0;
}
