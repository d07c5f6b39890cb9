/* The files of the view, each as it is. */
#include <errno.h>

#include "fs/export/convert/formats.h"

static int add_file(const struct tp_view_file *file, struct tp_export_plan *plan)
{
    char path[TP_FILE_PATH_MAX];
    struct tp_artifact *artifact;
    tp_view_file_path(file, path);
    int rc = tp_export_plan_add(plan, path, &artifact);
    return rc < 0 ? rc
                  : tp_artifact_add_content(artifact, &file->content, 0,
                                            tp_content_size(&file->content), file->tensor);
}

int tp_plan_numpy_direct(const struct tp_view *view, struct tp_export_plan *plan,
                         struct tp_error *error)
{
    for (size_t i = 0; i < view->n_files; i++) {
        if (add_file(&view->files[i], plan) < 0)
            return tp_error_set(error, -ENOMEM, "out of memory");
    }
    return 0;
}
