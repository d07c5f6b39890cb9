/* The JSON reader against RFC 8259, and against serde_json where a verdict is a matter of
 * choice (range of numbers, depth). differential_safetensors.py compares the two directly. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"

/* A text at the end of its block, so that sanitizers see a step beyond it. */
struct document {
    char *block;
    struct tp_json json;
    struct tp_error error;
};

static struct document *document_new(const char *text, size_t length)
{
    struct document *document = calloc(1, sizeof *document);
    document->block = malloc(length + 1);
    memcpy(document->block + 1, text, length);
    tp_json_init(&document->json, document->block + 1, length, &document->error);
    return document;
}

static void document_free(struct document *document)
{
    free(document->block);
    free(document);
}

/* Verdict on a whole text: one value, then nothing. */
static int judge_bytes(const char *text, size_t length)
{
    struct document *document = document_new(text, length);
    int rc = tp_json_skip(&document->json);
    if (rc == 0)
        rc = tp_json_end(&document->json);
    cr_assert(rc == 0 || rc == -EINVAL);
    cr_assert_eq(rc == 0, document->error.text[0] == '\0', "%s", document->error.text);
    document_free(document);
    return rc;
}

static int judge(const char *text)
{
    return judge_bytes(text, strlen(text));
}

#define ACCEPTED(...) check_all((const char *const[]){__VA_ARGS__, NULL}, 0)
#define REFUSED(...)  check_all((const char *const[]){__VA_ARGS__, NULL}, -EINVAL)

static void check_all(const char *const *texts, int expected)
{
    for (; *texts != NULL; texts++)
        cr_expect_eq(judge(*texts), expected, "%s", *texts);
}

Test(json, takes_every_kind)
{
    ACCEPTED("null", "true", "false", "0", "\"\"", "[]", "{}", " [ 1 , 2 ] ", "\t\r\n {}\n",
             "{\"a\":{\"b\":[null,true,false,\"x\",-1.5e3]},\"c\":[[],{}]}", "{\"\":0}",
             "{\"a\":1,\"a\":2}");
}

Test(json, refuses_broken_structure)
{
    REFUSED("", " ", "[", "]", "{", "}", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "{\"a\"}",
            "{\"a\":}", "{\"a\":1,}", "{,}", "{\"a\" 1}", "{a:1}", "{1:1}", "{'a':1}", "[1}",
            "{\"a\":1]", "{\"a\":1 \"b\":2}", "[]]", "{}{}", "1 1", "[1]/**/", "\xef\xbb\xbf{}",
            "\f1", "1\v", "[1]\xc2\xa0", "{\"a\":[}");
}

Test(json, refuses_broken_literals)
{
    REFUSED("nul", "nulll", "True", "tru", "falsey", "NaN", "Infinity", "n", "t", "f");
}

Test(json, judges_numbers)
{
    ACCEPTED("0", "-0", "10", "-1", "1.5", "0.5", "1e5", "1E+5", "1e-5", "0e0", "0.0e0",
             "123456789012345678901234567890");
    REFUSED("01", "-01", "00", "-", "+1", "1.", ".5", "-.5", "1e", "1e+", "1.e1", "0x10", "1_0",
            "1a", "--1", "1.5.5", "1e5e5");
}

/* serde_json multiplies a rounded significand by a rounded power of ten: it refuses numbers
 * just below the largest double. The verdicts are safetensors 0.8.0's. */
Test(json, refuses_numbers_beyond_a_double)
{
    ACCEPTED("1e308", "1.7976931348623157e308", "-1.7976931348623157e308", "0e400",
             "0.0e9999999999999999", "1e-400", "1e-99999999999999999999",
             "18446744073709551615e288");
    REFUSED("1e309", "-1e309", "1e400", "1.7976931348623158e308", "1e99999999999999999999",
            "17976931348623157000e289", "1e2147483648", "1e2147483647", "18446744073709551615e289",
            "99999999999999999999e289");
}

