#include "fs/export/inspect/statistics_print.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "fs/base/json_text.h"
#include "fs/export/common/json_print.h"
#include "fs/export/inspect/tensor_statistics.h"

static const char *stored_type(const struct tp_view_tensor *tensor)
{
    return tensor->pair != NULL ? "MXFP4" : tp_dtype_name(tensor->stored->dtype);
}

/* True for the types that a precision converts. */
static bool is_float(const struct tp_view_tensor *tensor)
{
    return tensor->pair != NULL || tp_dtype_is_float(tensor->stored->dtype);
}

static bool is_integer(const struct tp_view_tensor *tensor)
{
    return !is_float(tensor) && tensor->stored->dtype != TP_C64;
}

static struct tp_value_statistics add_up(const struct tp_value_statistics *statistics, size_t n)
{
    struct tp_value_statistics all = {0};
    for (size_t i = 0; i < n; i++) {
        all.n += statistics[i].n;
        all.zeros += statistics[i].zeros;
        all.nans += statistics[i].nans;
        all.infinities += statistics[i].infinities;
        all.float16_overflows += statistics[i].float16_overflows;
        all.float16_zeros += statistics[i].float16_zeros;
    }
    return all;
}

/* ---- the table ---- */

enum { NUMBER_WIDTH = 10, COUNT_WIDTH = 7 };

/* Columns of the figures, without the remarks. */
enum { FIGURE_COLUMNS = 2 + 7 + 4 * (1 + NUMBER_WIDTH) + 1 + COUNT_WIDTH };

