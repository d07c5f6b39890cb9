#include "infer/cli/answer_printer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void tp_answer_printer_init(struct tp_answer_printer *printer, bool show_reasoning)
{
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    bool terminal = isatty(STDOUT_FILENO) == 1;
    *printer = (struct tp_answer_printer){.terminal = terminal,
                                          .dim = terminal && term != NULL && term[0] != '\0' &&
                                                 strcmp(term, "dumb") != 0 &&
                                                 (no_color == NULL || no_color[0] == '\0'),
                                          .show_reasoning = show_reasoning};
}

void tp_answer_printer_clear(struct tp_answer_printer *printer)
{
    tp_buffer_clear(&printer->printable);
}

/* U+0000 to U+001F, U+007F, U+0080 to U+009F. */
static bool is_control(const char *text, size_t n)
{
    unsigned char first = (unsigned char)text[0];
    return n == 1 ? first < 0x20 || first == 0x7f
                  : n == 2 && first == 0xC2 && (unsigned char)text[1] < 0xA0;
}

int tp_printable_append(struct tp_buffer *printable, const char *text, size_t length)
{
    int rc = 0;
    for (size_t at = 0, n; rc == 0 && at < length; at += n) {
        n = tp_utf8_character(text + at, length - at);
        bool valid = n > 0;
        n = valid ? n : 1;
        if (text[at] == '\r')
            continue;
        if (text[at] == '\n' || text[at] == '\t' || (valid && !is_control(text + at, n)))
            rc = tp_buffer_append(printable, text + at, n);
        else
            rc = tp_buffer_append_text(printable, "\uFFFD");
    }
    return rc;
}

static void set_dim(struct tp_answer_printer *printer, bool dim)
{
    if (printer->dim && printer->is_dim != dim)
        fputs(dim ? "\033[2m" : "\033[0m", stdout);
    printer->is_dim = dim;
}

static int write_text(struct tp_answer_printer *printer, const char *text, size_t length)
{
    struct tp_buffer *printable = &printer->printable;
    if (printer->terminal) {
        printable->length = 0;
        int rc = tp_printable_append(printable, text, length);
        if (rc < 0)
            return rc;
        text = printable->bytes;
        length = printable->length;
    }
    if (length > 0) {
        fwrite(text, 1, length, stdout);
        printer->in_line = text[length - 1] != '\n';
    }
    return 0;
}

static void end_line(struct tp_answer_printer *printer)
{
    set_dim(printer, false);
    if (printer->in_line)
        putchar('\n');
    printer->in_line = false;
}

static int flush(struct tp_answer_printer *printer)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    printer->failed = true;
    return -EIO;
}

static int begin(struct tp_answer_printer *printer, const struct tp_answer_event *event)
{
    set_dim(printer, event->channel == TP_CHANNEL_ANALYSIS || event->channel == TP_CHANNEL_CALL);
    if (event->channel != TP_CHANNEL_CALL)
        return 0;
    int rc = write_text(printer, "to ", 3);
    if (rc == 0)
        rc = write_text(printer, event->recipient, strlen(event->recipient));
    return rc < 0 ? rc : write_text(printer, ": ", 2);
}

int tp_answer_printer_take(void *context, const struct tp_answer_event *event)
{
    struct tp_answer_printer *printer = context;
    int rc = 0;
    if (event->channel == TP_CHANNEL_ANALYSIS && !printer->show_reasoning)
        return 0;
    switch (event->kind) {
    case TP_ANSWER_BEGIN:
        rc = begin(printer, event);
        break;
    case TP_ANSWER_TEXT:
        rc = write_text(printer, event->text, event->length);
        break;
    case TP_ANSWER_END:
        end_line(printer);
        break;
    }
    return rc < 0 ? rc : flush(printer);
}

void tp_answer_printer_end(struct tp_answer_printer *printer)
{
    end_line(printer);
    flush(printer);
}
