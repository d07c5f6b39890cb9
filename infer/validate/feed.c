#include "infer/validate/feed.h"

#include <errno.h>
#include <stdlib.h>

enum { ROWS_BYTES_MAX = 32 << 20 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

int tp_feed_open(const struct tp_feed_engine *engines, size_t n,
                 const struct tp_model_config *config, size_t context, size_t chunk,
                 struct tp_feed *ret_feed, struct tp_error *error)
{
    struct tp_feed feed = {.n_engines = n, .chunk = chunk};
    int rc = 0;
    feed.n_rows = least(ROWS_BYTES_MAX / sizeof(float) / config->vocab_size + 1, chunk);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        feed.logits[i] = calloc(feed.n_rows, config->vocab_size * sizeof(float));
        if (feed.logits[i] == NULL)
            rc =
                tp_error_set(error, -ENOMEM, "no memory for the logits of %zu tokens", feed.n_rows);
        else
            rc = tp_session_open(engines[i].kind, engines[i].backend, config, context,
                                 &feed.sessions[i], error);
    }
    if (rc < 0)
        tp_feed_close(&feed);
    else
        *ret_feed = feed;
    return rc;
}

void tp_feed_close(struct tp_feed *feed)
{
    for (size_t i = 0; i < TP_FEED_ENGINES_MAX; i++) {
        tp_session_close(&feed->sessions[i]);
        free(feed->logits[i]);
    }
    *feed = (struct tp_feed){0};
}

/* How many tokens the next step takes, and the rows of the last of them that are wanted. */
static size_t size_step(const struct tp_feed *feed, size_t at, size_t end, size_t first_row,
                        size_t *ret_rows)
{
    size_t n = least(end - at, feed->chunk);
    size_t first = first_row > at ? first_row : at;
    if (first < at + n)
        n = least(n, first - at + feed->n_rows);
    *ret_rows = first < at + n ? at + n - first : 0;
    return n;
}

int tp_feed_text(struct tp_feed *feed, const uint32_t *text, size_t end, size_t first_row,
                 tp_feed_row_fn *see, void *context, struct tp_error *error)
{
    size_t vocabulary = feed->sessions[0].config->vocab_size;
    for (size_t at = feed->sessions[0].length; at < end;) {
        const float *rows[TP_FEED_ENGINES_MAX] = {NULL};
        size_t n_rows, n = size_step(feed, at, end, first_row, &n_rows);
        for (size_t i = 0; i < feed->n_engines; i++) {
            int rc =
                tp_session_step(&feed->sessions[i], text + at, n, n_rows, feed->logits[i], error);
            if (rc < 0)
                return rc;
        }
        at += n;
        for (size_t row = 0; row < n_rows; row++) {
            for (size_t i = 0; i < feed->n_engines; i++)
                rows[i] = feed->logits[i] + row * vocabulary;
            see(context, at - n_rows + row, rows);
        }
    }
    return 0;
}
