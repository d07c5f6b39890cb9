#include "infer/validate/judge.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { LINE_MAX = 512 };

static void fail(const struct tp_judge *judge, const char *where, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void fail(const struct tp_judge *judge, const char *where, const char *format, ...)
{
    char line[LINE_MAX];
    va_list arguments;
    size_t at = (size_t)snprintf(line, sizeof line, "%.128s: ", where);
    va_start(arguments, format);
    vsnprintf(line + at, sizeof line - at, format, arguments);
    va_end(arguments);
    judge->fail(judge->context, line);
}

double tp_judge_limit(const struct tp_judge *judge, const struct tp_difference *difference)
{
    return judge->tolerance * tp_difference_size(difference);
}

static bool is_far(const struct tp_judge *judge, const struct tp_difference *difference)
{
    return difference->n_unfinished > 0 ||
           !(difference->largest <= tp_judge_limit(judge, difference));
}

static void judge_numbers(const struct tp_judge *judge, const char *where, const char *what,
                          const struct tp_difference *difference)
{
    if (difference->n_unfinished > 0)
        fail(judge, where, "%s: %zu of %zu are NaN or infinite here or there, and not in both",
             what, difference->n_unfinished, difference->n);
    else if (is_far(judge, difference))
        fail(judge, where, "%s: off by up to %.3g, expected at most %.3g (%g of their size)", what,
             difference->largest, tp_judge_limit(judge, difference), judge->tolerance);
}

static void judge_miss(const struct tp_judge *judge, const char *where, const char *what, size_t n,
                       size_t of, const struct tp_validate_miss *miss)
{
    fail(judge, where,
         "%s: %zu of %zu as expected; after position %zu token %u instead of %u, which is ahead by "
         "%.3g",
         what, n, of, miss->position, miss->found, miss->expected, miss->margin);
}

/* The first layer of each kind that is off; what follows it cannot be right. */
static void judge_inside(const struct tp_judge *judge, const char *where,
                         const struct tp_inside *inside)
{
    const char *blamed = "";
    for (size_t i = 0; i < inside->n_stages; i++) {
        const struct tp_inside_stage *stage = &inside->stages[i];
        char what[64];
        if (!is_far(judge, &stage->difference) || strcmp(blamed, stage->name) == 0)
            continue;
        snprintf(what, sizeof what, "%s, layer %zu", stage->name, stage->layer);
        judge_numbers(judge, where, what, &stage->difference);
        blamed = stage->name;
    }
    if (inside->has_route_elsewhere)
        fail(judge, where,
             "router: %zu of %zu choices as expected; the first other one is of layer %zu, token "
             "%zu",
             inside->n_routes_same, inside->n_routes, inside->elsewhere_layer,
             inside->elsewhere_token);
    judge_numbers(judge, where, "router_weights", &inside->shares);
}

static void judge_exact(const struct tp_judge *judge, const struct tp_golden_case *golden,
                        const struct tp_case_report *report)
{
    judge_inside(judge, golden->name, &report->inside);
    judge_numbers(judge, golden->name, "logits", &report->logits);
    if (report->n_best_same + report->n_best_near < report->n_best)
        judge_miss(judge, golden->name, "likeliest tokens", report->n_best_same, report->n_best,
                   &report->best_miss);
    if (report->n_written_same < report->n_written && !report->written_near)
        judge_miss(judge, golden->name, "greedy tokens", report->n_written_same, report->n_written,
                   &report->written_miss);
}

static void judge_bf16(struct tp_judge *judge, const struct tp_golden_case *golden,
                       const struct tp_case_report *report)
{
    const struct tp_difference *logits = &report->logits;
    double rms = tp_difference_rms(logits);
    double limit = TP_JUDGE_BF16_SHARE * tp_difference_size(logits);
    if (logits->n_unfinished > 0 || !(rms <= limit))
        fail(judge, golden->name,
             "logits: off by an rms of %.3g, expected at most %.3g (%g of their size)", rms, limit,
             TP_JUDGE_BF16_SHARE);
    if (golden->bf16_rms > 0) {
        judge->found_squares += logits->error_squares;
        judge->allowed_squares += golden->bf16_rms * golden->bf16_rms * (double)logits->n;
        judge->n_logits += logits->n;
    }
    if (report->n_written_same < golden->bf16_steps &&
        !(report->written_miss.margin <= golden->bf16_largest))
        judge_miss(judge, golden->name, "greedy tokens", report->n_written_same, golden->bf16_steps,
                   &report->written_miss);
}

void tp_judge_end(const struct tp_judge *judge)
{
    if (judge->n_logits > 0 && !(judge->found_squares <= judge->allowed_squares))
        fail(judge, "all",
             "logits: off by an rms of %.3g, expected at most %.3g, as the reference is in BF16",
             sqrt(judge->found_squares / (double)judge->n_logits),
             sqrt(judge->allowed_squares / (double)judge->n_logits));
}

void tp_judge_case(struct tp_judge *judge, const struct tp_golden_case *golden,
                   const struct tp_case_report *report)
{
    if (judge->bf16)
        judge_bf16(judge, golden, report);
    else
        judge_exact(judge, golden, report);
    if (judge->any_steps && report->has_other_bits)
        fail(judge, golden->name,
             "steps: the logits after position %zu depend on how the text is cut into steps",
             report->other_bits_position);
}

void tp_judge_rope(const struct tp_judge *judge, const struct tp_rope_report *report)
{
    if (report->n_wrong > 0)
        fail(judge, "rope",
             "%zu of %zu cosines and sines are off, the first at position %zu, pair %zu",
             report->n_wrong, report->cosines.n, report->wrong_position, report->wrong_pair);
}
