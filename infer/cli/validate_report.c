#include "infer/cli/validate_report.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/json_text.h"

enum { FRACTION_MAX = 48 };

/* ---- the table ---- */

static const char *fraction(size_t part, size_t whole, char text[FRACTION_MAX])
{
    snprintf(text, FRACTION_MAX, whole > 0 ? "%zu/%zu" : "-", part, whole);
    return text;
}

static void print_heading(const struct tp_validate_report *report)
{
    printf("%-16s %6s %5s %11s %8s %8s %9s %8s %8s", "case", "tokens", "rows", "cosine", "NMSE",
           "KL", "top-1", "largest", "rms");
    printf(report->against ? "\n" : " %9s %7s %11s %8s\n", "likeliest", "greedy", "experts",
           "inside");
}

static void print_row(const struct tp_validate_report *report, const char *name, size_t n_tokens,
                      const struct tp_case_report *found, double inside, bool has_inside)
{
    char text[FRACTION_MAX];
    const struct tp_difference *logits = &found->logits;
    printf("%-16s %6zu %5zu", name, n_tokens, logits->n_rows);
    if (logits->n_rows > 0)
        printf(" %11.9f %8.1e %8.1e %9s %8.1e %8.1e", tp_difference_cosine(logits),
               tp_difference_nmse(logits), tp_difference_divergence(logits),
               fraction(logits->n_same_top, logits->n_rows, text), logits->largest,
               tp_difference_rms(logits));
    else
        printf(" %11s %8s %8s %9s %8s %8s", "-", "-", "-", "-", "-", "-");
    if (!report->against) {
        printf(" %9s", fraction(found->n_best_same, found->n_best, text));
        printf(" %7s", fraction(found->n_written_same, found->n_written, text));
        printf(" %11s", fraction(found->inside.n_routes_same, found->inside.n_routes, text));
        if (has_inside)
            printf(" %8.1e", inside);
        else
            printf(" %8s", "-");
    }
    putchar('\n');
    fflush(stdout);
}

/* ---- JSON ---- */

static cJSON *difference_json(const struct tp_difference *difference)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddNumberToObject(object, "numbers", (double)difference->n);
    cJSON_AddNumberToObject(object, "unfinished", (double)difference->n_unfinished);
    cJSON_AddNumberToObject(object, "size", tp_difference_size(difference));
    cJSON_AddNumberToObject(object, "cosine", tp_difference_cosine(difference));
    cJSON_AddNumberToObject(object, "nmse", tp_difference_nmse(difference));
    cJSON_AddNumberToObject(object, "largest", difference->largest);
    cJSON_AddNumberToObject(object, "rms", tp_difference_rms(difference));
    return object;
}

static cJSON *logits_json(const struct tp_difference *logits)
{
    cJSON *object = difference_json(logits);
    cJSON_AddNumberToObject(object, "rows", (double)logits->n_rows);
    cJSON_AddNumberToObject(object, "kl", tp_difference_divergence(logits));
    cJSON_AddNumberToObject(object, "largest_kl", logits->largest_divergence);
    cJSON_AddNumberToObject(
        object, "top1",
        logits->n_rows == 0 ? 1 : (double)logits->n_same_top / (double)logits->n_rows);
    return object;
}

static void add_counts(cJSON *object, const char *name, size_t n, size_t same, size_t near,
                       bool has_near)
{
    cJSON *counts = cJSON_AddObjectToObject(object, name);
    cJSON_AddNumberToObject(counts, "all", (double)n);
    cJSON_AddNumberToObject(counts, "same", (double)same);
    if (has_near)
        cJSON_AddNumberToObject(counts, "near_ties", (double)near);
}

static cJSON *case_json(const struct tp_validate_report *report, const char *name,
                        const struct tp_case_report *found)
{
    const struct tp_inside *inside = &found->inside;
    cJSON *object = cJSON_CreateObject();
    if (name != NULL)
        tp_json_add_text(object, "name", name, strlen(name));
    cJSON_AddItemToObject(object, "logits", logits_json(&found->logits));
    if (report->against)
        return object;
    add_counts(object, "likeliest", found->n_best, found->n_best_same, found->n_best_near, true);
    add_counts(object, "greedy", found->n_written, found->n_written_same, 0, false);
    if (inside->n_routes > 0)
        add_counts(object, "experts", inside->n_routes, inside->n_routes_same,
                   inside->n_routes_near, true);
    cJSON_AddBoolToObject(object, "same_bits_in_any_steps", !found->has_other_bits);
    return object;
}

static void add_stages(cJSON *object, const struct tp_inside *inside)
{
    cJSON *list = cJSON_AddArrayToObject(object, "stages");
    for (size_t i = 0; i < inside->n_stages; i++) {
        cJSON *stage = difference_json(&inside->stages[i].difference);
        cJSON_AddStringToObject(stage, "name", inside->stages[i].name);
        cJSON_AddNumberToObject(stage, "layer", (double)inside->stages[i].layer);
        cJSON_AddItemToArray(list, stage);
    }
    if (inside->shares.n > 0)
        cJSON_AddItemToObject(object, "router_weights", difference_json(&inside->shares));
}

