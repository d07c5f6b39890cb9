#include "infer/cli/line_reader.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "infer/cli/history_file.h"
#include "infer/cli/prompt_signals.h"

struct tp_line_reader {
    enum tp_line_style style;
    const char *prompt;
    /* Plain and prompted: what was read beyond the last line. */
    struct tp_buffer ahead;
    size_t taken; /* of it */
    /* Edited: */
    EditLine *editor;
    History *history;
    int history_fd; /* or -1 */
    bool cleared;   /* Ctrl-C was pressed on this line */
};

/* ---- plain */

/* Takes a line out of what was read. */
static bool take_line(struct tp_line_reader *reader, size_t searched, struct tp_buffer *line,
                      int *ret_rc)
{
    const char *begin = reader->ahead.bytes + reader->taken;
    size_t length = reader->ahead.length - reader->taken;
    const char *end = length > searched ? memchr(begin + searched, '\n', length - searched) : NULL;
    if (end == NULL)
        return false;
    size_t n = (size_t)(end - begin);
    reader->taken += n + 1;
    if (n > 0 && begin[n - 1] == '\r')
        n--;
    *ret_rc = tp_buffer_append(line, begin, n);
    return true;
}

static int read_more(struct tp_line_reader *reader, size_t *ret_n)
{
    enum { AT_ONCE = 1 << 16 };
    struct tp_buffer *ahead = &reader->ahead;
    memmove(ahead->bytes, ahead->bytes + reader->taken, ahead->length - reader->taken);
    ahead->length -= reader->taken;
    reader->taken = 0;
    int rc = tp_buffer_reserve(ahead, AT_ONCE);
    if (rc < 0)
        return rc;
    ssize_t n;
    do
        n = read(STDIN_FILENO, ahead->bytes + ahead->length, AT_ONCE);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    ahead->length += (size_t)n;
    *ret_n = (size_t)n;
    return 0;
}

/* The last line may lack its end. */
static int end_plain(struct tp_line_reader *reader, struct tp_buffer *line, enum tp_line *ret_line)
{
    size_t n = reader->ahead.length - reader->taken;
    if (n > 0)
        *ret_line = TP_LINE_READ;
    int rc = n > 0 ? tp_buffer_append(line, reader->ahead.bytes + reader->taken, n) : 0;
    reader->taken = reader->ahead.length;
    return rc;
}

static int next_plain(struct tp_line_reader *reader, struct tp_buffer *line, enum tp_line *ret_line)
{
    int rc = tp_buffer_reserve(&reader->ahead, 1);
    *ret_line = TP_LINE_END;
    for (size_t searched = 0, n = 0; rc == 0; searched = reader->ahead.length - reader->taken - n) {
        if (take_line(reader, searched, line, &rc)) {
            *ret_line = TP_LINE_READ;
            return rc;
        }
        if (reader->style == TP_LINES_PROMPTED && !tp_prompt_signals_wait(STDIN_FILENO)) {
            if (!tp_prompt_signals_end() && tp_prompt_signals_take(SIGINT))
                *ret_line = TP_LINE_CLEARED;
            return 0;
        }
        rc = read_more(reader, &n);
        if (rc == 0 && n == 0)
            return end_plain(reader, line, ret_line);
    }
    return rc;
}

/* ---- edited */

/* Ctrl-Z: the shell gets its terminal back as it was. */
static void stop_until_continued(EditLine *editor)
{
    el_set(editor, EL_PREP_TERM, 0);
    tp_prompt_signals_edit(false);
    raise(SIGTSTP);
    tp_prompt_signals_edit(true);
    el_set(editor, EL_PREP_TERM, 1);
    el_set(editor, EL_REFRESH);
}

/* Does what signals ask for; false if the line is over. */
static bool obey_signals(struct tp_line_reader *reader)
{
    if (tp_prompt_signals_end())
        return false;
    if (tp_prompt_signals_take(SIGINT)) {
        reader->cleared = true;
        return false;
    }
    if (tp_prompt_signals_take(SIGWINCH))
        el_resize(reader->editor);
    if (tp_prompt_signals_take(SIGTSTP))
        stop_until_continued(reader->editor);
    if (tp_prompt_signals_take(SIGCONT)) {
        el_set(reader->editor, EL_PREP_TERM, 1);
        el_set(reader->editor, EL_REFRESH);
    }
    return true;
}

/* For libedit: the next character; 1, 0 at the end of the input, -1 otherwise. */
static int read_character(EditLine *editor, wchar_t *ret_character)
{
    struct tp_line_reader *reader;
    mbstate_t state = {0};
    el_get(editor, EL_CLIENTDATA, &reader);
    for (;;) {
        char byte;
        if (!tp_prompt_signals_wait(STDIN_FILENO)) {
            if (!obey_signals(reader))
                return -1;
            continue;
        }
        ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return (int)n;
        size_t used = mbrtowc(ret_character, &byte, 1, &state);
        if (used == (size_t)-1)
            state = (mbstate_t){0}; /* no character: it never was */
        else if (used != (size_t)-2)
            return 1;
    }
}

