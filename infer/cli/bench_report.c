#include "infer/cli/bench_report.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "fs/base/amount.h"
#include "fs/base/json_text.h"

/* ---- figures ---- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, size_t n, double share)
{
    double place = share * (double)(n - 1);
    size_t below = (size_t)place;
    double rest = place - (double)below;
    return below + 1 < n ? sorted[below] * (1 - rest) + sorted[below + 1] * rest : sorted[below];
}

struct tp_quartiles tp_quartiles(const double *values, size_t n)
{
    double *sorted = calloc(n, sizeof *sorted);
    if (n == 0 || sorted == NULL) {
        free(sorted);
        return (struct tp_quartiles){0, 0, 0};
    }
    memcpy(sorted, values, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare);
    struct tp_quartiles quartiles = {quantile(sorted, n, 0.25), quantile(sorted, n, 0.5),
                                     quantile(sorted, n, 0.75)};
    free(sorted);
    return quartiles;
}

/* What is derived from a result: medians of the runs. Limits, and the shares of them, which are the
 * medians of each run's own, are negative where they are not known. */
struct figures {
    struct tp_quartiles seconds, rate; /* tokens a second, of all texts */
    uint64_t bytes;
    double gb_per_second, read_gb_per_second, bandwidth_share;
    double gflop_per_second, peak_gflop_per_second, peak_share;
    double experts_per_layer; /* of a step */
};

/* During a run: between before and after. */
static double read_limit(const struct tp_bench_result *result, size_t run)
{
    const struct tp_backend_limits *limits = &result->limits[run];
    return (limits[0].read_bandwidth + limits[1].read_bandwidth) / 2;
}

/* Negative if it is not known. */
static double multiply_limit(const struct tp_bench_result *result, size_t run)
{
    const struct tp_backend_limits *limits = &result->limits[run];
    bool known = limits[0].multiply_adds > 0 && limits[1].multiply_adds > 0;
    return known ? (limits[0].multiply_adds + limits[1].multiply_adds) / 2 : -1;
}

typedef double limit_fn(const struct tp_bench_result *result, size_t run);

struct compared {
    double limit, share; /* medians; the limit a second */
};

/* What was `done` in each run with what could have been. */
static struct compared compare_with(limit_fn *limit, const struct tp_bench_result *result,
                                    double done)
{
    size_t n = result->repeat;
    double *limits = calloc(n, sizeof *limits), *shares = calloc(n, sizeof *shares);
    struct compared compared = {-1, -1};
    for (size_t i = 0; limits != NULL && shares != NULL && i < n; i++) {
        limits[i] = limit(result, i);
        shares[i] = done / result->seconds[i] / limits[i];
    }
    if (limits != NULL && shares != NULL)
        compared =
            (struct compared){tp_quartiles(limits, n).median, tp_quartiles(shares, n).median};
    free(limits);
    free(shares);
    return compared;
}

static struct figures derive(const struct tp_bench_report *report,
                             const struct tp_bench_result *result)
{
    const struct tp_batch_counts *counts = &result->counts;
    struct tp_quartiles seconds = tp_quartiles(result->seconds, result->repeat);
    double tokens = (double)counts->tokens,
           n_layers = (double)report->runtime->model->config.n_layers;
    struct figures f = {
        .seconds = seconds,
        .rate = {tokens / seconds.high, tokens / seconds.median, tokens / seconds.low},
        .bytes = counts->dense_bytes + counts->expert_bytes + counts->cache_bytes,
        .gflop_per_second = 2e-9 * (double)counts->multiply_adds / seconds.median,
        .experts_per_layer = (double)counts->experts / ((double)counts->steps * n_layers),
    };
    f.gb_per_second = 1e-9 * (double)f.bytes / seconds.median;
    struct compared read = compare_with(read_limit, result, (double)f.bytes);
    struct compared multiplied =
        compare_with(multiply_limit, result, (double)counts->multiply_adds);
    f.read_gb_per_second = 1e-9 * read.limit;
    f.bandwidth_share = read.share;
    f.peak_gflop_per_second = 2e-9 * multiplied.limit;
    f.peak_share = multiplied.share;
    return f;
}

static struct tp_memory_use peak_memory(const struct tp_bench_report *report)
{
    struct tp_memory_use peak = {0};
    for (size_t i = 0; i < report->n; i++) {
        const struct tp_memory_use *memory = &report->results[i].memory;
        if (memory->private_bytes > peak.private_bytes)
            peak.private_bytes = memory->private_bytes;
        if (memory->page_cache_bytes > peak.page_cache_bytes)
            peak.page_cache_bytes = memory->page_cache_bytes;
    }
    return peak;
}

static const char *activations_name(const struct tp_bench_report *report)
{
    return report->runtime->options.bf16_activations ? "bf16" : "f32";
}

