/* quantization_config of a quantised model.
 *
 * modules_to_not_convert names the modules whose matrices stay as they are. As published, layers
 * are named together ("model.layers.*.mlp.router"), attention as a whole, unless a quantised module
 * would be meant as well. */
#include <cjson/cJSON.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/bytes.h"
#include "fs/export/convert/quantized_view.h"

struct modules {
    size_t n;
    char **names;
};

/* "model.layers.7.mlp.router.weight" -> "model.layers.7.mlp.router": without the parameter. */
static char *module_of(const struct tp_view_tensor *tensor)
{
    char *name = strdup(tensor->name);
    char *dot = name == NULL ? NULL : strrchr(name, '.');
    if (dot != NULL)
        *dot = '\0';
    return name;
}

/* Numbers become "*"; nothing grows. */
static void generalise(char *name)
{
    char *to = name;
    for (char *at = name; *at != '\0';) {
        size_t digits = strspn(at, "0123456789");
        bool is_number = digits > 0 && (at == name || at[-1] == '.') &&
                         (at[digits] == '.' || at[digits] == '\0');
        if (is_number) {
            *to++ = '*';
            at += digits;
        } else {
            *to++ = *at++;
        }
    }
    *to = '\0';
}

/* Cut behind "self_attn", when there is more. */
static void shorten(char *name)
{
    static const char attention[] = ".self_attn.";
    char *found = strstr(name, attention);
    if (found != NULL)
        found[strlen(attention) - 1] = '\0';
}

static bool covers(const char *module, const char *name)
{
    size_t length = strlen(module);
    return strncmp(module, name, length) == 0 && (name[length] == '\0' || name[length] == '.');
}

/* Whether the name of a module, with numbers general or not, is also that of one in `others`. */
static bool is_taken(const char *module, const struct modules *others)
{
    for (size_t i = 0; i < others->n; i++) {
        if (covers(module, others->names[i]))
            return true;
    }
    return false;
}

static bool is_listed(const char *module, const struct modules *modules)
{
    for (size_t i = 0; i < modules->n; i++) {
        if (strcmp(module, modules->names[i]) == 0)
            return true;
    }
    return false;
}

/* Takes the name. */
static void add(struct modules *modules, char *name)
{
    if (is_listed(name, modules))
        free(name);
    else
        modules->names[modules->n++] = name;
}

static void clear(struct modules *modules)
{
    for (size_t i = 0; modules->names != NULL && i < modules->n; i++)
        free(modules->names[i]);
    free(modules->names);
}

/* Whether it is half of an MXFP4 tensor. */
static bool is_packed(const struct tp_quantized_view *view, size_t i)
{
    const struct tp_view_tensor *tensor = &view->view.tensors[i];
    const struct tp_checkpoint *checkpoint = view->view.checkpoint;
    return view->of[i] != NULL || checkpoint->pair_of[tensor->stored - checkpoint->tensors] != NULL;
}

/* The modules that are MXFP4, by their names, of which there may be ten thousands, and with numbers
 * general, of which there are few. */
struct packed {
    struct modules exact, general;
};

static int list_packed(const struct tp_quantized_view *view, struct packed *packed)
{
    for (size_t i = 0; i < view->view.n_tensors; i++) {
        const struct tp_view_tensor *tensor = &view->view.tensors[i];
        if (!is_packed(view, i) || !tp_bytes_end_with(tensor->name, tensor->name_length, "_blocks"))
            continue;
        char *exact = module_of(tensor), *general = module_of(tensor);
        if (exact == NULL || general == NULL) {
            free(exact);
            free(general);
            return -ENOMEM;
        }
        generalise(general);
        packed->exact.names[packed->exact.n++] = exact;
        add(&packed->general, general);
    }
    return 0;
}

/* Under the most general name that means no quantised module; not at all if its very own does. */
static int add_module(const struct tp_view_tensor *tensor, const struct packed *packed,
                      struct modules *plain)
{
    for (int way = 0; way < 3; way++) {
        char *name = module_of(tensor);
        if (name == NULL)
            return -ENOMEM;
        if (way < 2)
            generalise(name);
        if (way < 1)
            shorten(name);
        if (!is_taken(name, &packed->general) && !is_taken(name, &packed->exact)) {
            add(plain, name);
            return 0;
        }
        free(name);
    }
    return 0;
}

static int list_plain(const struct tp_quantized_view *view, const struct packed *packed,
                      struct modules *plain)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < view->view.n_tensors; i++) {
        const struct tp_view_tensor *tensor = &view->view.tensors[i];
        bool is_bias = tp_bytes_end_with(tensor->name, tensor->name_length, "bias");
        if (tensor->rank >= 2 && !is_bias && !is_packed(view, i) &&
            tp_dtype_is_float(tensor->dtype))
            rc = add_module(tensor, packed, plain);
    }
    return rc;
}

static char *print(const struct modules *plain)
{
    cJSON *object = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(object, "modules_to_not_convert");
    for (size_t i = 0; i < plain->n; i++)
        cJSON_AddItemToArray(list, cJSON_CreateString(plain->names[i]));
    cJSON_AddStringToObject(object, "quant_method", "mxfp4");
    char *printed = cJSON_PrintUnformatted(object), *text = NULL;
    cJSON_Delete(object);
    if (printed != NULL)
        text = strdup(printed);
    cJSON_free(printed);
    return text;
}

char *tp_quantized_config(const struct tp_quantized_view *view)
{
    size_t n = view->view.n_tensors;
    struct packed packed = {{0, calloc(n + 1, sizeof(char *))}, {0, calloc(n + 1, sizeof(char *))}};
    struct modules plain = {0, calloc(n + 1, sizeof(char *))};
    char *text = NULL;
    if (packed.exact.names != NULL && packed.general.names != NULL && plain.names != NULL &&
        list_packed(view, &packed) == 0 && list_plain(view, &packed, &plain) == 0)
        text = print(&plain);
    clear(&packed.exact);
    clear(&packed.general);
    clear(&plain);
    return text;
}
