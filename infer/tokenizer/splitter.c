#include "infer/tokenizer/splitter.h"

#include <errno.h>
#include <string.h>

#include "infer/tokenizer/unicode_new.h"
#include "infer/tokenizer/utf8.h"

const char *const tp_split_behavior_names[] = {"Isolated",       "Removed",    "MergedWithPrevious",
                                               "MergedWithNext", "Contiguous", NULL};

void tp_splitter_clear(struct tp_splitter *splitter)
{
    for (size_t i = 0; i < splitter->n; i++)
        tp_pattern_free(splitter->steps[i].pattern);
    splitter->n = 0;
}

void tp_split_clear(struct tp_split *split)
{
    for (size_t i = 0; i < TP_SPLITTER_STEPS_MAX; i++)
        tp_buffer_clear(&split->rewritten[i]);
}

static int run_step(struct tp_split *split, size_t at, const char *text, size_t length,
                    bool at_start);

/* A piece that is not handed on yet, because what follows may belong to it. */
struct pending {
    size_t begin, end;
    bool exists, is_match;
};

/* Whether a span continues the pending piece. */
static bool belongs(const struct tp_split_step *step, const struct pending *pending, bool is_match,
                    bool last_was_match)
{
    switch (step->behavior) {
    case TP_SPLIT_CONTIGUOUS:
        return pending->is_match == is_match;
    case TP_SPLIT_MERGED_WITH_PREVIOUS:
        return is_match && !last_was_match;
    case TP_SPLIT_MERGED_WITH_NEXT:
        return pending->is_match && !is_match;
    case TP_SPLIT_ISOLATED:
    case TP_SPLIT_REMOVED:
        break;
    }
    return false;
}

struct spans {
    struct tp_split *split;
    size_t at; /* the step */
    const char *text;
    bool at_start;
    struct pending pending;
    bool last_was_match;
};

static int flush(struct spans *spans)
{
    struct pending piece = spans->pending;
    spans->pending.exists = false;
    return piece.exists ? run_step(spans->split, spans->at + 1, spans->text + piece.begin,
                                   piece.end - piece.begin, spans->at_start && piece.begin == 0)
                        : 0;
}

/* The next stretch of text that matches, or that does not. */
static int add_span(struct spans *spans, size_t begin, size_t end, bool is_match)
{
    const struct tp_split_step *step = &spans->split->splitter->steps[spans->at];
    is_match ^= step->invert;
    if (begin == end || (step->behavior == TP_SPLIT_REMOVED && is_match))
        return 0;
    bool joins =
        spans->pending.exists && belongs(step, &spans->pending, is_match, spans->last_was_match);
    spans->last_was_match = is_match;
    if (joins) {
        spans->pending.end = end;
        spans->pending.is_match = is_match;
        return 0;
    }
    int rc = flush(spans);
    spans->pending = (struct pending){begin, end, true, is_match};
    return rc;
}

static int split_by_pattern(struct tp_split *split, size_t at, const char *text, size_t length,
                            bool at_start)
{
    const struct tp_pattern *pattern = split->splitter->steps[at].pattern;
    struct spans spans = {.split = split, .at = at, .text = text, .at_start = at_start};
    size_t done = 0, from = 0, begin, end;
    const char *matched;
    int rc = tp_unicode_substitute(text, length, &split->rewritten[at], &matched);
    if (rc < 0)
        return rc;
    while (from < length) {
        rc = tp_pattern_find(pattern, split->matcher, matched, length, from, &begin, &end);
        if (rc < 0)
            return rc;
        if (rc == 0)
            break;
        rc = add_span(&spans, done, begin, false);
        if (rc == 0)
            rc = add_span(&spans, begin, end, true);
        if (rc < 0)
            return rc;
        done = end;
        from = end > begin ? end : end < length ? end + tp_utf8_step(text[end]) : length;
    }
    rc = add_span(&spans, done, length, false);
    return rc < 0 ? rc : flush(&spans);
}

static int put_prefix(struct tp_split *split, size_t at, const char *text, size_t length,
                      bool at_start)
{
    const struct tp_split_step *step = &split->splitter->steps[at];
    struct tp_buffer *out = &split->rewritten[at];
    bool begins = length >= step->mark_length && memcmp(text, step->mark, step->mark_length) == 0;
    if (begins || (step->only_first && !at_start))
        return run_step(split, at + 1, text, length, at_start);
    out->length = 0;
    int rc = tp_buffer_append(out, step->mark, step->mark_length);
    if (rc == 0)
        rc = tp_buffer_append(out, text, length);
    return rc < 0 ? rc : run_step(split, at + 1, out->bytes, out->length, at_start);
}

static int replace_blanks(struct tp_split *split, size_t at, const char *text, size_t length,
                          bool at_start)
{
    const struct tp_split_step *step = &split->splitter->steps[at];
    struct tp_buffer *out = &split->rewritten[at];
    int rc = 0;
    out->length = 0;
    for (size_t done = 0; rc == 0 && done < length;) {
        const char *blank = memchr(text + done, ' ', length - done);
        size_t n = blank != NULL ? (size_t)(blank - (text + done)) : length - done;
        rc = tp_buffer_append(out, text + done, n);
        if (rc == 0 && blank != NULL)
            rc = tp_buffer_append(out, step->mark, step->mark_length);
        done += n + (blank != NULL);
    }
    return rc < 0 ? rc : run_step(split, at + 1, out->bytes, out->length, at_start);
}

/* As deep as there are steps. */
static int run_step(struct tp_split *split, size_t at, const char *text, size_t length,
                    bool at_start)
{
    if (length == 0)
        return 0;
    if (at == split->splitter->n)
        return split->handle(split->context, text, length);
    switch (split->splitter->steps[at].kind) {
    case TP_SPLIT_PREFIX:
        return put_prefix(split, at, text, length, at_start);
    case TP_SPLIT_BLANKS:
        return replace_blanks(split, at, text, length, at_start);
    case TP_SPLIT_PATTERN:
        break;
    }
    return split_by_pattern(split, at, text, length, at_start);
}

int tp_split_text(struct tp_split *split, const char *text, size_t length, bool at_start)
{
    return run_step(split, 0, text, length, at_start);
}
