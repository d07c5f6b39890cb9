#include "infer/cli/answer_text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int flush(const struct tp_answer_text *text)
{
    return text->silent || (fflush(stdout) == 0 && !ferror(stdout)) ? 0 : -EIO;
}

/* Prints what has come to the answer's text since. */
static int print_text(struct tp_answer_text *text)
{
    size_t n = text->text.length - text->n_printed;
    if (text->silent || n == 0)
        return 0;
    fwrite(text->text.bytes + text->n_printed, 1, n, stdout);
    text->n_printed += n;
    return flush(text);
}

static void print_reasoning(const struct tp_answer_text *text, const char *bytes, size_t length)
{
    if (text->show_reasoning && !text->silent)
        fwrite(bytes, 1, length, stderr);
}

static void print_mark(const struct tp_answer_text *text, const char *mark)
{
    if (text->dim)
        print_reasoning(text, mark, strlen(mark));
}

/* ---- events ---- */

static int take_answer(struct tp_answer_text *text, const struct tp_answer_event *event)
{
    int rc = 0;
    if (event->kind == TP_ANSWER_BEGIN && text->text.length > 0)
        rc = tp_stop_strings_feed(&text->stops, "\n", 1, &text->text);
    else if (event->kind == TP_ANSWER_TEXT)
        rc = tp_stop_strings_feed(&text->stops, event->text, event->length, &text->text);
    return rc < 0 ? rc : print_text(text);
}

static int take_reasoning(struct tp_answer_text *text, const struct tp_answer_event *event)
{
    size_t before = text->reasoning.length;
    int rc = 0;
    if (event->kind == TP_ANSWER_TEXT)
        rc = tp_buffer_append(&text->reasoning, event->text, event->length);
    if (event->kind == TP_ANSWER_BEGIN && before > 0)
        rc = tp_buffer_append(&text->reasoning, "\n", 1);
    if (event->kind == TP_ANSWER_BEGIN && rc == 0 && event->recipient != NULL) {
        rc = tp_buffer_append_text(&text->reasoning, event->recipient);
        if (rc == 0)
            rc = tp_buffer_append_text(&text->reasoning, ": ");
    }
    if (rc < 0)
        return rc;
    if (event->kind == TP_ANSWER_BEGIN)
        print_mark(text, "\033[2m");
    if (text->reasoning.length > before)
        print_reasoning(text, text->reasoning.bytes + before, text->reasoning.length - before);
    if (event->kind == TP_ANSWER_END) {
        print_mark(text, "\033[0m");
        print_reasoning(text, "\n", 1);
    }
    return 0;
}

/* A tp_answer_handler. */
static int take_event(void *context, const struct tp_answer_event *event)
{
    switch (event->channel) {
    case TP_CHANNEL_FINAL:
    case TP_CHANNEL_COMMENTARY:
        return take_answer(context, event);
    case TP_CHANNEL_ANALYSIS:
    case TP_CHANNEL_CALL:
        break;
    }
    return take_reasoning(context, event);
}

/* ---- the whole ---- */

int tp_answer_text_begin(struct tp_answer_text *text, const struct tp_dialogue *dialogue)
{
    text->dim = isatty(STDERR_FILENO);
    return dialogue == NULL ? 0 : tp_answer_new(dialogue, NULL, take_event, text, &text->answer);
}

void tp_answer_text_clear(struct tp_answer_text *text)
{
    if (text->answer != NULL)
        tp_answer_free(text->answer);
    tp_stop_strings_clear(&text->stops);
    tp_buffer_clear(&text->text);
    tp_buffer_clear(&text->reasoning);
    *text = (struct tp_answer_text){0};
}

int tp_answer_text_feed(struct tp_answer_text *text, uint32_t id)
{
    if (text->answer != NULL)
        return tp_answer_feed(text->answer, id);
    if (!text->silent)
        printf("%s%" PRIu32, text->n_ids++ > 0 ? " " : "", id);
    return flush(text);
}

int tp_answer_text_finish(struct tp_answer_text *text)
{
    int rc = text->answer != NULL ? tp_answer_finish(text->answer) : 0;
    if (rc == 0)
        rc = tp_stop_strings_finish(&text->stops, &text->text);
    if (rc == 0)
        rc = print_text(text);
    if (rc < 0 || text->silent)
        return rc;
    putchar('\n');
    return flush(text);
}