static void append(struct tp_validate_report *report, cJSON **list, cJSON *item)
{
    if (*list == NULL)
        *list = cJSON_CreateArray();
    if (item == NULL || !cJSON_AddItemToArray(*list, item)) {
        cJSON_Delete(item);
        report->no_memory = true;
    }
}

/* ---- both ---- */

static double largest_inside(const struct tp_inside *inside, bool *ret_any)
{
    double largest = 0;
    *ret_any = false;
    for (size_t i = 0; i < inside->n_stages; i++) {
        const struct tp_difference *difference = &inside->stages[i].difference;
        double size = tp_difference_size(difference);
        if (difference->n_unfinished > 0)
            largest = INFINITY;
        if (size > 0)
            largest = fmax(largest, difference->largest / size);
        *ret_any = true;
    }
    return largest;
}

static void add_up(struct tp_case_report *all, const struct tp_case_report *found)
{
    tp_difference_merge(&all->logits, &found->logits);
    all->n_best += found->n_best;
    all->n_best_same += found->n_best_same;
    all->n_best_near += found->n_best_near;
    all->n_written += found->n_written;
    all->n_written_same += found->n_written_same;
    all->inside.n_routes += found->inside.n_routes;
    all->inside.n_routes_same += found->inside.n_routes_same;
    all->inside.n_routes_near += found->inside.n_routes_near;
    all->has_other_bits = all->has_other_bits || found->has_other_bits;
}

void tp_validate_report_case(struct tp_validate_report *report, const struct tp_golden_case *golden,
                             const struct tp_case_report *found)
{
    bool has_inside;
    double inside = largest_inside(&found->inside, &has_inside);
    report->inside = fmax(report->inside, inside);
    report->has_inside = report->has_inside || has_inside;
    add_up(&report->all, found);
    if (report->as_json) {
        cJSON *object = case_json(report, golden->name, found);
        cJSON_AddNumberToObject(object, "tokens", (double)golden->n_tokens);
        if (has_inside)
            add_stages(object, &found->inside);
        append(report, &report->cases, object);
    } else {
        if (report->n_cases == 0)
            print_heading(report);
        print_row(report, golden->name, golden->n_tokens, found, inside, has_inside);
    }
    report->n_cases++;
}

void tp_validate_report_rope(struct tp_validate_report *report, const struct tp_rope_report *found)
{
    if (!report->as_json) {
        printf("rope: %zu cosines and sines, %zu off; largest difference %.1e\n", found->cosines.n,
               found->n_wrong, fmax(found->cosines.largest, found->sines.largest));
        return;
    }
    report->rope = cJSON_CreateObject();
    cJSON_AddItemToObject(report->rope, "inverse_frequencies",
                          difference_json(&found->inverse_frequencies));
    cJSON_AddItemToObject(report->rope, "cosines", difference_json(&found->cosines));
    cJSON_AddItemToObject(report->rope, "sines", difference_json(&found->sines));
    cJSON_AddNumberToObject(report->rope, "off", (double)found->n_wrong);
}

void tp_validate_report_failure(struct tp_validate_report *report, const char *line)
{
    report->n_failures++;
    if (report->as_json)
        append(report, &report->failures, tp_json_text_item(line, strlen(line)));
    fflush(stdout);
    fprintf(stderr, "tpinfer validate: %s\n", line);
}

static void count_tokens(const struct tp_validate_report *report)
{
    const struct tp_inside *inside = &report->all.inside;
    print_row(report, "all", 0, &report->all, report->inside, report->has_inside);
    if (report->all.n_best_near + inside->n_routes_near > 0)
        printf("near ties: %zu tokens, %zu choices of experts\n", report->all.n_best_near,
               inside->n_routes_near);
    printf("%zu case%s, %zu failure%s\n", report->n_cases, report->n_cases == 1 ? "" : "s",
           report->n_failures, report->n_failures == 1 ? "" : "s");
}

static void give(cJSON *object, const char *name, cJSON **item, cJSON *otherwise)
{
    if (*item != NULL)
        cJSON_Delete(otherwise);
    cJSON_AddItemToObject(object, name, *item != NULL ? *item : otherwise);
    *item = NULL;
}

int tp_validate_report_end(struct tp_validate_report *report, cJSON *engine)
{
    if (!report->as_json) {
        cJSON_Delete(engine);
        count_tokens(report);
        return 0;
    }
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToObject(object, "engine", engine);
    give(object, "cases", &report->cases, cJSON_CreateArray());
    cJSON_AddItemToObject(object, "all", case_json(report, NULL, &report->all));
    if (report->rope != NULL)
        give(object, "rope", &report->rope, NULL);
    give(object, "failures", &report->failures, cJSON_CreateArray());
    cJSON_AddBoolToObject(object, "ok", report->n_failures == 0);
    char *text = report->no_memory ? NULL : cJSON_Print(object);
    cJSON_Delete(object);
    if (text == NULL)
        return -ENOMEM;
    puts(text);
    cJSON_free(text);
    return 0;
}

void tp_validate_report_clear(struct tp_validate_report *report)
{
    cJSON_Delete(report->cases);
    cJSON_Delete(report->failures);
    cJSON_Delete(report->rope);
    *report = (struct tp_validate_report){0};
}