/* ---- for people ---- */

void tp_bench_print_machine(const struct tp_bench_report *report)
{
    const struct tp_backend_limits *limits = &report->limits;
    const char *unit = limits->device != NULL ? "multiprocessor" : "thread";
    if (limits->device != NULL)
        printf("%s, ", limits->device);
    printf("%zu %s%s, %s: %s %.1f GB/s", limits->n_threads, unit, limits->n_threads == 1 ? "" : "s",
           limits->instructions, limits->device != NULL ? "copies" : "reads",
           1e-9 * limits->read_bandwidth);
    if (limits->read_bandwidth_small_pages > 0)
        printf(" (%.1f in small pages)", 1e-9 * limits->read_bandwidth_small_pages);
    if (limits->multiply_adds > 0)
        printf(", multiplies %.0f GFLOP/s in %s", 2e-9 * limits->multiply_adds,
               activations_name(report));
    printf("\nloaded in %.2f s, first token after %.2f s\n\n", report->runtime->load_seconds,
           report->first_token_seconds);
    fflush(stdout);
}

void tp_bench_print_head(void)
{
    printf("%-26s %5s %9s %15s %10s %7s %6s %9s %6s %7s\n", "case", "batch", "tokens/s",
           "quartiles", "ms", "GB/s", "share", "GFLOP/s", "share", "experts");
    fflush(stdout);
}

static void format_share(double value, char text[16])
{
    if (value < 0)
        snprintf(text, 16, "-");
    else
        snprintf(text, 16, "%.0f%%", 100 * value);
}

static void format_case(const struct tp_bench_case *what, char *text, size_t size)
{
    const char *kind = tp_bench_kind_names[what->kind];
    if (what->first_prompt == 0)
        snprintf(text, size, what->kind == TP_BENCH_PREFILL ? "%s %zu" : "%s after %zu", kind,
                 what->length);
    else if (what->n == 1)
        snprintf(text, size, "prompt %zu, %s", what->first_prompt, kind);
    else
        snprintf(text, size, "prompts %zu-%zu, %s", what->first_prompt,
                 what->first_prompt + what->n - 1, kind);
}

void tp_bench_print_result(const struct tp_bench_report *report,
                           const struct tp_bench_result *result)
{
    struct figures f = derive(report, result);
    char name[64], quartiles[40], bandwidth[16], peak[16], experts[16] = "-";
    /* Of a prefill until the first token, of a decode for each. */
    double steps = result->what.kind == TP_BENCH_DECODE ? (double)result->counts.steps : 1;
    format_case(&result->what, name, sizeof name);
    format_share(f.bandwidth_share, bandwidth);
    format_share(f.peak_share, peak);
    snprintf(quartiles, sizeof quartiles, "%.1f-%.1f", f.rate.low, f.rate.high);
    if (result->counts.experts > 0)
        snprintf(experts, sizeof experts, "%.1f", f.experts_per_layer);
    printf("%-26s %5zu %9.1f %15s %10.1f %7.1f %6s %9.1f %6s %7s\n", name, result->what.n,
           f.rate.median, quartiles, 1e3 * f.seconds.median / steps, f.gb_per_second, bandwidth,
           f.gflop_per_second, peak, experts);
    fflush(stdout);
}

void tp_bench_print_end(const struct tp_bench_report *report)
{
    struct tp_memory_use peak = peak_memory(report);
    char own[TP_AMOUNT_MAX], shared[TP_AMOUNT_MAX];
    tp_format_bytes((double)peak.private_bytes, own);
    tp_format_bytes((double)peak.page_cache_bytes, shared);
    if (report->n > 0)
        printf("\nmemory: %s private, keys and values included; %s of the page cache\n", own,
               shared);
    if (report->interrupted)
        printf("interrupted: the rest was not measured\n");
}

/* ---- CSV ---- */

void tp_bench_write_csv_head(FILE *file)
{
    fputs("case,batch,first_prompt,length,tokens,steps,repeat,seconds_low,seconds_median,"
          "seconds_high,tokens_per_second_low,tokens_per_second_median,tokens_per_second_high,"
          "bytes,dense_bytes,expert_bytes,cache_bytes,gb_per_second,read_gb_per_second,"
          "bandwidth_share,multiply_adds,gflop_per_second,peak_gflop_per_second,peak_share,"
          "experts,experts_per_layer,"
          "reserved_cache_bytes,private_bytes,page_cache_bytes\n",
          file);
    fflush(file);
}

/* Empty where it is not known. */
static void write_csv_known(double value, FILE *file)
{
    if (value < 0)
        fputs(",", file);
    else
        fprintf(file, ",%.6g", value);
}

