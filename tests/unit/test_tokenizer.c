/* What the command line cannot show: streams cut anywhere, threads, and the rewriting of
 * expressions. The vectors are in tests/infer/. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/tokenizer/pattern.h"
#include "infer/tokenizer/tokenizer.h"

static struct tp_tokenizer *open_kit(const char *name)
{
    const char *root = getenv("TP_TEST_SRCDIR");
    char path[4096];
    struct tp_tokenizer *tokenizer = NULL;
    struct tp_error error;
    snprintf(path, sizeof path, "%s/tests/kit/tokenizer/%s", root != NULL ? root : ".", name);
    cr_assert_eq(tp_tokenizer_open(path, &tokenizer, &error), 0, "%s", error.text);
    return tokenizer;
}

/* ---- UTF-8 */

Test(utf8, every_code_point)
{
    char bytes[4];
    for (uint32_t code = 0; code < 0x110000; code++) {
        bool surrogate = code >= 0xD800 && code < 0xE000;
        size_t n = tp_utf8_write(code, bytes);
        cr_assert_eq(tp_utf8_character(bytes, n), surrogate ? 0 : n, "%x", code);
        cr_assert(surrogate || (tp_utf8_read(bytes) == code && tp_utf8_step(bytes[0]) == n));
        cr_assert(n == 1 || tp_utf8_valid(bytes, n - 1) == 0);
    }
}

