#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "infer/engine/lookup.h"

enum { MOST = 16 };

static struct tp_lookup *new_lookup(size_t context)
{
    struct tp_lookup *lookup;
    cr_assert_eq(tp_lookup_new(context, &lookup), 0);
    return lookup;
}

static void append(struct tp_lookup *lookup, const char *text)
{
    for (; *text != '\0'; text++)
        tp_lookup_append(lookup, (uint32_t)*text);
}

static void expect(struct tp_lookup *lookup, size_t most, const char *expected)
{
    uint32_t draft[MOST];
    char text[MOST + 1];
    size_t n = tp_lookup_draft(lookup, most, draft);
    cr_assert_leq(n, most);
    for (size_t i = 0; i < n; i++)
        text[i] = (char)draft[i];
    text[n] = '\0';
    cr_assert_str_eq(text, expected);
}

Test(lookup, drafts_half_of_what_agrees)
{
    struct tp_lookup *lookup = new_lookup(200);
    expect(lookup, MOST, "");
    append(lookup, "a");
    expect(lookup, MOST, "");
    append(lookup, "bcdefghijklmnopq");
    expect(lookup, MOST, "");
    append(lookup, "-a");
    expect(lookup, MOST, ""); /* one token is too little */
    append(lookup, "b");
    expect(lookup, MOST, "c");
    append(lookup, "cd");
    expect(lookup, MOST, "ef");
    append(lookup, "efgh");
    expect(lookup, MOST, "ijkl");
    expect(lookup, 3, "ijk");
    expect(lookup, 0, "");
    tp_lookup_free(lookup);
}

Test(lookup, takes_the_longest_agreement_and_then_the_latest)
{
    struct tp_lookup *lookup = new_lookup(200);
    append(lookup, "12345678abcd cdX cdY 12345678abcd");
    expect(lookup, 1, " "); /* though "cd" went on with "Y" later */
    append(lookup, "? cd");
    expect(lookup, 1, "?");
    tp_lookup_free(lookup);
}

Test(lookup, goes_on_with_a_repetition_beyond_its_end)
{
    struct tp_lookup *lookup = new_lookup(200);
    append(lookup, "xyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxyxy");
    expect(lookup, MOST, "xyxyxyxyxyxyxyxy");
    tp_lookup_free(lookup);
}

Test(lookup, forgets_what_is_beyond_the_context)
{
    struct tp_lookup *lookup = new_lookup(4);
    append(lookup, "ababababab");
    expect(lookup, 2, "a");
    tp_lookup_free(lookup);
}

/* What is drafted stood in the text after what agrees, whatever falls on one slot of a table. */
Test(lookup, never_drafts_what_did_not_follow)
{
    enum { N = 20000 };
    static uint32_t text[N];
    struct tp_lookup *lookup = new_lookup(N);
    uint64_t state = 1;
    size_t n_drafts = 0;
    for (size_t i = 0; i < N; i++) {
        text[i] = (uint32_t)((state = state * 6364136223846793005u + 1442695040888963407u) >> 58);
        tp_lookup_append(lookup, text[i]);
        uint32_t draft[MOST];
        size_t n = tp_lookup_draft(lookup, MOST, draft);
        bool found = n == 0;
        for (size_t end = i; !found && end >= 2; end--) {
            found = text[end - 1] == text[i] && text[end - 2] == text[i - 1];
            for (size_t k = 0; found && k < n; k++)
                found = end + k > i || text[end + k] == draft[k];
        }
        cr_assert(found, "at %zu", i);
        n_drafts += n > 0;
    }
    cr_assert_gt(n_drafts, N / 2);
    tp_lookup_free(lookup);
}

/* A quadratic search would take minutes. */
Test(lookup, takes_no_longer_in_a_long_text, .timeout = 20)
{
    enum { N = 1 << 20 };
    struct tp_lookup *lookup = new_lookup(N);
    uint64_t state = 1;
    uint32_t draft[MOST];
    for (size_t i = 0; i < N; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        tp_lookup_append(lookup, (uint32_t)(state >> 62));
        tp_lookup_draft(lookup, MOST, draft);
    }
    tp_lookup_free(lookup);
}