void tp_bench_write_csv(const struct tp_bench_report *report, const struct tp_bench_result *result,
                        FILE *file)
{
    const struct tp_batch_counts *counts = &result->counts;
    const struct tp_bench_case *what = &result->what;
    struct figures f = derive(report, result);
    fprintf(file, "%s,%zu,", tp_bench_kind_names[what->kind], what->n);
    if (what->first_prompt > 0)
        fprintf(file, "%zu", what->first_prompt);
    fprintf(file, ",%zu,%" PRIu64 ",%" PRIu64 ",%zu,%.9g,%.9g,%.9g,%.6g,%.6g,%.6g", what->length,
            counts->tokens, counts->steps, result->repeat, f.seconds.low, f.seconds.median,
            f.seconds.high, f.rate.low, f.rate.median, f.rate.high);
    fprintf(file, ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%.6g", f.bytes,
            counts->dense_bytes, counts->expert_bytes, counts->cache_bytes, f.gb_per_second);
    write_csv_known(f.read_gb_per_second, file);
    write_csv_known(f.bandwidth_share, file);
    fprintf(file, ",%" PRIu64 ",%.6g", counts->multiply_adds, f.gflop_per_second);
    write_csv_known(f.peak_gflop_per_second, file);
    write_csv_known(f.peak_share, file);
    fprintf(file, ",%" PRIu64 ",%.6g,%" PRIu64 ",%" PRIu64 ",%" PRIu64 "\n", counts->experts,
            f.experts_per_layer, result->cache_bytes, result->memory.private_bytes,
            result->memory.page_cache_bytes);
    fflush(file);
}

/* ---- JSON ---- */

static void add_number(cJSON *object, const char *key, double value)
{
    cJSON_AddNumberToObject(object, key, value);
}

static void add_text(cJSON *object, const char *key, const char *text)
{
    tp_json_add_text(object, key, text, strlen(text));
}

/* null where it is not known. */
static void add_known(cJSON *object, const char *key, double value)
{
    if (value < 0)
        cJSON_AddNullToObject(object, key);
    else
        add_number(object, key, value);
}

static void add_quartiles(cJSON *object, const char *key, const struct tp_quartiles *quartiles)
{
    cJSON *item = cJSON_AddObjectToObject(object, key);
    add_number(item, "low", quartiles->low);
    add_number(item, "median", quartiles->median);
    add_number(item, "high", quartiles->high);
}

static void add_memory(cJSON *object, const struct tp_memory_use *memory)
{
    cJSON *item = cJSON_AddObjectToObject(object, "memory");
    tp_json_add_unsigned(item, "private_bytes", memory->private_bytes);
    tp_json_add_unsigned(item, "page_cache_bytes", memory->page_cache_bytes);
}

static void add_model(cJSON *object, const struct tp_runtime *runtime)
{
    const struct tp_model_config *config = &runtime->model->config;
    cJSON *item = cJSON_AddObjectToObject(object, "model");
    add_text(item, "view", runtime->view->path);
    add_text(item, "architecture", tp_architecture_names[config->architecture]);
    tp_json_add_unsigned(item, "weight_bytes", runtime->view->total_bytes);
    tp_json_add_unsigned(item, "layers", config->n_layers);
    tp_json_add_unsigned(item, "experts", config->n_experts);
    tp_json_add_unsigned(item, "experts_per_token", config->n_experts_per_token);
    tp_json_add_unsigned(item, "vocabulary", config->vocab_size);
}

static void add_settings(cJSON *object, const struct tp_bench_report *report)
{
    const struct tp_bench_settings *settings = report->settings;
    cJSON *item = cJSON_AddObjectToObject(object, "settings");
    add_text(item, "backend", report->runtime->kind->name);
    add_text(item, "instructions", report->limits.instructions);
    if (report->limits.device != NULL)
        add_text(item, "device", report->limits.device);
    else
        cJSON_AddNullToObject(item, "device");
    tp_json_add_unsigned(item, report->limits.device != NULL ? "multiprocessors" : "threads",
                         report->limits.n_threads);
    cJSON_AddBoolToObject(item, "pin", report->runtime->options.pin);
    add_text(item, "activations", activations_name(report));
    add_text(item, "kv_type", report->runtime->options.bf16_cache ? "bf16" : "f32");
    tp_json_add_unsigned(item, "step_max", report->runtime->options.step_max);
    tp_json_add_unsigned(item, "seed", settings->seed);
    tp_json_add_unsigned(item, "warm_up", settings->warm_up);
    tp_json_add_unsigned(item, "repeat", settings->repeat);
}

static void add_limits(cJSON *object, const struct tp_backend_limits *limits)
{
    cJSON *item = cJSON_AddObjectToObject(object, "limits");
    add_number(item, "read_gb_per_second", 1e-9 * limits->read_bandwidth);
    add_known(item, "read_small_pages_gb_per_second",
              limits->read_bandwidth_small_pages > 0 ? 1e-9 * limits->read_bandwidth_small_pages
                                                     : -1);
    add_known(item, "gflop_per_second",
              limits->multiply_adds > 0 ? 2e-9 * limits->multiply_adds : -1);
}

