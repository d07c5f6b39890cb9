/* A quantised model as safetensors: laid out as the official library does, with config.json saying
 * that it is MXFP4. */
#include <errno.h>
#include <stdlib.h>

#include "fs/base/bytes.h"
#include "fs/export/convert/container.h"
#include "fs/export/convert/format_safetensors.h"
#include "fs/export/convert/quantized_view.h"

static const struct tp_quantized_view *quantized_of(const struct tp_view *view)
{
    return (const struct tp_quantized_view *)view; /* its first member */
}

static int fill(struct tp_container *container, struct tp_error *error)
{
    const struct tp_quantized_view *view = quantized_of(container->view);
    int rc = tp_safetensors_write_header(container, error);
    for (size_t i = 0; rc == 0 && i < container->n_files; i++) {
        const struct tp_view_file *file = container->files[i];
        const struct tp_view_tensor *tensor = file->tensor;
        struct tp_quantized_tensor *quantized = view->of[tensor - view->view.tensors];
        bool is_blocks = tp_bytes_end_with(tensor->name, tensor->name_length, "_blocks");
        if (quantized == NULL)
            rc = tp_container_add_data(container, file, 0, file->content.data_length);
        else
            rc = tp_container_add_quantized(
                container, file, is_blocks ? TP_SEGMENT_BLOCKS : TP_SEGMENT_SCALES, quantized);
    }
    return rc;
}

static int edit_config(const struct tp_view *view, struct tp_json_text *config)
{
    char *value = tp_quantized_config(quantized_of(view));
    int rc = value == NULL ? -ENOMEM : tp_json_edit_set(config, "quantization_config", value);
    free(value);
    return rc;
}

static int rewrite(const struct tp_view *view, const struct tp_view_file *file, char **ret_text,
                   size_t *ret_length, struct tp_error *error)
{
    return tp_safetensors_rewrite(view, file, edit_config, ret_text, ret_length, error);
}

int tp_quantized_plan_new(const struct tp_quantized_view *view, struct tp_export_plan *ret_plan,
                          struct tp_error *error)
{
    static const struct tp_container_format format = {
        .name = "safetensors",
        .stem = "model",
        .extension = ".safetensors",
        .compare = tp_safetensors_compare,
        .check = tp_safetensors_check,
        .fill = fill,
        .rewrite = rewrite,
    };
    struct tp_export_plan plan = {.view = &view->view};
    int rc = tp_plan_containers(&view->view, &format, &plan, error);
    if (rc < 0) {
        tp_export_plan_clear(&plan);
        return rc;
    }
    tp_export_plan_finish(&plan);
    *ret_plan = plan;
    return 0;
}