Test(json, counts_digits_that_do_not_fit_as_powers_of_ten)
{
    char digits[420];
    memset(digits, '1', sizeof digits);
    cr_expect_eq(judge_bytes(digits, 309), 0);
    cr_expect_eq(judge_bytes(digits, 310), -EINVAL);
    memcpy(digits + 400, "e-100", 5);
    cr_expect_eq(judge_bytes(digits, 405), 0);
    memcpy(digits + 400, "e-091", 5);
    cr_expect_eq(judge_bytes(digits, 405), 0);
    memcpy(digits + 400, "e-090", 5);
    cr_expect_eq(judge_bytes(digits, 405), -EINVAL);
    memset(digits, '0', 202);
    digits[1] = '.';
    memcpy(digits + 202, "1e400", 5);
    cr_expect_eq(judge_bytes(digits, 207), 0);
    memcpy(digits + 202, "1e511", 5);
    cr_expect_eq(judge_bytes(digits, 207), -EINVAL);
}

static void fill_nested(char *text, size_t depth)
{
    memset(text, '[', depth);
    memset(text + depth, ']', depth);
}

Test(json, nests_as_deep_as_the_official_reader)
{
    static char text[200000];
    fill_nested(text, TP_JSON_DEPTH_MAX);
    cr_expect_eq(judge_bytes(text, 2 * TP_JSON_DEPTH_MAX), 0);
    fill_nested(text, TP_JSON_DEPTH_MAX + 1);
    cr_expect_eq(judge_bytes(text, 2 * (TP_JSON_DEPTH_MAX + 1)), -EINVAL);
    fill_nested(text, sizeof text / 2);
    cr_expect_eq(judge_bytes(text, sizeof text), -EINVAL);
}

/* Depth counts what the caller has entered, too. */
Test(json, counts_depth_across_calls)
{
    char text[2 * TP_JSON_DEPTH_MAX + 4];
    for (size_t inner = TP_JSON_DEPTH_MAX - 1; inner <= TP_JSON_DEPTH_MAX; inner++) {
        fill_nested(text, inner + 1);
        struct document *document = document_new(text, 2 * (inner + 1));
        bool first = true, more = false;
        cr_assert_eq(tp_json_enter_array(&document->json), 0);
        cr_assert_eq(tp_json_array_next(&document->json, &first, &more), 0);
        cr_assert(more);
        cr_expect_eq(tp_json_skip(&document->json), inner == TP_JSON_DEPTH_MAX - 1 ? 0 : -EINVAL);
        document_free(document);
    }
}

