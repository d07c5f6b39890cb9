/* How text is cut into the pieces within which tokens are merged ("pre-tokenizer").
 *
 * A row of steps; each cuts the pieces of the one before it further, or rewrites them. Pieces are
 * handed on as they are found, step by step, and the last step hands them to the encoder: no list
 * of pieces is ever made.
 */
#ifndef TENSORPORT_INFER_TOKENIZER_SPLITTER_H
#define TENSORPORT_INFER_TOKENIZER_SPLITTER_H

#include <stdbool.h>
#include <stddef.h>

#include "infer/tokenizer/buffer.h"
#include "infer/tokenizer/pattern.h"

enum { TP_SPLITTER_STEPS_MAX = 16 };

/* What becomes of a match of the pattern. */
enum tp_split_behavior {
    TP_SPLIT_ISOLATED, /* a piece of its own */
    TP_SPLIT_REMOVED,
    TP_SPLIT_MERGED_WITH_PREVIOUS,
    TP_SPLIT_MERGED_WITH_NEXT,
    TP_SPLIT_CONTIGUOUS, /* matches in a row are one piece */
};

/* The names of the above in tokenizer.json, NULL at the end. */
extern const char *const tp_split_behavior_names[];

enum tp_split_kind {
    TP_SPLIT_PATTERN,
    TP_SPLIT_PREFIX, /* puts `mark` in front of what does not begin with it */
    TP_SPLIT_BLANKS, /* replaces blanks by `mark` */
};

struct tp_split_step {
    enum tp_split_kind kind;
    struct tp_pattern *pattern;
    enum tp_split_behavior behavior;
    bool invert;     /* what does not match is what matches */
    bool only_first; /* TP_SPLIT_PREFIX: only at the very start of the text */
    char mark[4];
    size_t mark_length;
};

struct tp_splitter {
    struct tp_split_step steps[TP_SPLITTER_STEPS_MAX];
    size_t n;
};

void tp_splitter_clear(struct tp_splitter *splitter);

/* One piece, never empty. A negative result ends the splitting. */
typedef int tp_piece_handler(void *context, const char *piece, size_t length);

struct tp_split {
    const struct tp_splitter *splitter;
    struct tp_matcher *matcher;
    tp_piece_handler *handle;
    void *context;
    /* What each step needs for itself; they start as zeros. */
    struct tp_buffer rewritten[TP_SPLITTER_STEPS_MAX];
};
void tp_split_clear(struct tp_split *split);

/* Splits valid UTF-8. `at_start`: it is the beginning of the whole text. The errors of
 * tp_pattern_find() and of the handler. */
int tp_split_text(struct tp_split *split, const char *text, size_t length, bool at_start);

#endif