/* As Python's decode(errors="replace") has it. */
static const struct {
    const char *bytes, *repaired;
} broken[] = {
    {"a\xFF"
     "b",
     "a\xEF\xBF\xBD"
     "b"},
    {"\xE2\x82"
     "b",
     "\xEF\xBF\xBD"
     "b"},
    {"\xE2\x82", "\xEF\xBF\xBD"},
    {"\xF0\x9F\x98", "\xEF\xBF\xBD"},
    {"\xF0\x9F\x98\xC3\xA9", "\xEF\xBF\xBD\xC3\xA9"},
    {"\xC0\xAF", "\xEF\xBF\xBD\xEF\xBF\xBD"},
    {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
    {"\xF4\x90\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
    {"\xE0\x80\xE6\x97\xA5", "\xEF\xBF\xBD\xEF\xBF\xBD\xE6\x97\xA5"},
    {"12345678\x80\xF0\x9F\x98\x80", "12345678\xEF\xBF\xBD\xF0\x9F\x98\x80"},
};

Test(utf8, repair_is_the_same_wherever_it_is_cut)
{
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        size_t length = strlen(broken[i].bytes);
        for (size_t cut = 0; cut <= length; cut++) {
            struct tp_utf8_repair repair = {0};
            struct tp_buffer out = {0};
            tp_utf8_repair_feed(&repair, broken[i].bytes, cut, &out);
            cr_assert_eq(tp_utf8_valid(out.bytes, out.length), out.length);
            tp_utf8_repair_feed(&repair, broken[i].bytes + cut, length - cut, &out);
            tp_utf8_repair_finish(&repair, &out);
            cr_assert_eq(out.length, strlen(broken[i].repaired), "case %zu, cut %zu", i, cut);
            cr_assert_arr_eq(out.bytes, broken[i].repaired, out.length);
            tp_buffer_clear(&out);
        }
    }
}

/* ---- decoding as it comes */

Test(decoder, a_stream_equals_the_whole)
{
    static const char *const kinds[] = {"tiny", "variants/llama2", "variants/mistral"};
    unsigned state = 1;
    for (size_t kind = 0; kind < 3; kind++) {
        struct tp_tokenizer *tokenizer = open_kit(kinds[kind]);
        struct tp_decoder decoder = {.tokenizer = tokenizer};
        struct tp_buffer streamed = {0}, whole = {0};
        struct tp_ids ids = {0};
        for (size_t i = 0; i < 20000; i++) {
            state = state * 1664525u + 1013904223u;
            tp_ids_append(&ids, (state >> 8) % 300);
            size_t before = streamed.length;
            cr_assert_eq(tp_decoder_feed(&decoder, ids.items[i], &streamed), 0);
            size_t n = streamed.length - before;
            cr_assert(n == 0 || tp_utf8_valid(streamed.bytes + before, n) == n);
        }
        tp_decoder_finish(&decoder, &streamed);
        cr_assert_eq(tp_tokenizer_decode(tokenizer, ids.items, ids.n, 0, &whole), 0);
        cr_assert_eq(whole.length, streamed.length);
        cr_assert_arr_eq(whole.bytes, streamed.bytes, whole.length);
        tp_buffer_clear(&streamed);
        tp_buffer_clear(&whole);
        tp_ids_clear(&ids);
        tp_tokenizer_free(tokenizer);
    }
}

Test(decoder, ids_without_a_token_give_nothing)
{
    struct tp_tokenizer *tokenizer = open_kit("tiny");
    const uint32_t ids[] = {64, 5000, UINT32_MAX, 64};
    struct tp_buffer out = {0};
    cr_assert_eq(tp_tokenizer_decode(tokenizer, ids, 4, 0, &out), 0);
    cr_assert_eq(out.length, 2);
    cr_assert_not(tp_tokenizer_has(tokenizer, UINT32_MAX));
    cr_assert_not(tp_tokenizer_is_special(tokenizer, UINT32_MAX));
    tp_buffer_clear(&out);
    tp_tokenizer_free(tokenizer);
}

/* ---- threads */

struct job {
    const struct tp_tokenizer *tokenizer;
    struct tp_ids ids;
};

static void *encode_often(void *context)
{
    static const char text[] = "Hello <|end|> w\xC3\xB6rld, 12345 times\n\n\tand more: "
                               "antidisestablishmentarianism";
    struct job *job = context;
    for (int i = 0; i < 200; i++) {
        job->ids.n = 0;
        if (tp_tokenizer_encode(job->tokenizer, text, sizeof text - 1, 0, &job->ids, NULL) < 0)
            return job;
    }
    return NULL;
}

Test(tokenizer, serves_threads_at_once)
{
    enum { THREADS = 4 };
    struct tp_tokenizer *tokenizer = open_kit("small");
    struct job jobs[THREADS] = {{0}};
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        jobs[i].tokenizer = tokenizer;
        cr_assert_eq(pthread_create(&threads[i], NULL, encode_often, &jobs[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        cr_assert_null(failed);
        cr_assert(jobs[i].ids.n > 10 && jobs[i].ids.n == jobs[0].ids.n);
        cr_assert_arr_eq(jobs[i].ids.items, jobs[0].ids.items, jobs[0].ids.n * sizeof(uint32_t));
    }
    for (size_t i = 0; i < THREADS; i++)
        tp_ids_clear(&jobs[i].ids);
    tp_tokenizer_free(tokenizer);
}

/* ---- expressions */

static bool matches(const char *expression, const char *text)
{
    struct tp_pattern *pattern;
    struct tp_error error;
    size_t begin = 0, end = 0;
    int rc = tp_pattern_new(expression, strlen(expression), false, &pattern, &error);
    cr_assert_eq(rc, 0, "%s: %s", expression, error.text);
    struct tp_matcher *matcher = tp_matcher_new();
    int found = tp_pattern_find(pattern, matcher, text, strlen(text), 0, &begin, &end);
    tp_matcher_free(matcher);
    tp_pattern_free(pattern);
    return found == 1 && begin == 0 && end == strlen(text);
}

Test(pattern, means_what_oniguruma_means)
{
    cr_assert(matches("\\s", "\xC2\x85"));         /* U+0085 is white space */
    cr_assert_not(matches("\\s", "\xE1\xA0\x8E")); /* U+180E is none */
    cr_assert(matches("[\\s]+", " \t\xE3\x80\x80"));
    cr_assert(matches("\\S", "\xE1\xA0\x8E"));
    cr_assert(matches("[^\\S\\n]", " "));
    cr_assert(matches("\\w", "\xC2\xBD"));       /* one half, by Oniguruma's table of Latin-1 */
    cr_assert_not(matches("[\\w]", "\xC2\xBD")); /* but not in a class */
    cr_assert(matches("\\w+", "\xCC\x81"
                              "a1_\xE2\x80\xBF"));
    cr_assert(matches("\\h{2}", "fF")); /* hexadecimal, not a blank */
    cr_assert(matches("\\u00e9", "\xC3\xA9"));
    cr_assert(matches("(?i:'s)", "'\xC5\xBF")); /* long s */
    cr_assert(matches("[]a]+", "a]"));
    cr_assert(matches("[[:alpha:]]+", "a\xC3\xA9"));
    cr_assert(matches("a$", "a"));
    cr_assert_not(matches(".", "\n"));
    cr_assert(matches(".", "\r"));
}

Test(pattern, refuses_what_it_cannot_promise)
{
    static const char *const refused[] = {
        "[a&&b]", "[a[b]]", "(?m:a)", "(?<name>a)", "(?#c)", "(*COMMIT)a", "a{1,2}+", "\\Ka",
        "\\Ca",   "\\",     "\\u12",  "[\\W]",      "(?R)",  "(?1)",       "\\R",     "\\X",
        "\\1",    "[:",     "[a",     "(a",         "a)",    "\\p{Nope}"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct tp_pattern *pattern = NULL;
        struct tp_error error = {""};
        int rc = tp_pattern_new(refused[i], strlen(refused[i]), false, &pattern, &error);
        cr_assert(rc == -EINVAL && error.text[0] != '\0', "%s", refused[i]);
    }
}
