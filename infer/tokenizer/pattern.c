#define PCRE2_CODE_UNIT_WIDTH 8

#include "infer/tokenizer/pattern.h"

#include <errno.h>
#include <pcre2.h>
#include <stdlib.h>

struct tp_pattern {
    pcre2_code *code;
    pcre2_match_context *limits;
};

struct tp_matcher {
    pcre2_match_data *data;
};

/* Steps of one match. A sound expression takes a few for each byte; one that goes through all
 * ways to split a text must not hang the program. */
enum { STEPS_MAX = 100 * 1000 * 1000 };

static int compile(const char *text, size_t length, bool is_literal, pcre2_code **ret_code,
                   struct tp_error *error)
{
    uint32_t options = PCRE2_UTF | PCRE2_NO_UTF_CHECK;
    options |= is_literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code;
    PCRE2_SIZE at;
    *ret_code = pcre2_compile((PCRE2_SPTR)text, length, options, &code, &at, context);
    pcre2_compile_context_free(context);
    if (*ret_code != NULL)
        return 0;
    PCRE2_UCHAR why[256] = "";
    pcre2_get_error_message(code, why, sizeof why);
    return tp_error_set(error, -EINVAL, "expected a regular expression, found \"%.100s%s\": %s",
                        text, length > 100 ? "..." : "", (const char *)why);
}

int tp_pattern_new(const char *text, size_t length, bool is_literal,
                   struct tp_pattern **ret_pattern, struct tp_error *error)
{
    struct tp_buffer translated = {0};
    struct tp_pattern *pattern = calloc(1, sizeof *pattern);
    int rc = pattern == NULL ? -ENOMEM : 0;
    if (rc == 0 && length > TP_PATTERN_LENGTH_MAX)
        rc = tp_error_set(error, -EINVAL, "expected an expression of at most %d bytes, found %zu",
                          TP_PATTERN_LENGTH_MAX, length);
    if (rc == 0)
        rc = is_literal ? tp_buffer_append(&translated, text, length)
                        : tp_pattern_translate(text, length, &translated, error);
    if (rc == 0)
        rc = tp_buffer_append(&translated, "", 1); /* a NUL, for messages */
    if (rc == 0)
        rc = compile(translated.bytes, translated.length - 1, is_literal, &pattern->code, error);
    if (rc == 0)
        pattern->limits = pcre2_match_context_create(NULL);
    if (rc == 0 && pattern->limits == NULL)
        rc = -ENOMEM;
    if (rc == 0) {
        pcre2_set_match_limit(pattern->limits, STEPS_MAX);
        /* Where there is no compiler for the machine, it is interpreted: the same, but slower. */
        pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
        *ret_pattern = pattern;
    } else {
        tp_pattern_free(pattern);
    }
    tp_buffer_clear(&translated);
    return rc;
}

void tp_pattern_free(struct tp_pattern *pattern)
{
    if (pattern == NULL)
        return;
    pcre2_match_context_free(pattern->limits);
    pcre2_code_free(pattern->code);
    free(pattern);
}

struct tp_matcher *tp_matcher_new(void)
{
    struct tp_matcher *matcher = malloc(sizeof *matcher);
    if (matcher == NULL)
        return NULL;
    matcher->data = pcre2_match_data_create(1, NULL);
    if (matcher->data == NULL) {
        free(matcher);
        return NULL;
    }
    return matcher;
}

void tp_matcher_free(struct tp_matcher *matcher)
{
    if (matcher == NULL)
        return;
    pcre2_match_data_free(matcher->data);
    free(matcher);
}

int tp_pattern_find(const struct tp_pattern *pattern, struct tp_matcher *matcher, const char *text,
                    size_t length, size_t from, size_t *ret_begin, size_t *ret_end)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    uint32_t options = PCRE2_NO_UTF_CHECK;
    int rc =
        pcre2_match(pattern->code, subject, length, from, options, matcher->data, pattern->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its state on the heap */
        rc = pcre2_match(pattern->code, subject, length, from, options | PCRE2_NO_JIT,
                         matcher->data, pattern->limits);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0)
        return rc == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -ELOOP;
    const PCRE2_SIZE *place = pcre2_get_ovector_pointer(matcher->data);
    *ret_begin = place[0];
    *ret_end = place[1];
    return 1;
}