/* A number for each run; nothing where it is not known. */
static void add_limit_of_runs(cJSON *item, const char *key, const struct tp_bench_result *result,
                              limit_fn *limit, double unit)
{
    cJSON *runs = cJSON_AddArrayToObject(item, key);
    for (size_t i = 0; i < result->repeat && limit(result, i) >= 0; i++)
        cJSON_AddItemToArray(runs, cJSON_CreateNumber(unit * limit(result, i)));
}

static void add_counts(cJSON *item, const struct tp_batch_counts *counts, const struct figures *f)
{
    tp_json_add_unsigned(item, "bytes", f->bytes);
    tp_json_add_unsigned(item, "dense_bytes", counts->dense_bytes);
    tp_json_add_unsigned(item, "expert_bytes", counts->expert_bytes);
    tp_json_add_unsigned(item, "cache_bytes", counts->cache_bytes);
    add_number(item, "gb_per_second", f->gb_per_second);
    add_known(item, "read_gb_per_second", f->read_gb_per_second);
    add_known(item, "bandwidth_share", f->bandwidth_share);
    tp_json_add_unsigned(item, "multiply_adds", counts->multiply_adds);
    add_number(item, "gflop_per_second", f->gflop_per_second);
    add_known(item, "peak_gflop_per_second", f->peak_gflop_per_second);
    add_known(item, "peak_share", f->peak_share);
    tp_json_add_unsigned(item, "experts", counts->experts);
    add_number(item, "experts_per_layer", f->experts_per_layer);
}

static cJSON *result_item(const struct tp_bench_report *report,
                          const struct tp_bench_result *result)
{
    struct figures f = derive(report, result);
    const struct tp_bench_case *what = &result->what;
    cJSON *item = cJSON_CreateObject();
    add_text(item, "case", tp_bench_kind_names[what->kind]);
    tp_json_add_unsigned(item, "batch", what->n);
    if (what->first_prompt > 0)
        tp_json_add_unsigned(item, "first_prompt", what->first_prompt);
    else
        cJSON_AddNullToObject(item, "first_prompt");
    tp_json_add_unsigned(item, "length", what->length);
    cJSON *lengths = cJSON_AddArrayToObject(item, "lengths");
    for (size_t i = 0; i < what->n; i++)
        cJSON_AddItemToArray(lengths, tp_json_unsigned_item(what->lengths[i]));
    tp_json_add_unsigned(item, "tokens", result->counts.tokens);
    tp_json_add_unsigned(item, "steps", result->counts.steps);
    add_quartiles(item, "tokens_per_second", &f.rate);
    add_quartiles(item, "seconds", &f.seconds);
    if (what->kind == TP_BENCH_PREFILL)
        add_number(item, "first_token_seconds", f.seconds.median);
    cJSON_AddItemToObject(item, "all_seconds",
                          cJSON_CreateDoubleArray(result->seconds, (int)result->repeat));
    add_limit_of_runs(item, "all_read_gb_per_second", result, read_limit, 1e-9);
    add_limit_of_runs(item, "all_peak_gflop_per_second", result, multiply_limit, 2e-9);
    add_counts(item, &result->counts, &f);
    tp_json_add_unsigned(item, "reserved_cache_bytes", result->cache_bytes);
    add_memory(item, &result->memory);
    return item;
}

int tp_bench_write_json(const struct tp_bench_report *report, FILE *file)
{
    struct tp_memory_use peak = peak_memory(report);
    cJSON *whole = cJSON_CreateObject();
    add_text(whole, "version", PACKAGE_VERSION);
    add_model(whole, report->runtime);
    add_settings(whole, report);
    add_limits(whole, &report->limits);
    add_number(whole, "load_seconds", report->runtime->load_seconds);
    add_number(whole, "first_token_seconds", report->first_token_seconds);
    add_memory(whole, &peak);
    cJSON_AddBoolToObject(whole, "interrupted", report->interrupted);
    cJSON *cases = cJSON_AddArrayToObject(whole, "cases");
    for (size_t i = 0; i < report->n; i++)
        cJSON_AddItemToArray(cases, result_item(report, &report->results[i]));
    if (report->n_stages > 0) {
        cJSON *stages = cJSON_AddArrayToObject(whole, "stages");
        for (size_t i = 0; i < report->n_stages; i++)
            cJSON_AddItemToArray(stages, tp_bench_stages_item(&report->stages[i]));
    }
    char *text = cJSON_Print(whole);
    cJSON_Delete(whole);
    if (text == NULL)
        return -ENOMEM;
    fprintf(file, "%s\n", text);
    cJSON_free(text);
    return 0;
}
