#include "cuda/shown.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct tp_shown_values {
    const char *name;
    size_t layer, columns;
    float *rows; /* [n_rows][columns] */
};

static const char experts[] = "router_experts";

bool tp_shown_wants_experts_only(const struct tp_shown *shown)
{
    const struct tp_trace *trace = shown->trace;
    return trace != NULL && trace->only != NULL && strcmp(trace->only, experts) == 0;
}

static bool is_wanted(const struct tp_shown *shown, const char *name)
{
    const struct tp_trace *trace = shown->trace;
    return trace != NULL && !tp_shown_wants_experts_only(shown) &&
           (trace->only == NULL || strcmp(trace->only, name) == 0);
}

/* The values of that name and layer, with memory for all rows; NULL when there is none. */
static struct tp_shown_values *find(struct tp_shown *shown, const char *name, size_t layer,
                                    size_t columns)
{
    for (size_t i = 0; i < shown->n; i++) {
        if (shown->values[i].layer == layer && strcmp(shown->values[i].name, name) == 0)
            return &shown->values[i];
    }
    struct tp_shown_values *values = realloc(shown->values, (shown->n + 1) * sizeof *shown->values);
    if (values == NULL)
        return NULL;
    shown->values = values;
    values[shown->n] = (struct tp_shown_values){name, layer, columns,
                                                calloc(shown->n_rows * columns, sizeof(float))};
    return values[shown->n].rows != NULL ? &values[shown->n++] : NULL;
}

static int add(struct tp_shown *shown, struct tp_device *device, const char *name, size_t layer,
               const void *rows, size_t n, size_t columns, float **ret_rows, struct tp_error *error)
{
    struct tp_shown_values *values = find(shown, name, layer, columns);
    if (values == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    float *target = values->rows + shown->first * columns;
    int rc = tp_device_download(device, target, rows, n * columns * sizeof *target, error);
    if (rc == 0)
        rc = tp_device_wait(device, error);
    *ret_rows = target;
    return rc;
}

int tp_shown_add(struct tp_shown *shown, struct tp_device *device, const char *name, size_t layer,
                 const float *rows, size_t n, size_t columns, struct tp_error *error)
{
    float *ignored;
    return is_wanted(shown, name)
               ? add(shown, device, name, layer, rows, n, columns, &ignored, error)
               : 0;
}

/* Numbers and floats are of one size: they are converted where they have arrived. */
static void convert(float *numbers, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t number;
        memcpy(&number, &numbers[i], sizeof number);
        numbers[i] = (float)number;
    }
}

int tp_shown_add_numbers(struct tp_shown *shown, struct tp_device *device, const char *name,
                         size_t layer, const uint32_t *rows, size_t n, size_t columns,
                         struct tp_error *error)
{
    float *target;
    if (!is_wanted(shown, name))
        return 0;
    int rc = add(shown, device, name, layer, rows, n, columns, &target, error);
    if (rc == 0)
        convert(target, n * columns);
    return rc;
}

int tp_shown_add_experts(struct tp_shown *shown, struct tp_device *device, const uint32_t *chosen,
                         size_t n_layers, size_t stride, size_t n, size_t k, struct tp_error *error)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n_layers; i++) {
        struct tp_shown_values *values = find(shown, experts, i, k);
        if (values == NULL)
            return tp_error_set(error, -ENOMEM, "out of memory");
        rc = tp_device_download(device, values->rows + shown->first * k, chosen + i * stride,
                                n * k * sizeof *chosen, error);
    }
    if (rc == 0)
        rc = tp_device_wait(device, error);
    for (size_t i = 0; rc == 0 && i < n_layers; i++)
        convert(find(shown, experts, i, k)->rows + shown->first * k, n * k);
    return rc;
}

void tp_shown_emit(const struct tp_shown *shown)
{
    for (size_t i = 0; i < shown->n; i++) {
        const struct tp_shown_values *values = &shown->values[i];
        shown->trace->see(shown->trace->context, values->name, values->layer, values->rows,
                          shown->n_rows, values->columns);
    }
}

void tp_shown_free(struct tp_shown *shown)
{
    for (size_t i = 0; i < shown->n; i++)
        free(shown->values[i].rows);
    free(shown->values);
    *shown = (struct tp_shown){0};
}
