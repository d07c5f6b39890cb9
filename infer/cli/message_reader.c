#include "infer/cli/message_reader.h"

#include <errno.h>
#include <string.h>

static const char quotes[] = "\"\"\"";
enum { N_QUOTES = sizeof quotes - 1 };

static bool begins_quoted(const struct tp_buffer *text)
{
    return text->length >= N_QUOTES && memcmp(text->bytes, quotes, N_QUOTES) == 0;
}

static void take_line_end(struct tp_buffer *text)
{
    if (text->length > 0 && text->bytes[text->length - 1] == '\n')
        text->length--;
}

/* Takes the closing quotes off, and the line end before them. */
static bool ends_quoted(struct tp_buffer *text)
{
    if (text->length < N_QUOTES ||
        memcmp(text->bytes + text->length - N_QUOTES, quotes, N_QUOTES) != 0)
        return false;
    text->length -= N_QUOTES;
    take_line_end(text);
    return true;
}

/* Takes the backslash off. */
static bool goes_on(struct tp_buffer *text)
{
    if (text->length == 0 || text->bytes[text->length - 1] != '\\')
        return false;
    text->length--;
    return true;
}

int tp_message_read(struct tp_line_reader *reader, const char *prompt, const char *more_prompt,
                    struct tp_typed *typed, enum tp_line *ret_line, struct tp_error *error)
{
    struct tp_buffer *text = &typed->text;
    text->length = 0;
    typed->quoted = false;
    int rc = tp_line_reader_next(reader, prompt, text, ret_line, error);
    if (rc < 0 || *ret_line != TP_LINE_READ)
        return rc;
    if (begins_quoted(text)) {
        text->length -= N_QUOTES;
        memmove(text->bytes, text->bytes + N_QUOTES, text->length);
        typed->quoted = true;
    }
    while (typed->quoted ? !ends_quoted(text) : goes_on(text)) {
        if (!(typed->quoted && text->length == 0) && tp_buffer_append(text, "\n", 1) < 0)
            return tp_error_set(error, -ENOMEM, "out of memory");
        enum tp_line line;
        rc = tp_line_reader_next(reader, more_prompt, text, &line, error);
        if (rc < 0)
            return rc;
        if (line == TP_LINE_CLEARED)
            *ret_line = line;
        if (line != TP_LINE_READ) {
            take_line_end(text);
            return 0;
        }
    }
    return 0;
}