Test(json, judges_strings)
{
    ACCEPTED("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\u0000\"", "\"\\uFfFf\"", "\"\\ud83d\\uDE00\"",
             "\"\x7f\"", "\"\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\"",
             "\"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"");
    REFUSED("\"", "\"\\\"", "\"\\x\"", "\"\\U0041\"", "\"\\u\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\",
            "\"\\u", "\"\\u00", "\"\n\"", "\"\t\"", "\"\x1f\"", "\"\x01\"");
    cr_expect_eq(judge_bytes("\"\0\"", 3), -EINVAL);
    cr_expect_eq(judge_bytes("\"\\\0\"", 4), -EINVAL);
}

Test(json, refuses_half_surrogate_pairs)
{
    REFUSED("\"\\ud83d\"", "\"\\ude00\"", "\"\\ude00\\ud83d\"", "\"\\ud83d\\ud83d\"",
            "\"\\ud83d\\u0041\"", "\"\\ud83d\\u12g4\"", "\"\\ud83d\\n\"", "\"\\ud83dx\"",
            "\"\\udbff\\u", "\"\\ud800", "\"\\ud83d\\ue000\"");
    ACCEPTED("\"\\ud7ff\"", "\"\\ue000\"", "\"\\ud800\\udc00\"", "\"\\udbff\\udfff\"");
}

Test(json, refuses_what_is_not_utf8)
{
    REFUSED("\"\x80\"", "\"\xbf\"", "\"\xc0\x80\"", "\"\xc1\xbf\"", "\"\xc2\"", "\"\xc2\x41\"",
            "\"\xe0\x9f\xbf\"", "\"\xed\xa0\x80\"", "\"\xe2\x82\"", "\"\xf0\x8f\xbf\xbf\"",
            "\"\xf4\x90\x80\x80\"", "\"\xf5\x80\x80\x80\"", "\"\xff\"", "\"\xf0\x90\x80\"",
            "\xc3\xa9", "\"\xe2\x82", "\"\xc3");
}

/* No prefix of an object is valid, and none may be read beyond its end. */
Test(json, refuses_every_prefix)
{
    static const char text[] = "{\"a\\u00e9\\ud83d\\ude00\xc3\xa9\":[1.5e+10,-0,true,false,null,"
                               "{\"\\n\":\"\xf0\x9f\x98\x80\"}],\"b\":{}}";
    for (size_t length = 0; length < sizeof text - 1; length++)
        cr_expect_eq(judge_bytes(text, length), -EINVAL, "%zu bytes", length);
    cr_expect_eq(judge(text), 0);
}

/* Reads `text` as a string and returns it resolved, with its length. */
static char *resolve(const char *text, size_t *ret_length)
{
    struct document *document = document_new(text, strlen(text));
    struct tp_json_string string;
    cr_assert_eq(tp_json_string(&document->json, &string), 0, "%s", document->error.text);
    cr_assert_leq(string.length, string.raw_length);
    char *resolved = calloc(1, string.length + 1);
    tp_json_string_copy(&string, resolved);
    *ret_length = string.length;
    document_free(document);
    return resolved;
}

Test(json, resolves_escapes)
{
    static const struct {
        const char *text, *resolved;
        size_t length;
    } cases[] = {
        {"\"\"", "", 0},
        {"\"plain\"", "plain", 5},
        {"  \"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8},
        {"\"a\\u0000b\"", "a\0b", 3},
        {"\"\\u0041\\u007f\\u0080\\u07FF\\u0800\\uffff\"",
         "A\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf", 12},
        {"\"\\ud800\\udc00\\uDBFF\\uDFFF\"", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", 8},
        {"\"caf\xc3\xa9\\n\xf0\x9f\x98\x80\"", "caf\xc3\xa9\n\xf0\x9f\x98\x80", 10},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t length;
        char *resolved = resolve(cases[i].text, &length);
        cr_expect_eq(length, cases[i].length, "%s", cases[i].text);
        cr_expect_arr_eq(resolved, cases[i].resolved, cases[i].length + 1, "%s", cases[i].text);
        free(resolved);
    }
}

Test(json, refuses_unclosed_strings)
{
    static const char *const texts[] = {"\"", "\"abc", "\"\\\"", "\"\\u0041", "\"\xc3\xa9"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct document *document = document_new(texts[i], strlen(texts[i]));
        struct tp_json_string string;
        cr_expect_eq(tp_json_string(&document->json, &string), -EINVAL, "%s", texts[i]);
        document_free(document);
    }
}

static bool equals(const char *text, const char *with)
{
    struct document *document = document_new(text, strlen(text));
    struct tp_json_string string;
    cr_assert_eq(tp_json_string(&document->json, &string), 0);
    bool equal = tp_json_string_equals(&string, with);
    document_free(document);
    return equal;
}

Test(json, compares_resolved_strings)
{
    cr_expect(equals("\"dtype\"", "dtype"));
    cr_expect(equals("\"d\\u0074ype\"", "dtype"));
    cr_expect(equals("\"\\u00e9\\ud83d\\ude00\"", "\xc3\xa9\xf0\x9f\x98\x80"));
    cr_expect(equals("\"\"", ""));
    cr_expect_not(equals("\"dtyp\"", "dtype"));
    cr_expect_not(equals("\"dtypes\"", "dtype"));
    cr_expect_not(equals("\"dtypE\"", "dtype"));
    cr_expect_not(equals("\"\\u0000\"", ""));
    cr_expect_not(equals("\"a\\u0000\"", "a"));
    cr_expect_not(equals("\"\\u00e9\"", "ab"));
}

Test(json, reads_unsigned_integers)
{
    static const struct {
        const char *text;
        int rc;
        uint64_t value;
    } cases[] = {
        {"0", 0, 0},
        {" 7", 0, 7},
        {"18446744073709551615", 0, UINT64_MAX},
        {"9007199254740993", 0, UINT64_C(9007199254740993)},
        {"1]", 0, 1},
        {"18446744073709551616", -EINVAL, 0},
        {"99999999999999999999999999", -EINVAL, 0},
        {"-0", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {"+1", -EINVAL, 0},
        {"01", -EINVAL, 0},
        {"00", -EINVAL, 0},
        {"1.0", -EINVAL, 0},
        {"1e0", -EINVAL, 0},
        {"1E0", -EINVAL, 0},
        {"", -EINVAL, 0},
        {"\"1\"", -EINVAL, 0},
        {"null", -EINVAL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct document *document = document_new(cases[i].text, strlen(cases[i].text));
        uint64_t value = 42;
        cr_expect_eq(tp_json_unsigned(&document->json, &value), cases[i].rc, "%s", cases[i].text);
        cr_expect_eq(value, cases[i].rc == 0 ? cases[i].value : 42, "%s", cases[i].text);
        document_free(document);
    }
}

Test(json, peeks_without_consuming)
{
    static const char text[] = " [null, true, false, -1, 2, \"\", [], {}]";
    static const enum tp_json_kind kinds[] = {TP_JSON_NULL,   TP_JSON_BOOLEAN, TP_JSON_BOOLEAN,
                                              TP_JSON_NUMBER, TP_JSON_NUMBER,  TP_JSON_STRING,
                                              TP_JSON_ARRAY,  TP_JSON_OBJECT};
    struct document *document = document_new(text, strlen(text));
    bool first = true, more = true;
    enum tp_json_kind kind;
    cr_assert_eq(tp_json_enter_array(&document->json), 0);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        cr_assert_eq(tp_json_array_next(&document->json, &first, &more), 0);
        cr_assert(more);
        cr_assert_eq(tp_json_peek(&document->json, &kind), 0);
        cr_expect_eq(kind, kinds[i], "value %zu", i);
        cr_assert_eq(tp_json_peek(&document->json, &kind), 0);
        cr_assert_eq(tp_json_skip(&document->json), 0);
    }
    cr_assert_eq(tp_json_array_next(&document->json, &first, &more), 0);
    cr_expect_not(more);
    cr_expect_eq(document->json.depth, 0);
    cr_expect_eq(tp_json_end(&document->json), 0);
    document_free(document);
}

Test(json, walks_an_object)
{
    static const char text[] = "{\"one\": 1, \"list\": [1, [2]], \"three\": 3}";
    struct document *document = document_new(text, strlen(text));
    struct tp_json_string key;
    bool first = true, more = true;
    uint64_t value;
    cr_assert_eq(tp_json_enter_object(&document->json), 0);
    cr_assert_eq(tp_json_object_next(&document->json, &first, &key, &more), 0);
    cr_expect(more && tp_json_string_equals(&key, "one"));
    cr_assert_eq(tp_json_unsigned(&document->json, &value), 0);
    cr_assert_eq(tp_json_object_next(&document->json, &first, &key, &more), 0);
    cr_expect(more && tp_json_string_equals(&key, "list"));
    cr_assert_eq(tp_json_skip(&document->json), 0);
    cr_assert_eq(tp_json_object_next(&document->json, &first, &key, &more), 0);
    cr_expect(more && tp_json_string_equals(&key, "three"));
    cr_assert_eq(tp_json_unsigned(&document->json, &value), 0);
    cr_expect_eq(value, 3);
    cr_assert_eq(tp_json_object_next(&document->json, &first, &key, &more), 0);
    cr_expect_not(more);
    cr_expect_eq(tp_json_end(&document->json), 0);
    document_free(document);
}

Test(json, says_what_it_expected_and_found)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{\"a\":1 2}", "JSON, byte 7: expected ',' or '}', found '2'"},
        {"[1", "JSON, byte 2: expected ',' or ']', found the end"},
        {"[1]\x01", "JSON, byte 3: expected nothing but white space, found byte 0x01"},
        {"[01]", "JSON, byte 2: expected no digit after a leading zero, found '1'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct document *document = document_new(cases[i].text, strlen(cases[i].text));
        if (tp_json_skip(&document->json) == 0)
            tp_json_end(&document->json);
        cr_expect_str_eq(document->error.text, cases[i].message);
        document_free(document);
    }
    struct document *document = document_new("-2.0,", 5);
    uint64_t value;
    tp_json_unsigned(&document->json, &value);
    cr_expect_str_eq(document->error.text,
                     "JSON, byte 0: expected an unsigned integer below 2^64, found -2.0");
    document_free(document);
}