static char *show_prompt(EditLine *editor)
{
    struct tp_line_reader *reader;
    el_get(editor, EL_CLIENTDATA, &reader);
    return (char *)reader->prompt;
}

/* For tp_history_file_read(). */
static void enter(void *context, const char *line)
{
    HistEvent event;
    history(context, &event, H_ENTER, line);
}

static void open_history(struct tp_line_reader *reader)
{
    struct tp_error error = {""};
    HistEvent event;
    history(reader->history, &event, H_SETSIZE, TP_HISTORY_LINES);
    history(reader->history, &event, H_SETUNIQUE, 1);
    el_set(reader->editor, EL_HIST, history, reader->history);
    if (tp_history_file_open(&reader->history_fd, &error) == 0)
        tp_history_file_read(reader->history_fd, enter, reader->history);
    else if (error.text[0] != '\0')
        fprintf(stderr, "tpinfer chat: %s\n", error.text);
}

/* What is typed is UTF-8, whatever else the locale may be. */
static void choose_characters(void)
{
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
}

static int open_editor(struct tp_line_reader *reader, struct tp_error *error)
{
    choose_characters();
    reader->editor = el_init("tpinfer", stdin, stdout, stderr);
    reader->history = history_init();
    if (reader->editor == NULL || reader->history == NULL)
        return tp_error_set(error, -EIO, "cannot edit lines on this terminal; set TERM=dumb");
    el_set(reader->editor, EL_CLIENTDATA, reader);
    el_set(reader->editor, EL_EDITOR, "emacs");
    el_set(reader->editor, EL_SIGNAL, 0);
    el_set(reader->editor, EL_PROMPT, show_prompt);
    el_set(reader->editor, EL_GETCFN, read_character);
    el_set(reader->editor, EL_BIND, "^R", "em-inc-search-prev", NULL);
    open_history(reader);
    el_source(reader->editor, NULL); /* ~/.editrc, as everywhere */
    return 0;
}

static void remember(struct tp_line_reader *reader, const char *line, size_t length)
{
    HistEvent event;
    if (strspn(line, " \t") >= length)
        return;
    history(reader->history, &event, H_ENTER, line);
    if (reader->history_fd >= 0)
        tp_history_file_append(reader->history_fd, line, length);
}

static int next_edited(struct tp_line_reader *reader, struct tp_buffer *line,
                       enum tp_line *ret_line)
{
    int n = 0, rc = 0;
    reader->cleared = false;
    tp_prompt_signals_edit(true);
    /* Before the prompt, at which somebody may press Ctrl-D at once: libedit would do it after. */
    el_set(reader->editor, EL_PREP_TERM, 1);
    const char *text = el_gets(reader->editor, &n);
    tp_prompt_signals_edit(false);
    if (text == NULL || n <= 0) {
        *ret_line = reader->cleared ? TP_LINE_CLEARED : TP_LINE_END;
        return 0;
    }
    char *copy = strndup(text, (size_t)n);
    if (copy == NULL)
        return -ENOMEM;
    size_t length = strcspn(copy, "\n");
    copy[length] = '\0';
    remember(reader, copy, length);
    rc = tp_buffer_append(line, copy, length);
    free(copy);
    *ret_line = TP_LINE_READ;
    return rc;
}

/* ---- both */

int tp_line_reader_new(enum tp_line_style style, struct tp_line_reader **ret_reader,
                       struct tp_error *error)
{
    struct tp_line_reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    reader->style = style;
    reader->history_fd = -1;
    int rc = style == TP_LINES_EDITED ? open_editor(reader, error) : 0;
    if (rc < 0)
        tp_line_reader_free(reader);
    else
        *ret_reader = reader;
    return rc;
}

void tp_line_reader_free(struct tp_line_reader *reader)
{
    if (reader == NULL)
        return;
    if (reader->history != NULL)
        history_end(reader->history);
    if (reader->editor != NULL)
        el_end(reader->editor);
    if (reader->history_fd >= 0)
        close(reader->history_fd);
    tp_buffer_clear(&reader->ahead);
    free(reader);
}

int tp_line_reader_next(struct tp_line_reader *reader, const char *prompt, struct tp_buffer *line,
                        enum tp_line *ret_line, struct tp_error *error)
{
    reader->prompt = prompt;
    if (reader->style == TP_LINES_PROMPTED) {
        fputs(prompt, stdout);
        fflush(stdout);
    }
    int rc = reader->style == TP_LINES_EDITED ? next_edited(reader, line, ret_line)
                                              : next_plain(reader, line, ret_line);
    if (rc == 0 && *ret_line != TP_LINE_READ && reader->style != TP_LINES_PLAIN)
        putchar('\n');
    return rc < 0 ? tp_error_set(error, rc, "cannot read standard input: %s", strerror(-rc)) : 0;
}
