#include "infer/cli/backends.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"

const char *const tp_backend_choice_names[] = {"auto", "cpu", "cuda", NULL};

static const char plugin_name[] = "tensorport-cuda.so";

/* Beside the program, as in a tree where it was built, or where it is installed. */
static void *open_plugin(char *path, size_t size)
{
    const char *given = getenv("TENSORPORT_CUDA_PLUGIN");
    if (given != NULL) {
        snprintf(path, size, "%s", given);
        return dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    void *plugin = NULL;
    if (length > 0) {
        program[length] = '\0';
        *strrchr(program, '/') = '\0';
        snprintf(path, size, "%s/%s", program, plugin_name);
        plugin = access(path, F_OK) == 0 ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    }
    if (plugin != NULL)
        return plugin;
    snprintf(path, size, "%s/%s", TP_PLUGIN_DIRECTORY, plugin_name);
    return access(path, F_OK) == 0 ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
}

/* -ENOENT when there is no plugin; -EINVAL when there is one of another build. */
static int find_cuda(const struct tp_backend_kind **ret_kind, struct tp_error *error)
{
    char path[2 * PATH_MAX] = "";
    dlerror();
    void *plugin = open_plugin(path, sizeof path);
    if (plugin == NULL) {
        const char *why = dlerror();
        if (why != NULL)
            return tp_error_set(error, -ENOENT, "the GPU's plugin cannot be opened: %s", why);
        return tp_error_set(error, -ENOENT,
                            "this tpinfer was built or installed without its GPU plugin, %s",
                            plugin_name);
    }
    const struct tp_plugin *about = dlsym(plugin, TP_PLUGIN_SYMBOL);
    if (about == NULL)
        return tp_error_set(error, -EINVAL, "%s: no plugin of tpinfer", path);
    if (about->interface != TP_PLUGIN_INTERFACE)
        return tp_error_set(error, -EINVAL,
                            "%s: made for another tpinfer: expected interface %u, found %u", path,
                            (unsigned)TP_PLUGIN_INTERFACE, about->interface);
    *ret_kind = about->kind;
    return 0;
}

/* There is no GPU, as opposed to one that cannot be used. */
static bool is_absent(int rc)
{
    return rc == -ENOENT || rc == -ENODEV;
}

bool tp_backend_falls_back(const struct tp_backend_request *request,
                           const struct tp_backend_kind *kind, int rc, struct tp_error *error)
{
    if (request->choice == TP_CHOOSE_CUDA || kind == &tp_backend_cpu)
        return false;
    if (request->choice == TP_CHOOSE_AUTO || !is_absent(rc))
        fprintf(stderr, "tpinfer: computing on the CPU: %s\n", error->text);
    error->text[0] = '\0';
    return true;
}

int tp_backend_find(const struct tp_backend_request *request,
                    const struct tp_backend_kind **ret_kind, struct tp_error *error)
{
    const struct tp_backend_kind *kind = &tp_backend_cpu;
    if (request->choice != TP_CHOOSE_CPU) {
        int rc = find_cuda(&kind, error);
        if (rc < 0 && !tp_backend_falls_back(request, NULL, rc, error))
            return rc;
    }
    *ret_kind = kind;
    return 0;
}

int tp_backend_open(const struct tp_backend_kind *kind, const struct tp_model *model,
                    const struct tp_backend_request *request, struct tp_backend **ret_backend,
                    struct tp_backend_options *ret_options, struct tp_error *error)
{
    struct tp_backend_options options = request->options;
    if (!request->cache_given)
        options.bf16_cache = kind->bf16_cache_by_default;
    if (!request->activations_given)
        options.bf16_prompts = kind->bf16_prompts_by_default;
    int rc = kind->open(model, &options, ret_backend, error);
    options.see_loaded = NULL; /* whoever listened need not stay */
    options.see_context = NULL;
    if (rc == 0)
        *ret_options = options;
    return rc;
}
