#include "infer/cli/runtime.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/sysinfo.h>

#include "fs/base/clock.h"
#include "infer/cli/memory_use.h"
#include "infer/weights/load.h"
#include "infer/weights/mapping.h"

/* Told in advance: later the kernel would kill somebody. What has memory of its own has told it
 * when it was opened. */
static int check_memory(const struct tp_runtime *runtime, struct tp_error *error)
{
    struct sysinfo info;
    uint64_t bytes;
    int rc = runtime->kind->sequence_bytes(runtime->backend, runtime->context, &bytes);
    if (rc < 0)
        return tp_error_set(error, rc, "a context of %zu tokens is too long", runtime->context);
    if (runtime->kind->memory_available == NULL && sysinfo(&info) == 0 &&
        bytes > (uint64_t)info.totalram * info.mem_unit)
        return tp_error_set(error, -ENOMEM,
                            "a context of %zu tokens takes %" PRIu64
                            " bytes, more than this machine has; give a smaller --context",
                            runtime->context, bytes);
    return 0;
}

/* Weights that lie in the page cache are used where they are, page by page. What has to be read
 * first is read in long pieces, with a bar on a terminal: faults would read it as well, but slower
 * and in silence. What does not fit into memory is left to the faults. */
static int load(struct tp_weights_view *view, struct tp_error *error)
{
    enum { READERS = 4 };
    struct tp_load_report report;
    if (tp_weights_view_cached(view) > 0.98 || view->total_bytes > tp_memory_available())
        return 0;
    return tp_weights_view_load(view, TP_PLACEMENT_MAPPED, READERS, TP_PROGRESS_BAR, &report,
                                error);
}

/* A bar on a terminal, for a backend that loads by itself. */
struct loading_bar {
    struct tp_progress *progress; /* NULL until there is something to be seen */
    uint64_t total;
};

/* Of struct tp_backend_options. */
static void show_loaded(void *context, uint64_t bytes)
{
    struct loading_bar *bar = context;
    if (bytes == 0)
        bar->progress = tp_progress_start(TP_PROGRESS_BAR, "loading", bar->total);
    else
        tp_progress_add(bar->progress, bytes);
}

static int open_backend(struct tp_runtime *runtime, struct tp_backend_request request,
                        struct tp_error *error)
{
    struct loading_bar bar = {.total = runtime->view->total_bytes};
    request.options.see_loaded = show_loaded;
    request.options.see_context = &bar;
    int rc = tp_backend_open(runtime->kind, runtime->model, &request, &runtime->backend,
                             &runtime->options, error);
    tp_progress_finish(bar.progress);
    return rc;
}

/* What cannot use the GPU is for the CPU, unless somebody asked for the one or the other. */
static int choose_backend(struct tp_runtime *runtime, const struct tp_backend_request *request,
                          struct tp_error *error)
{
    int rc = open_backend(runtime, *request, error);
    if (rc == 0 || !tp_backend_falls_back(request, runtime->kind, rc, error))
        return rc;
    runtime->kind = &tp_backend_cpu;
    rc = load(runtime->view, error);
    return rc < 0 ? rc : open_backend(runtime, *request, error);
}

int tp_runtime_open(struct tp_runtime *runtime, const char *path,
                    const struct tp_engine_arguments *arguments, bool wants_tokenizer,
                    struct tp_error *error)
{
    struct tp_backend_request request = tp_engine_arguments_request(arguments);
    double start = tp_clock_seconds();
    tp_mapping_guard("tpinfer");
    int rc = tp_weights_view_open(path, &runtime->view, error);
    if (rc == 0 && wants_tokenizer)
        rc = tp_tokenizer_open(runtime->view->path, &runtime->tokenizer, error);
    if (rc == 0)
        rc = tp_backend_find(&request, &runtime->kind, error);
    if (rc == 0 && !runtime->kind->loads_by_itself)
        rc = load(runtime->view, error);
    if (rc == 0)
        rc = tp_model_open(runtime->view, 1, &runtime->model, error);
    if (rc < 0)
        return rc;
    runtime->context = tp_engine_arguments_context(arguments, &runtime->model->config);
    tp_engine_arguments_plan(arguments, &runtime->model->config, &request.options);
    rc = choose_backend(runtime, &request, error);
    if (rc < 0)
        return rc;
    runtime->load_seconds = tp_clock_seconds() - start;
    return check_memory(runtime, error);
}

void tp_runtime_close(struct tp_runtime *runtime)
{
    if (runtime->backend != NULL)
        runtime->kind->close(runtime->backend);
    if (runtime->model != NULL)
        tp_model_close(runtime->model);
    tp_tokenizer_free(runtime->tokenizer);
    if (runtime->view != NULL)
        tp_weights_view_close(runtime->view);
    *runtime = (struct tp_runtime){0};
}

int tp_runtime_session(struct tp_runtime *runtime, struct tp_session *ret_session,
                       struct tp_error *error)
{
    return tp_session_open(runtime->kind, runtime->backend, &runtime->model->config,
                           runtime->context, ret_session, error);
}
