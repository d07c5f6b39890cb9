/* Each string is matched by the automaton of Knuth, Morris and Pratt (1977): `matched` is how much
 * of it the text ends with. */
#include "infer/tokenizer/stop_strings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct tp_stop_string {
    char *text; /* [length] */
    size_t length;
    size_t *borders; /* [length]: the longest proper beginning of text[0..i] that also ends it */
    size_t matched;
};

/* How much of the string a text ends with that ended with `matched` of it and goes on with `c`. */
static size_t advance(const struct tp_stop_string *string, size_t matched, char c)
{
    while (matched > 0 && string->text[matched] != c)
        matched = string->borders[matched - 1];
    return string->text[matched] == c ? matched + 1 : 0;
}

int tp_stop_strings_add(struct tp_stop_strings *stops, const char *text, size_t length)
{
    if (length == 0)
        return -EINVAL;
    struct tp_stop_string *moved = realloc(stops->strings, (stops->n + 1) * sizeof *stops->strings);
    if (moved == NULL)
        return -ENOMEM;
    stops->strings = moved;
    struct tp_stop_string string = {.text = malloc(length),
                                    .length = length,
                                    .borders = calloc(length, sizeof *string.borders)};
    if (string.text == NULL || string.borders == NULL) {
        free(string.text);
        free(string.borders);
        return -ENOMEM;
    }
    memcpy(string.text, text, length);
    for (size_t i = 1; i < length; i++)
        string.borders[i] = advance(&string, string.borders[i - 1], text[i]);
    stops->strings[stops->n++] = string;
    return 0;
}

void tp_stop_strings_clear(struct tp_stop_strings *stops)
{
    for (size_t i = 0; i < stops->n; i++) {
        free(stops->strings[i].text);
        free(stops->strings[i].borders);
    }
    free(stops->strings);
    tp_buffer_clear(&stops->held);
    *stops = (struct tp_stop_strings){0};
}

/* Lets go of the beginning of what is held, up to its last `keep` bytes. */
static int release(struct tp_stop_strings *stops, size_t keep, struct tp_buffer *out)
{
    struct tp_buffer *held = &stops->held;
    size_t n = held->length - keep;
    if (n == 0)
        return 0;
    int rc = tp_buffer_append(out, held->bytes, n);
    if (rc < 0)
        return rc;
    memmove(held->bytes, held->bytes + n, keep);
    held->length = keep;
    return 0;
}

static int feed_byte(struct tp_stop_strings *stops, char c, struct tp_buffer *out)
{
    size_t keep = 0, found = 0;
    int rc = tp_buffer_append(&stops->held, &c, 1);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < stops->n; i++) {
        struct tp_stop_string *string = &stops->strings[i];
        string->matched = advance(string, string->matched, c);
        if (string->matched == string->length && string->length > found)
            found = string->length;
        if (string->matched > keep)
            keep = string->matched;
    }
    if (found == 0)
        return release(stops, keep, out);
    rc = release(stops, found, out);
    stops->found = true;
    stops->held.length = 0;
    return rc;
}

int tp_stop_strings_feed(struct tp_stop_strings *stops, const char *text, size_t length,
                         struct tp_buffer *out)
{
    int rc = 0;
    if (stops->n == 0)
        return tp_buffer_append(out, text, length);
    for (size_t i = 0; rc == 0 && !stops->found && i < length; i++)
        rc = feed_byte(stops, text[i], out);
    return rc;
}

int tp_stop_strings_finish(struct tp_stop_strings *stops, struct tp_buffer *out)
{
    return release(stops, 0, out);
}
