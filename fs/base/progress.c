#include "fs/base/progress.h"
#include "fs/base/amount.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "fs/base/amount.h"
#include "fs/base/clock.h"
#include "fs/base/json_text.h"

enum {
    BAR_INTERVAL_MS = 100,
    JSON_INTERVAL_MS = 1000,
    WIDTH_DEFAULT = 80, /* columns of a terminal that does not say */
    WIDTH_MAX = 200,    /* a longer line is no easier to read */
    BAR_MIN = 10,
    BAR_MAX = 40,
    N_SAMPLES = 64, /* what the rate is an average over */
    ITEM_MAX = 256,
};

const char *const tp_progress_names[] = {"bar", "json", "none", NULL};

struct sample {
    double seconds;
    uint64_t bytes;
};

struct tp_progress {
    enum tp_progress_style style;
    uint64_t total;
    _Atomic uint64_t done;
    double start;
    pthread_t thread;

    struct sample samples[N_SAMPLES]; /* the thread's own */
    size_t n_samples;

    pthread_mutex_t lock; /* protects the following */
    pthread_cond_t changed;
    bool stop;
    char item[ITEM_MAX];
    size_t item_length;
};

/* ---- what the thread draws ---- */

/* Bytes a second, over the last N_SAMPLES drawings. */
static double rate(struct tp_progress *progress, double seconds, uint64_t done)
{
    size_t n = progress->n_samples;
    struct sample oldest = n < N_SAMPLES ? (struct sample){0, 0} : progress->samples[n % N_SAMPLES];
    progress->samples[n % N_SAMPLES] = (struct sample){seconds, done};
    progress->n_samples++;
    return seconds > oldest.seconds ? (double)(done - oldest.bytes) / (seconds - oldest.seconds)
                                    : 0;
}

static size_t terminal_width(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
        return WIDTH_DEFAULT;
    return size.ws_col < WIDTH_MAX ? size.ws_col : WIDTH_MAX;
}

/* A line that is filled from the left, as long as its columns reach. Everything but the item is
 * ASCII. */
struct line {
    char text[2 * WIDTH_MAX + ITEM_MAX];
    size_t length, columns, width;
};

static void add(struct line *line, const char *text)
{
    size_t columns = strlen(text);
    if (line->columns + columns > line->width)
        return;
    memcpy(line->text + line->length, text, columns + 1);
    line->length += columns;
    line->columns += columns;
}

static void add_bar(struct line *line, double share, size_t room)
{
    char bar[BAR_MAX + 4];
    size_t inside = room > BAR_MAX ? BAR_MAX : room, full = (size_t)(share * (double)inside);
    bar[0] = ' ';
    bar[1] = '[';
    for (size_t i = 0; i < inside; i++)
        bar[2 + i] = i < full ? '=' : i == full ? '>' : ' ';
    bar[2 + inside] = ']';
    bar[3 + inside] = '\0';
    add(line, bar);
}

/* As many characters of the item as there are columns; what could move the cursor becomes '?'. */
static void add_item(struct line *line, const char *item, size_t length)
{
    if (length == 0 || line->columns + 2 > line->width)
        return;
    add(line, " ");
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)item[i];
        bool continues = (byte & 0xc0) == 0x80;
        if (!continues && line->columns == line->width)
            break;
        line->text[line->length++] = byte < ' ' || byte == 0x7f ? '?' : (char)byte;
        line->columns += !continues;
    }
    line->text[line->length] = '\0';
}

static void draw_bar(struct tp_progress *progress, uint64_t done, double per_second,
                     const char *item, size_t item_length)
{
    struct line line = {.width = terminal_width() - 1}; /* the last column would wrap */
    char bytes[TP_AMOUNT_MAX], total[TP_AMOUNT_MAX], left[TP_AMOUNT_MAX], text[4 * TP_AMOUNT_MAX];
    double share = progress->total > 0 ? (double)done / (double)progress->total : 1;
    snprintf(text, sizeof text, "%3.0f%%", 100 * share);
    add(&line, text);
    tp_format_bytes((double)done, bytes);
    tp_format_bytes((double)progress->total, total);
    snprintf(text, sizeof text, "  %s of %s", bytes, total);
    add(&line, text);
    tp_format_bytes(per_second, bytes);
    snprintf(text, sizeof text, "  %s/s", bytes);
    add(&line, text);
    if (per_second > 0) {
        tp_format_seconds((double)(progress->total - done) / per_second, left);
        snprintf(text, sizeof text, "  %s left ", left);
        add(&line, text);
    }
    size_t room = line.width > line.columns ? line.width - line.columns : 0;
    if (room >= 2 * BAR_MIN)
        add_bar(&line, share, room / 2);
    add_item(&line, item, item_length);
    fprintf(stderr, "\r%s\033[K", line.text);
    fflush(stderr);
}

