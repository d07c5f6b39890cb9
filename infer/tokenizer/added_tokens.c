#include "infer/tokenizer/added_tokens.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "infer/tokenizer/utf8.h"

static int compare_sought(const void *left, const void *right)
{
    const struct tp_added_token *a = *(const struct tp_added_token *const *)left;
    const struct tp_added_token *b = *(const struct tp_added_token *const *)right;
    size_t shorter = a->sought_length < b->sought_length ? a->sought_length : b->sought_length;
    int order = memcmp(a->sought, b->sought, shorter);
    return order != 0
               ? order
               : (a->sought_length > b->sought_length) - (a->sought_length < b->sought_length);
}

static void index_first_bytes(struct tp_added_index *index)
{
    size_t at = 0;
    for (unsigned byte = 0; byte <= 256; byte++) {
        while (at < index->n && (unsigned char)index->sorted[at]->sought[0] < byte)
            at++;
        index->first[byte] = (uint32_t)at;
    }
}

int tp_added_index_init(struct tp_added_index *index, const struct tp_added_token *tokens, size_t n,
                        bool normalized)
{
    static const char word[] = "\\A[" TP_PATTERN_WORD "]";
    bool asks = false;
    *index = (struct tp_added_index){.sorted = malloc((n + 1) * sizeof *index->sorted)};
    if (index->sorted == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        if (tokens[i].normalized != normalized || tokens[i].sought_length == 0)
            continue;
        index->sorted[index->n++] = &tokens[i];
        asks |= tokens[i].single_word;
    }
    if (index->n > 0)
        qsort(index->sorted, index->n, sizeof *index->sorted, compare_sought);
    index_first_bytes(index);
    return asks ? tp_pattern_new(word, sizeof word - 1, false, &index->word, NULL) : 0;
}

void tp_added_index_clear(struct tp_added_index *index)
{
    free(index->sorted);
    tp_pattern_free(index->word);
    *index = (struct tp_added_index){0};
}

/* The first of sorted[low] to sorted[high - 1], which agree in `depth` bytes and are longer, whose
 * next byte is at least `byte`. */
static size_t lower_bound(const struct tp_added_index *index, size_t low, size_t high, size_t depth,
                          unsigned byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((unsigned char)index->sorted[middle]->sought[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token that begins at `text`. */
static const struct tp_added_token *longest_at(const struct tp_added_index *index, const char *text,
                                               size_t length)
{
    const struct tp_added_token *longest = NULL;
    unsigned byte = (unsigned char)text[0];
    size_t low = index->first[byte], high = index->first[byte + 1];
    for (size_t depth = 1; low < high; depth++) {
        while (low < high && index->sorted[low]->sought_length == depth)
            longest = index->sorted[low++];
        if (depth == length)
            break;
        byte = (unsigned char)text[depth];
        low = lower_bound(index, low, high, depth, byte);
        high = lower_bound(index, low, high, depth, byte + 1);
    }
    return longest;
}

/* Unicode's White_Space. */
static bool is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

static size_t character_before(const char *text, size_t at)
{
    do
        at--;
    while (((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}

static void take_spaces(const char *text, size_t length, size_t floor, struct tp_added_match *match)
{
    if (match->token->left_strip) {
        while (match->begin > floor) {
            size_t before = character_before(text, match->begin);
            if (before < floor || !is_space(tp_utf8_read(text + before)))
                break;
            match->begin = before;
        }
    }
    while (match->token->right_strip && match->end < length &&
           is_space(tp_utf8_read(text + match->end)))
        match->end += tp_utf8_step(text[match->end]);
}

/* 1 if neither neighbour is a word's character, 0 if one is. */
static int stands_alone(const struct tp_added_index *index, struct tp_matcher *matcher,
                        const char *text, size_t length, const struct tp_added_match *match)
{
    size_t begin, end;
    int rc = 0;
    if (match->begin > 0) {
        size_t before = character_before(text, match->begin);
        rc = tp_pattern_find(index->word, matcher, text + before, match->begin - before, 0, &begin,
                             &end);
    }
    if (rc == 0 && match->end < length)
        rc = tp_pattern_find(index->word, matcher, text + match->end, length - match->end, 0,
                             &begin, &end);
    return rc < 0 ? rc : rc == 0;
}

int tp_added_find(const struct tp_added_index *index, struct tp_matcher *matcher, const char *text,
                  size_t length, bool ordinary, struct tp_added_search *search,
                  struct tp_added_match *ret_match)
{
    size_t at = search->at;
    while (index->n > 0 && at < length) {
        unsigned byte = (unsigned char)text[at];
        const struct tp_added_token *token = NULL;
        if (index->first[byte] < index->first[byte + 1])
            token = longest_at(index, text + at, length - at);
        if (token == NULL) {
            at++;
            continue;
        }
        struct tp_added_match match = {token, at, at + token->sought_length};
        at = match.end;
        if (ordinary && token->special)
            continue;
        int rc = token->single_word ? stands_alone(index, matcher, text, length, &match) : 1;
        if (rc < 0)
            return rc;
        if (rc == 0)
            continue;
        take_spaces(text, length, search->floor, &match);
        *search = (struct tp_added_search){at, match.end};
        *ret_match = match;
        return 1;
    }
    search->at = length;
    return 0;
}
