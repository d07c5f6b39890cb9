/* Regular expressions of tokenizer.json, matched by PCRE2 (UTF, UCP, compiled to machine code).
 *
 * The files' expressions are Oniguruma's. The two differ in what matters here: white space
 * (PCRE2's \s has U+180E, which is none since Unicode 6.3), word characters, \h (a hexadecimal
 * digit there, a blank here), "$" and "^" (always of a line there). Those are rewritten; what
 * exists in only one of them, or means something else, is refused. Characters are classified
 * by the Unicode version of the PCRE2 that is installed: see unicode_new.h.
 */
#ifndef TENSORPORT_INFER_TOKENIZER_PATTERN_H
#define TENSORPORT_INFER_TOKENIZER_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "decode/error.h"
#include "infer/tokenizer/buffer.h"

/* A word's character where the reference asks Rust's regex, not Oniguruma: for members of a class.
 */
#define TP_PATTERN_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}"

struct tp_pattern; /* immutable, thread-safe */
struct tp_matcher; /* what matching needs for itself: one for each thread */

enum { TP_PATTERN_LENGTH_MAX = 1 << 16 };

/* `text` is valid UTF-8 without NUL at the end: an expression, or a literal string. -EINVAL with
 * what is wrong, -ENOMEM. */
int tp_pattern_new(const char *text, size_t length, bool is_literal,
                   struct tp_pattern **ret_pattern, struct tp_error *error);
void tp_pattern_free(struct tp_pattern *pattern);

/* NULL: no memory. */
struct tp_matcher *tp_matcher_new(void);
void tp_matcher_free(struct tp_matcher *matcher);

/* The first match in valid UTF-8 at or after `from`, which is between characters. 1 with its
 * place, 0 if there is none, -ELOOP if the expression needs too many steps, -ENOMEM. */
int tp_pattern_find(const struct tp_pattern *pattern, struct tp_matcher *matcher, const char *text,
                    size_t length, size_t from, size_t *ret_begin, size_t *ret_end);

/* The rewriting alone, for tests: appends the expression in PCRE2's language. */
int tp_pattern_translate(const char *text, size_t length, struct tp_buffer *out,
                         struct tp_error *error);

#endif
