/* Tokens that are found in the text before it is normalized and split: <|start|>, <s> and the like.
 *
 * Of all tokens that begin at the leftmost place the longest one is taken. The tokens are kept
 * sorted; a search narrows the range of those that agree with the text byte by byte, starting
 * from a table for the first byte.
 */
#ifndef TENSORPORT_INFER_TOKENIZER_ADDED_TOKENS_H
#define TENSORPORT_INFER_TOKENIZER_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "infer/tokenizer/pattern.h"

struct tp_added_token {
    char *content; /* as the file has it; `length` bytes of UTF-8 */
    size_t length;
    char *sought; /* what is looked for: `content`, normalized if `normalized` */
    size_t sought_length;
    uint32_t id;
    bool special;     /* left alone in untrusted text, left out of shown text */
    bool left_strip;  /* takes the white space before it */
    bool right_strip; /* and after it */
    bool single_word; /* not inside a word */
    bool normalized;  /* looked for after normalization */
};

/* The tokens of one kind, for searching. */
struct tp_added_index {
    const struct tp_added_token **sorted; /* by `sought` */
    size_t n;
    uint32_t first[257];     /* sorted[first[b]] to sorted[first[b + 1]] begin with byte b */
    struct tp_pattern *word; /* what a word's character is; NULL unless a token asks */
};

/* Where a search stands; {0} at the start of a text. */
struct tp_added_search {
    size_t at;    /* where it goes on */
    size_t floor; /* the text before is taken */
};

struct tp_added_match {
    const struct tp_added_token *token;
    /* With the white space that it takes. A token inside what the one before has taken is found
     * all the same, as in the reference: then it begins, and may end, before that one's end. */
    size_t begin, end;
};

/* Indexes those of `tokens` whose `normalized` is as given; they must stay where they are. -ENOMEM.
 */
int tp_added_index_init(struct tp_added_index *index, const struct tp_added_token *tokens, size_t n,
                        bool normalized);
void tp_added_index_clear(struct tp_added_index *index);

/* The next token in valid UTF-8; with `ordinary`, special ones are passed over. 1 with a match, 0
 * at the end, or an error of tp_pattern_find(). */
int tp_added_find(const struct tp_added_index *index, struct tp_matcher *matcher, const char *text,
                  size_t length, bool ordinary, struct tp_added_search *search,
                  struct tp_added_match *ret_match);

#endif
