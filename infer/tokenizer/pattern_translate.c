/* From Oniguruma's language to PCRE2's, as far as tokenizers use it. */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "infer/tokenizer/pattern.h"

/* Unicode's White_Space and Oniguruma's word characters, as members of a class. */
#define SPACES                                                                                     \
    "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{"    \
    "205f}"                                                                                        \
    "\\x{3000}"
#define WORDS      "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
/* Outside a class, Oniguruma asks a table of Latin-1 that also has its superscripts and fractions.
 */
#define LONE_WORDS WORDS "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

struct translation {
    const char *text;
    size_t length, at;
    bool in_class;
    struct tp_buffer *out;
    struct tp_error *error;
};

static int refuse(const struct translation *t, size_t at, const char *what)
{
    return tp_error_set(t->error, -EINVAL,
                        "expected an expression that PCRE2 can match as Oniguruma would, found %s "
                        "at character %zu",
                        what, at);
}

static bool follows(const struct translation *t, const char *text)
{
    size_t n = strlen(text);
    return t->length - t->at >= n && memcmp(t->text + t->at, text, n) == 0;
}

static int copy(struct translation *t, size_t n)
{
    int rc = tp_buffer_append(t->out, t->text + t->at, n);
    t->at += n;
    return rc;
}

/* A class escape such as \s: as members inside a class, as a class of its own outside. */
static int replace_class(struct translation *t, const char *members, bool negated)
{
    static const char *const brackets[][2] = {{"[", "]"}, {"[^", "]"}};
    t->at += 2;
    if (t->in_class)
        return tp_buffer_append_text(t->out, members);
    int rc = tp_buffer_append_text(t->out, brackets[negated][0]);
    if (rc == 0)
        rc = tp_buffer_append_text(t->out, members);
    return rc < 0 ? rc : tp_buffer_append_text(t->out, brackets[negated][1]);
}

/* \uHHHH */
static int replace_code(struct translation *t)
{
    for (size_t i = 2; i < 6; i++) {
        if (t->length - t->at <= i || !isxdigit((unsigned char)t->text[t->at + i]))
            return refuse(t, t->at, "\\u without four hexadecimal digits");
    }
    int rc = tp_buffer_append_text(t->out, "\\x{");
    t->at += 2;
    if (rc == 0)
        rc = copy(t, 4);
    return rc < 0 ? rc : tp_buffer_append_text(t->out, "}");
}

static int translate_escape(struct translation *t)
{
    if (t->length - t->at < 2)
        return refuse(t, t->at, "a backslash at the end");
    char letter = t->text[t->at + 1];
    switch (letter) {
    case 's':
        return replace_class(t, SPACES, false);
    case 'S':
        return replace_class(t, t->in_class ? "\\P{White_Space}" : SPACES, true);
    case 'w':
        return replace_class(t, t->in_class ? WORDS : LONE_WORDS, false);
    case 'h':
        return replace_class(t, "0-9a-fA-F", false);
    case 'W':
        if (t->in_class)
            return refuse(t, t->at, "\\W in a class");
        return replace_class(t, LONE_WORDS, true);
    case 'u':
        return replace_code(t);
    default:
        /* The same in both: properties, control characters, digits, anchors, literals. */
        if (isalnum((unsigned char)letter) && strchr("pPdDtnrfvaexAzZ0", letter) == NULL)
            return refuse(t, t->at, "an escape that is not supported");
        return copy(t, (unsigned char)letter < 0x80 ? 2 : 1);
    }
}

/* After "[", "[^": a "]" that comes first is a member. */
static int translate_class_start(struct translation *t)
{
    t->in_class = true;
    int rc = copy(t, follows(t, "[^") ? 2 : 1);
    if (rc == 0 && follows(t, "]"))
        rc = copy(t, 1);
    return rc;
}

static int translate_in_class(struct translation *t)
{
    if (follows(t, "&&"))
        return refuse(t, t->at, "an intersection of classes");
    if (follows(t, "[:")) {
        const char *end = memmem(t->text + t->at, t->length - t->at, ":]", 2);
        if (end == NULL)
            return refuse(t, t->at, "\"[:\" without \":]\"");
        return copy(t, (size_t)(end - (t->text + t->at)) + 2);
    }
    if (follows(t, "["))
        return refuse(t, t->at, "a class in a class");
    if (follows(t, "]"))
        t->in_class = false;
    return copy(t, 1);
}

/* Groups that mean the same: (?: (?= (?! (?<= (?<! (?> (?i: (?m: would not. */
static int translate_group(struct translation *t)
{
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"};
    if (!follows(t, "(?") && !follows(t, "(*"))
        return copy(t, 1);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (follows(t, known[i]))
            return copy(t, strlen(known[i]));
    }
    return refuse(t, t->at, "a group that is not supported");
}

/* "{2,3}+" repeats the repetition in Oniguruma and is possessive in PCRE2. */
static int translate_interval(struct translation *t)
{
    size_t at = t->at;
    int rc = copy(t, 1);
    if (rc == 0 && at > 0 && follows(t, "+")) {
        for (; at > 0 && (isdigit((unsigned char)t->text[at - 1]) || t->text[at - 1] == ',');)
            at--;
        if (at > 0 && t->text[at - 1] == '{')
            return refuse(t, t->at, "'+' after an interval");
    }
    return rc;
}

int tp_pattern_translate(const char *text, size_t length, struct tp_buffer *out,
                         struct tp_error *error)
{
    struct translation t = {text, length, 0, false, out, error};
    int rc = 0;
    while (rc == 0 && t.at < length) {
        char c = text[t.at];
        if (c == '\\')
            rc = translate_escape(&t);
        else if (t.in_class)
            rc = translate_in_class(&t);
        else if (c == '[')
            rc = translate_class_start(&t);
        else if (c == '(')
            rc = translate_group(&t);
        else if (c == '}')
            rc = translate_interval(&t);
        else
            rc = copy(&t, 1);
    }
    return rc;
}
