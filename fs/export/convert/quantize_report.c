#include "fs/export/convert/quantize_report.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/io.h"
#include "fs/base/json_text.h"
#include "fs/export/common/json_print.h"
#include "fs/export/convert/quantize.h"

/* Signal to noise in decibels; infinite if nothing was lost. */
static double snr_of(const struct tp_quantize_sums *sums)
{
    return sums->noise > 0 ? 10 * log10(sums->signal / sums->noise) : INFINITY;
}

static double relative_error(const struct tp_quantize_sums *sums)
{
    return sums->largest > 0 ? sums->largest_error / sums->largest : 0;
}

static struct tp_quantize_sums add_up(const struct tp_quantized_view *view)
{
    struct tp_quantize_sums all = {0};
    for (size_t i = 0; i < view->n_quantized; i++)
        tp_quantize_sums_add(&all, &view->quantized[i].sums);
    return all;
}

/* ---- the table ---- */

static void print_figures(const struct tp_quantize_sums *sums, const char *type, FILE *stream)
{
    char snr[16] = "exact";
    if (sums->noise > 0)
        snprintf(snr, sizeof snr, "%.2f", snr_of(sums));
    fprintf(stream, "%7s  %10.4g  %10.4g  %7.2f%%  %-4s  ", snr, sums->largest, sums->largest_error,
            100 * relative_error(sums), type);
}

void tp_quantize_report_table(const struct tp_quantized_view *view, FILE *stream)
{
    struct tp_quantize_sums all = add_up(view);
    fprintf(stream, "%7s  %10s  %10s  %8s  %-4s  tensor\n", "SNR dB", "largest", "max error",
            "of it", "from");
    for (size_t i = 0; i < view->n_quantized; i++) {
        const struct tp_quantized_tensor *tensor = &view->quantized[i];
        print_figures(&tensor->sums, tp_dtype_name(tensor->file->tensor->dtype), stream);
        for (const char *at = tensor->file->tensor->name; *at != '\0'; at++)
            fputc((unsigned char)*at < ' ' || *at == 0x7f ? '?' : *at, stream);
        fputc('\n', stream);
    }
    print_figures(&all, "", stream);
    fprintf(stream, "all %zu\n", view->n_quantized);
}

/* ---- JSON ---- */

static cJSON *real_item(double number)
{
    char text[TP_JSON_REAL_SIZE];
    if (!isfinite(number))
        return cJSON_CreateNull();
    tp_json_real_text(number, text);
    return cJSON_CreateRaw(text);
}

static void add_sums(cJSON *object, const struct tp_quantize_sums *sums)
{
    cJSON_AddItemToObject(object, "snr_db", real_item(snr_of(sums)));
    cJSON_AddItemToObject(object, "largest", real_item(sums->largest));
    cJSON_AddItemToObject(object, "max_error", real_item(sums->largest_error));
    cJSON_AddItemToObject(object, "relative_error", real_item(relative_error(sums)));
}

static void describe(const struct tp_quantized_tensor *tensor, cJSON *object)
{
    const struct tp_view_tensor *shown = tensor->file->tensor;
    tp_json_add_text(object, "name", shown->name, shown->name_length);
    cJSON_AddStringToObject(object, "dtype", tp_dtype_name(shown->dtype));
    cJSON *shape = cJSON_AddArrayToObject(object, "shape");
    for (size_t i = 0; i < shown->rank; i++)
        cJSON_AddItemToArray(shape, tp_json_unsigned_item(shown->shape[i]));
    cJSON_AddBoolToObject(object, "turned", tensor->turned);
    add_sums(object, &tensor->sums);
}

void tp_quantize_report_events(const struct tp_quantized_view *view, FILE *stream)
{
    for (size_t i = 0; i < view->n_quantized; i++) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "event", "quantized");
        describe(&view->quantized[i], object);
        char *text = cJSON_PrintUnformatted(object);
        if (text != NULL)
            fprintf(stream, "%s\n", text);
        cJSON_free(text);
        cJSON_Delete(object);
    }
}

static char *print_report(const struct tp_quantized_view *view)
{
    struct tp_quantize_sums all = add_up(view);
    cJSON *report = cJSON_CreateObject();
    cJSON_AddNumberToObject(report, "format_version", 1);
    cJSON_AddStringToObject(report, "source", view->view.checkpoint->name);
    cJSON_AddStringToObject(report, "quantize", "mxfp4");
    add_sums(cJSON_AddObjectToObject(report, "all"), &all);
    cJSON *tensors = cJSON_AddArrayToObject(report, "tensors");
    for (size_t i = 0; i < view->n_quantized; i++) {
        cJSON *object = cJSON_CreateObject();
        describe(&view->quantized[i], object);
        cJSON_AddItemToArray(tensors, object);
    }
    char *text = tp_json_print(report);
    cJSON_Delete(report);
    return text;
}

/* ---- the file ---- */

static int write_new(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return -errno;
    int rc = tp_write_at(fd, text, strlen(text), 0);
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    return rc;
}

int tp_quantize_report_write(const struct tp_quantized_view *view, const char *path,
                             struct tp_error *error)
{
    char *text = print_report(view), *partial = NULL;
    int rc = text == NULL || asprintf(&partial, "%s.partial", path) < 0 ? -ENOMEM : 0;
    if (rc == 0) {
        rc = write_new(partial, text);
        if (rc == 0 && rename(partial, path) < 0)
            rc = -errno;
        if (rc < 0)
            unlink(partial);
        free(partial);
    }
    free(text);
    return rc < 0 ? tp_error_set(error, rc, "%s: cannot write the report: %s", path, strerror(-rc))
                  : 0;
}
