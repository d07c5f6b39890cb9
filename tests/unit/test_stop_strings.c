#include <criterion/criterion.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "infer/tokenizer/stop_strings.h"

/* What comes out of `text`, fed in pieces of `piece` bytes; NUL-terminated, the caller's. */
static char *feed(const char *const *strings, const char *text, size_t piece, bool *ret_found)
{
    struct tp_stop_strings stops = {0};
    struct tp_buffer out = {0};
    size_t length = strlen(text);
    for (size_t i = 0; strings[i] != NULL; i++)
        cr_assert_eq(tp_stop_strings_add(&stops, strings[i], strlen(strings[i])), 0);
    for (size_t at = 0; at < length; at += piece) {
        size_t n = length - at < piece ? length - at : piece;
        cr_assert_eq(tp_stop_strings_feed(&stops, text + at, n, &out), 0);
    }
    cr_assert_eq(tp_stop_strings_finish(&stops, &out), 0);
    cr_assert_eq(tp_buffer_append(&out, "", 1), 0);
    *ret_found = stops.found;
    tp_stop_strings_clear(&stops);
    return out.bytes;
}

/* The text up to the string that is complete first; of those that end there, the longest. */
static char *expect(const char *const *strings, const char *text, bool *ret_found)
{
    size_t length = strlen(text), first = length, end = length + 1;
    for (size_t i = 0; strings[i] != NULL; i++) {
        const char *at = strstr(text, strings[i]);
        if (at == NULL)
            continue;
        size_t begin = (size_t)(at - text), over = begin + strlen(strings[i]);
        if (over < end || (over == end && begin < first)) {
            first = begin;
            end = over;
        }
    }
    *ret_found = end <= length;
    return strndup(text, first);
}

static void check(const char *const *strings, const char *text)
{
    bool found, expected_found;
    char *expected = expect(strings, text, &expected_found);
    for (size_t piece = 1; piece <= 5; piece++) {
        char *out = feed(strings, text, piece, &found);
        cr_assert_str_eq(out, expected, "'%s' in pieces of %zu", text, piece);
        cr_assert_eq(found, expected_found);
        free(out);
    }
    free(expected);
}

Test(stop_strings, end_a_text)
{
    check((const char *[]){NULL}, "nothing to look for");
    check((const char *[]){"stop", NULL}, "go on and stop here");
    check((const char *[]){"stop", NULL}, "stop");
    check((const char *[]){"stop", NULL}, "the end is sto");
    check((const char *[]){"aab", NULL}, "aaaab");
    check((const char *[]){"abcabd", NULL}, "abcabcabd!");
    check((const char *[]){"abcd", "bc", NULL}, "xabcd");
    check((const char *[]){"b", "ab", "cab", NULL}, "xcab");
    check((const char *[]){"\xC3\xA9", "\xE2\x82\xAC", NULL}, "caf\xC3\xA9");
    check((const char *[]){"\n\n", NULL}, "a\nb\n\nc");
}

/* Short strings of two letters overlap in every way. */
Test(stop_strings, end_texts_of_two_letters)
{
    uint64_t state = 1;
    for (int round = 0; round < 20000; round++) {
        char words[3][6], text[24];
        const char *strings[4] = {words[0], words[1], words[2], NULL};
        for (size_t i = 0; i < 3; i++) {
            size_t length = 1 + (state = state * 6364136223846793005u + 1) / 7 % 5;
            for (size_t k = 0; k < length; k++)
                words[i][k] = "ab"[(state = state * 6364136223846793005u + 1) >> 63];
            words[i][length] = '\0';
        }
        for (size_t k = 0; k + 1 < sizeof text; k++)
            text[k] = "ab"[(state = state * 6364136223846793005u + 1) >> 63];
        text[sizeof text - 1] = '\0';
        strings[1 + (size_t)round % 3] = NULL;
        check(strings, text);
    }
}

Test(stop_strings, hold_back_only_what_may_be_one)
{
    struct tp_stop_strings stops = {0};
    struct tp_buffer out = {0};
    cr_assert_eq(tp_stop_strings_add(&stops, "", 0), -EINVAL);
    cr_assert_eq(tp_stop_strings_add(&stops, "<end>", 5), 0);
    cr_assert_eq(tp_stop_strings_feed(&stops, "a<", 2, &out), 0);
    cr_assert_eq(out.length, 1);
    cr_assert_eq(tp_stop_strings_feed(&stops, "en<", 3, &out), 0);
    cr_assert_eq(out.length, 4);
    cr_assert_eq(tp_stop_strings_feed(&stops, "x", 1, &out), 0);
    cr_assert_eq(out.length, 6);
    cr_assert_eq(memcmp(out.bytes, "a<en<x", 6), 0);
    cr_assert_eq(tp_stop_strings_feed(&stops, "<end>more", 9, &out), 0);
    cr_assert_eq(tp_stop_strings_feed(&stops, "more", 4, &out), 0);
    cr_assert_eq(tp_stop_strings_finish(&stops, &out), 0);
    cr_assert_eq(out.length, 6);
    cr_assert(stops.found);
    tp_stop_strings_clear(&stops);
    tp_buffer_clear(&out);
}
