#include "infer/validate/validate.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct validation {
    const struct tp_golden_case *golden;
    const struct tp_validate_options *options;
    size_t vocabulary, first_best;
    double size;      /* of the golden's logits; 0: it has none */
    uint64_t *hashes; /* [n_best]: of the logits, as they were when the text was told */
    struct tp_feed feed;
    struct tp_case_report report;
};

/* FNV-1a over words: it is enough that two rows that differ rarely agree. */
static uint64_t hash_row(const float *row, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &row[i], sizeof bits);
        hash = (hash ^ bits) * 0x100000001b3;
    }
    return hash;
}

/* A token that is ahead by less than this might as well be another. */
static double hair(const struct validation *v, const float *row)
{
    struct tp_difference own = {0};
    if (v->size > 0)
        return v->options->tolerance * v->size;
    tp_difference_add(&own, row, row, v->vocabulary);
    return v->options->tolerance * tp_difference_size(&own);
}

/* ---- told the text ---- */

static void compare_best(struct validation *v, size_t i, const float *row)
{
    struct tp_case_report *report = &v->report;
    uint32_t expected = v->golden->best[i];
    uint32_t found = (uint32_t)tp_likeliest(row, v->vocabulary, NULL);
    if (found == expected) {
        report->n_best_same++;
    } else if (v->golden->margins[i] <= hair(v, row)) {
        report->n_best_near++;
    } else if (report->n_best_same + report->n_best_near == i) {
        report->best_miss =
            (struct tp_validate_miss){v->first_best + i, expected, found, v->golden->margins[i]};
    }
}

/* A tp_feed_row_fn. */
static void compare_row(void *context, size_t position, const float *const *rows)
{
    struct validation *v = context;
    const struct tp_golden_case *golden = v->golden;
    if (position >= golden->first_logits && position - golden->first_logits < golden->n_logits)
        tp_difference_add_logits(&v->report.logits,
                                 golden->logits + (position - golden->first_logits) * v->vocabulary,
                                 rows[0], v->vocabulary);
    if (position >= v->first_best) {
        compare_best(v, position - v->first_best, rows[0]);
        v->hashes[position - v->first_best] = hash_row(rows[0], v->vocabulary);
    }
}

/* The first position whose logits somebody looks at. */
static size_t first_row(const struct validation *v)
{
    const struct tp_golden_case *golden = v->golden;
    size_t first = v->first_best;
    if (golden->n_logits > 0 && golden->first_logits < first)
        first = golden->first_logits;
    for (size_t i = 0; i < golden->n_stages; i++) {
        if (strcmp(golden->stages[i].name, "norm") == 0) /* which goes with the logits */
            first = 0;
    }
    return first;
}

static int tell(struct validation *v, struct tp_error *error)
{
    const struct tp_golden_case *golden = v->golden;
    struct tp_session *session = &v->feed.sessions[0];
    int rc = tp_inside_init(&v->report.inside, golden, session, v->options->tolerance);
    if (rc == 0)
        rc = tp_feed_text(&v->feed, golden->tokens, golden->n_tokens, first_row(v), compare_row, v,
                          error);
    else
        tp_error_set(error, rc, "out of memory");
    session->trace = NULL;
    if (rc == 0 && v->report.inside.no_memory)
        rc = tp_error_set(error, -ENOMEM, "out of memory");
    return rc;
}

/* ---- left alone ---- */

struct writing {
    struct validation *v;
    uint32_t found;
};

/* A tp_feed_row_fn. */
static void take_row(void *context, size_t position, const float *const *rows)
{
    struct writing *writing = context;
    struct validation *v = writing->v;
    size_t i = position - v->first_best;
    writing->found = (uint32_t)tp_likeliest(rows[0], v->vocabulary, NULL);
    if (hash_row(rows[0], v->vocabulary) != v->hashes[i] && !v->report.has_other_bits) {
        v->report.has_other_bits = true;
        v->report.other_bits_position = position;
    }
    if (writing->found != v->golden->best[i]) {
        v->report.written_near = v->golden->margins[i] <= hair(v, rows[0]);
        v->report.written_miss = (struct tp_validate_miss){position, v->golden->best[i],
                                                           writing->found, v->golden->margins[i]};
    }
}

/* Back to before the prompt's last token, whose logits choose the first. */
static int go_back(struct validation *v, struct tp_error *error)
{
    struct tp_session *session = &v->feed.sessions[0];
    if (tp_session_cut(session, v->first_best) == 0)
        return 0;
    int rc = tp_session_cut(session, 0);
    if (rc < 0)
        return tp_error_set(error, rc, "cannot begin again: %s", strerror(-rc));
    return tp_feed_text(&v->feed, v->golden->tokens, v->first_best, v->first_best, NULL, NULL,
                        error);
}