static void print_json(struct tp_progress *progress, double seconds, uint64_t done,
                       double per_second, const char *item, size_t item_length)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "event", "progress");
    tp_json_add_unsigned(object, "bytes", done);
    tp_json_add_unsigned(object, "total", progress->total);
    cJSON_AddNumberToObject(object, "seconds", seconds);
    cJSON_AddNumberToObject(object, "bytes_per_second", per_second);
    tp_json_add_text(object, "item", item, item_length);
    char *text = cJSON_PrintUnformatted(object);
    if (text != NULL) {
        printf("%s\n", text);
        fflush(stdout);
    }
    cJSON_free(text);
    cJSON_Delete(object);
}

static void draw(struct tp_progress *progress, const char *item, size_t item_length)
{
    uint64_t done = atomic_load_explicit(&progress->done, memory_order_relaxed);
    double seconds = tp_clock_seconds() - progress->start,
           per_second = rate(progress, seconds, done);
    if (done > progress->total)
        done = progress->total;
    if (progress->style == TP_PROGRESS_BAR)
        draw_bar(progress, done, per_second, item, item_length);
    else
        print_json(progress, seconds, done, per_second, item, item_length);
}

static void wait_until(struct tp_progress *progress, unsigned milliseconds)
{
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_nsec += (long)milliseconds * 1000000;
    deadline.tv_sec += deadline.tv_nsec / 1000000000;
    deadline.tv_nsec %= 1000000000;
    while (!progress->stop &&
           pthread_cond_timedwait(&progress->changed, &progress->lock, &deadline) == 0)
        continue;
}

static void *draw_until_stopped(void *argument)
{
    struct tp_progress *progress = argument;
    unsigned interval = progress->style == TP_PROGRESS_BAR ? BAR_INTERVAL_MS : JSON_INTERVAL_MS;
    char item[ITEM_MAX];
    pthread_mutex_lock(&progress->lock);
    while (!progress->stop) {
        size_t length = progress->item_length;
        memcpy(item, progress->item, length);
        pthread_mutex_unlock(&progress->lock);
        draw(progress, item, length);
        pthread_mutex_lock(&progress->lock);
        wait_until(progress, interval);
    }
    pthread_mutex_unlock(&progress->lock);
    return NULL;
}

/* ---- what the workers call ---- */

struct tp_progress *tp_progress_start(enum tp_progress_style style, const char *verb,
                                      uint64_t total)
{
    if (style == TP_PROGRESS_NONE || (style == TP_PROGRESS_BAR && !isatty(STDERR_FILENO)))
        return NULL;
    struct tp_progress *progress = calloc(1, sizeof *progress);
    if (progress == NULL)
        return NULL;
    progress->style = style;
    progress->total = total;
    progress->start = tp_clock_seconds();
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&progress->lock, NULL);
    pthread_cond_init(&progress->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    tp_progress_item(progress, verb, strlen(verb));
    if (pthread_create(&progress->thread, NULL, draw_until_stopped, progress) != 0) {
        free(progress);
        return NULL;
    }
    return progress;
}

void tp_progress_add(struct tp_progress *progress, uint64_t bytes)
{
    if (progress != NULL)
        atomic_fetch_add_explicit(&progress->done, bytes, memory_order_relaxed);
}

void tp_progress_item(struct tp_progress *progress, const char *name, size_t length)
{
    if (progress == NULL)
        return;
    if (length > ITEM_MAX)
        length = ITEM_MAX;
    pthread_mutex_lock(&progress->lock);
    memcpy(progress->item, name, length);
    progress->item_length = length;
    pthread_mutex_unlock(&progress->lock);
}

void tp_progress_finish(struct tp_progress *progress)
{
    if (progress == NULL)
        return;
    pthread_mutex_lock(&progress->lock);
    progress->stop = true;
    pthread_cond_signal(&progress->changed);
    pthread_mutex_unlock(&progress->lock);
    pthread_join(progress->thread, NULL);
    if (progress->style == TP_PROGRESS_BAR)
        fputs("\r\033[K", stderr);
    pthread_cond_destroy(&progress->changed);
    pthread_mutex_destroy(&progress->lock);
    free(progress);
}