/* Characters of UTF-8: what a terminal shows, nearly. */
static size_t count_characters(const char *text)
{
    size_t n = 0;
    for (; *text != '\0'; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

/* The true name, fit for one line of a terminal. */
static const char *format_name(const struct tp_view_tensor *tensor, struct tp_error *room)
{
    tp_error_set(room, 0, "%.*s", (int)tensor->name_length, tensor->name);
    return room->text;
}

/* Where the figures begin: after the longest name. 0 when a line has no room for both, and each
 * tensor takes two: names cut short could not be told apart. */
static size_t figures_begin(const struct tp_view *view, size_t columns)
{
    size_t widest = strlen("NAME");
    for (size_t i = 0; i < view->n_tensors; i++) {
        struct tp_error name;
        size_t n = count_characters(format_name(&view->tensors[i], &name));
        widest = n > widest ? n : widest;
    }
    return columns == 0 || widest + FIGURE_COLUMNS <= columns ? widest : 0;
}

static void print_name(const char *name, size_t width, FILE *stream)
{
    if (width == 0)
        fprintf(stream, "%s\n", name);
    else
        fprintf(stream, "%s%*s", name, (int)(width - count_characters(name)), "");
}

/* "123456", "1.25M" */
static void print_count(uint64_t count, FILE *stream)
{
    static const char units[] = "MGTPE";
    double value = (double)count / 1e6;
    size_t unit = 0;
    if (count < 1000000) {
        fprintf(stream, " %*" PRIu64, COUNT_WIDTH, count);
        return;
    }
    while (value >= 999.995 && units[unit + 1] != '\0') {
        value /= 1000;
        unit++;
    }
    fprintf(stream, " %*.2f%c", COUNT_WIDTH - 1, value, units[unit]);
}

static void print_numbers(const struct tp_value_statistics *found, FILE *stream)
{
    const double numbers[] = {found->minimum, found->maximum, tp_value_statistics_mean(found),
                              tp_value_statistics_deviation(found)};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (found->moments.n == 0)
            fprintf(stream, " %*s", NUMBER_WIDTH, "-");
        else
            fprintf(stream, " %*.4g", NUMBER_WIDTH, numbers[i]);
    }
}

static void print_remark(uint64_t count, const char *what, bool *first, FILE *stream)
{
    if (count == 0)
        return;
    fprintf(stream, "%s%" PRIu64 " %s", *first ? "  " : ", ", count, what);
    *first = false;
}

static void print_remarks(const struct tp_value_statistics *found, FILE *stream)
{
    bool first = true;
    print_remark(found->nans, "NaN", &first, stream);
    print_remark(found->infinities, "infinite", &first, stream);
    print_remark(found->float16_overflows, "overflow", &first, stream);
    print_remark(found->float16_zeros, "underflow", &first, stream);
}

void tp_statistics_print_table(const struct tp_view *view,
                               const struct tp_value_statistics *statistics, size_t columns,
                               FILE *stream)
{
    const struct tp_value_statistics all = add_up(statistics, view->n_tensors);
    const size_t width = figures_begin(view, columns);
    print_name("NAME", width, stream);
    fprintf(stream, "  %-7s %*s %*s %*s %*s %*s\n", "STORED", NUMBER_WIDTH, "MIN", NUMBER_WIDTH,
            "MAX", NUMBER_WIDTH, "MEAN", NUMBER_WIDTH, "STD", COUNT_WIDTH, "ZEROS");
    for (size_t i = 0; i < view->n_tensors; i++) {
        struct tp_error name;
        print_name(format_name(&view->tensors[i], &name), width, stream);
        fprintf(stream, "  %-7s", stored_type(&view->tensors[i]));
        print_numbers(&statistics[i], stream);
        print_count(statistics[i].zeros, stream);
        print_remarks(&statistics[i], stream);
        fputc('\n', stream);
    }
    fprintf(stream,
            "%s%zu tensor%s, %" PRIu64 " values: %" PRIu64 " zero, %" PRIu64 " NaN, %" PRIu64
            " infinite\nin float16 %" PRIu64 " would overflow and %" PRIu64 " underflow to zero\n",
            view->n_tensors > 0 ? "\n" : "", view->n_tensors, view->n_tensors == 1 ? "" : "s",
            all.n, all.zeros, all.nans, all.infinities, all.float16_overflows, all.float16_zeros);
}

/* ---- JSON ---- */

/* JSON has no infinities and no NaN: null where there is no number. */
static void add_real(cJSON *object, const char *key, double number)
{
    char text[TP_JSON_REAL_SIZE] = "null";
    if (isfinite(number))
        tp_json_real_text(number, text);
    cJSON_AddRawToObject(object, key, text);
}

static void add_extreme(cJSON *object, const char *key, const struct tp_view_tensor *tensor,
                        double number, uint64_t integer)
{
    const enum tp_dtype dtype = tp_tensor_statistics_dtype(tensor);
    const bool has_sign = dtype == TP_I8 || dtype == TP_I16 || dtype == TP_I32 || dtype == TP_I64;
    char text[24];
    if (!is_integer(tensor)) {
        add_real(object, key, number);
        return;
    }
    if (has_sign)
        snprintf(text, sizeof text, "%" PRId64, (int64_t)(integer ^ (UINT64_C(1) << 63)));
    else
        snprintf(text, sizeof text, "%" PRIu64, integer);
    cJSON_AddRawToObject(object, key, text);
}

static void add_counts(cJSON *object, const struct tp_value_statistics *found, bool with_losses)
{
    tp_json_add_unsigned(object, "values", found->n);
    tp_json_add_unsigned(object, "zeros", found->zeros);
    tp_json_add_unsigned(object, "nan", found->nans);
    tp_json_add_unsigned(object, "infinite", found->infinities);
    if (with_losses) {
        tp_json_add_unsigned(object, "float16_overflow", found->float16_overflows);
        tp_json_add_unsigned(object, "float16_underflow", found->float16_zeros);
    } else {
        cJSON_AddNullToObject(object, "float16_overflow");
        cJSON_AddNullToObject(object, "float16_underflow");
    }
}

static cJSON *describe(const struct tp_view_tensor *tensor, const struct tp_value_statistics *found)
{
    cJSON *object = cJSON_CreateObject();
    tp_json_add_text(object, "name", tensor->name, tensor->name_length);
    cJSON_AddStringToObject(object, "stored", stored_type(tensor));
    cJSON *shape = cJSON_AddArrayToObject(object, "shape");
    for (size_t i = 0; i < tensor->rank; i++)
        cJSON_AddItemToArray(shape, tp_json_unsigned_item(tensor->shape[i]));
    if (found->moments.n > 0) {
        add_extreme(object, "min", tensor, found->minimum, found->minimum_integer);
        add_extreme(object, "max", tensor, found->maximum, found->maximum_integer);
    } else {
        cJSON_AddNullToObject(object, "min");
        cJSON_AddNullToObject(object, "max");
    }
    add_real(object, "mean", tp_value_statistics_mean(found));
    add_real(object, "std", tp_value_statistics_deviation(found));
    add_counts(object, found, is_float(tensor));
    return object;
}

/* Prints the object if it got all of its fields, and deletes it. cJSON leaves out what it has no
 * memory for, and says nothing. */
static int print_object(cJSON *object, int n_fields, FILE *stream)
{
    char *line = cJSON_GetArraySize(object) == n_fields ? cJSON_PrintUnformatted(object) : NULL;
    cJSON_Delete(object);
    if (line == NULL)
        return -ENOMEM;
    fputs(line, stream);
    cJSON_free(line);
    return 0;
}

static int print_source(const struct tp_view *view, FILE *stream)
{
    cJSON *source = tp_json_text_item(view->checkpoint->name, strlen(view->checkpoint->name));
    char *text = cJSON_PrintUnformatted(source);
    cJSON_Delete(source);
    if (text == NULL)
        return -ENOMEM;
    fprintf(stream, "{\n  \"source\": %s,\n  \"mxfp4\": \"%s\",\n  \"tensors\": [", text,
            tp_mxfp4_names[view->options.packed]);
    cJSON_free(text);
    return 0;
}

int tp_statistics_print_json(const struct tp_view *view,
                             const struct tp_value_statistics *statistics, FILE *stream)
{
    enum { TENSOR_FIELDS = 13, TOTAL_FIELDS = 7 };
    const struct tp_value_statistics all = add_up(statistics, view->n_tensors);
    int rc = print_source(view, stream);
    for (size_t i = 0; rc == 0 && i < view->n_tensors; i++) {
        fputs(i == 0 ? "\n    " : ",\n    ", stream);
        rc = print_object(describe(&view->tensors[i], &statistics[i]), TENSOR_FIELDS, stream);
    }
    if (rc < 0)
        return rc;
    fputs(view->n_tensors > 0 ? "\n  ],\n  \"totals\": " : "],\n  \"totals\": ", stream);
    cJSON *totals = cJSON_CreateObject();
    tp_json_add_unsigned(totals, "tensors", view->n_tensors);
    add_counts(totals, &all, true);
    rc = print_object(totals, TOTAL_FIELDS, stream);
    fputs("\n}\n", stream);
    return rc;
}