static int leave_alone(struct validation *v, struct tp_error *error)
{
    const struct tp_golden_case *golden = v->golden;
    v->report.n_written = golden->n_best;
    int rc = go_back(v, error);
    for (size_t i = 0; rc == 0 && i < golden->n_best; i++) {
        struct writing writing = {v, 0};
        /* What is in `tokens` there is what was written: otherwise it has ended. */
        rc = tp_feed_text(&v->feed, golden->tokens, v->first_best + i + 1, v->first_best + i,
                          take_row, &writing, error);
        if (rc == 0 && writing.found != golden->best[i])
            break;
        v->report.n_written_same += rc == 0;
    }
    return rc;
}

/* ---- all ---- */

static int begin(struct validation *v, const struct tp_feed_engine *engines, size_t n_engines,
                 const struct tp_model_config *config, struct tp_error *error)
{
    const struct tp_golden_case *golden = v->golden;
    size_t context = v->options->context > 0 ? v->options->context : golden->n_tokens;
    v->vocabulary = config->vocab_size;
    v->first_best = golden->n_tokens - golden->n_best;
    if (golden->logits != NULL) {
        struct tp_difference own = {0};
        tp_difference_add(&own, golden->logits, golden->logits, golden->n_logits * v->vocabulary);
        v->size = tp_difference_size(&own);
    }
    v->report.n_best = golden->n_best;
    v->hashes = calloc(golden->n_best, sizeof *v->hashes);
    if (v->hashes == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    return tp_feed_open(engines, n_engines, config, context, v->options->chunk, &v->feed, error);
}

static int end(struct validation *v, int rc, struct tp_case_report *ret_report,
               struct tp_error *error)
{
    tp_feed_close(&v->feed);
    free(v->hashes);
    if (rc == 0) {
        *ret_report = v->report;
        return 0;
    }
    tp_case_report_clear(&v->report);
    return tp_error_prefix(error, rc, "case %s", v->golden->name);
}

int tp_validate_case(const struct tp_feed_engine *engine, const struct tp_model_config *config,
                     const struct tp_golden_case *golden, const struct tp_validate_options *options,
                     struct tp_case_report *ret_report, struct tp_error *error)
{
    struct validation v = {.golden = golden, .options = options};
    int rc = begin(&v, engine, 1, config, error);
    if (rc == 0)
        rc = tell(&v, error);
    if (rc == 0 && golden->greedy)
        rc = leave_alone(&v, error);
    return end(&v, rc, ret_report, error);
}

/* A tp_feed_row_fn. */
static void compare_engines(void *context, size_t position, const float *const *rows)
{
    struct validation *v = context;
    (void)position;
    tp_difference_add_logits(&v->report.logits, rows[1], rows[0], v->vocabulary);
}

int tp_validate_against(const struct tp_feed_engine engines[2],
                        const struct tp_model_config *config, const struct tp_golden_case *golden,
                        const struct tp_validate_options *options,
                        struct tp_case_report *ret_report, struct tp_error *error)
{
    struct validation v = {.golden = golden, .options = options};
    int rc = begin(&v, engines, 2, config, error);
    if (rc == 0)
        rc = tp_feed_text(&v.feed, golden->tokens, golden->n_tokens, 0, compare_engines, &v, error);
    return end(&v, rc, ret_report, error);
}

void tp_case_report_clear(struct tp_case_report *report)
{
    tp_inside_fini(&report->inside);
    *report = (struct tp_case_report){0};
}

/* ---- the rotary embedding ---- */

static void compare_rope(const struct tp_golden_rope *golden, size_t at, const float *cosines,
                         const float *sines, double tolerance, struct tp_rope_report *report)
{
    for (size_t i = 0; i < golden->n_pairs; i++) {
        double angle = golden->positions[at] * (double)golden->inverse_frequencies[i];
        double limit = tolerance + angle * 0x1p-22;
        double off = fmax(fabs((double)cosines[i] - golden->cosines[at * golden->n_pairs + i]),
                          fabs((double)sines[i] - golden->sines[at * golden->n_pairs + i]));
        if (off <= limit)
            continue;
        if (report->n_wrong++ == 0) {
            report->wrong_position = golden->positions[at];
            report->wrong_pair = i;
        }
    }
}

int tp_validate_rope(const struct tp_rope *rope, const struct tp_golden_rope *golden,
                     double tolerance, struct tp_rope_report *ret_report)
{
    struct tp_rope_report report = {0};
    size_t pairs = golden->n_pairs;
    float *cosines = calloc(pairs + 1, 2 * sizeof *cosines), *sines = cosines + pairs;
    if (cosines == NULL)
        return -ENOMEM;
    tp_difference_add(&report.inverse_frequencies, golden->inverse_frequencies,
                      rope->inverse_frequencies, pairs);
    for (size_t i = 0; i < golden->n; i++) {
        tp_rope_position(rope, golden->positions[i], cosines, sines);
        tp_difference_add(&report.cosines, golden->cosines + i * pairs, cosines, pairs);
        tp_difference_add(&report.sines, golden->sines + i * pairs, sines, pairs);
        compare_rope(golden, i, cosines, sines, tolerance, &report);
    }
    free(cosines);
    *ret_report = report;
    return 0;
}
