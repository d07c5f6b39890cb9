#include "fs/export/convert/formats.h"

#include <errno.h>

const char *const tp_export_format_names[] = {"numpy-direct", "msgpack", "jax-pickle",
                                              "safetensors", NULL};

typedef int plan_fn(const struct tp_view *view, struct tp_export_plan *plan,
                    struct tp_error *error);

static plan_fn *const planners[] = {
    [TP_EXPORT_NUMPY_DIRECT] = tp_plan_numpy_direct,
    [TP_EXPORT_MSGPACK] = tp_plan_msgpack,
    [TP_EXPORT_JAX_PICKLE] = tp_plan_jax_pickle,
    [TP_EXPORT_SAFETENSORS] = tp_plan_safetensors,
};

enum tp_precision tp_export_default_precision(enum tp_export_format format)
{
    return format == TP_EXPORT_SAFETENSORS ? TP_PRECISION_SOURCE : TP_PRECISION_FLOAT32;
}

int tp_export_plan_new(const struct tp_view *view, enum tp_export_format format,
                       struct tp_export_plan *ret_plan, struct tp_error *error)
{
    struct tp_export_plan plan = {.view = view};
    int rc = planners[format](view, &plan, error);
    if (rc < 0) {
        tp_export_plan_clear(&plan);
        return rc;
    }
    tp_export_plan_finish(&plan);
    *ret_plan = plan;
    return 0;
}
