#include "fs/view/arguments.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/options.h"

void tp_view_arguments_init(struct tp_view_arguments *arguments)
{
    *arguments = (struct tp_view_arguments){.view = {.shard_size = TP_SHARD_SIZE_DEFAULT}};
}

void tp_view_arguments_clear(struct tp_view_arguments *arguments)
{
    free(arguments->include);
    free(arguments->exclude);
    tp_view_arguments_init(arguments);
}

static int add_pattern(const char ***patterns, size_t *n, const char *pattern,
                       struct tp_error *error)
{
    const char **more = realloc(*patterns, (*n + 1) * sizeof *more);
    if (more == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    more[(*n)++] = pattern;
    *patterns = more;
    return 0;
}

/* "1.8" is decimal GB; with a suffix it is a size like any other. */
static int parse_shard_size(const char *text, uint64_t *ret_bytes, struct tp_error *error)
{
    char with_unit[64];
    uint64_t bytes = 0;
    bool bare = strspn(text, "0123456789.") == strlen(text);
    bool fits =
        !bare || snprintf(with_unit, sizeof with_unit, "%sGB", text) < (int)sizeof with_unit;
    if (!fits || tp_parse_size(bare ? with_unit : text, &bytes, error) < 0 || bytes == 0)
        return tp_error_set(error, -EINVAL,
                            "expected decimal GB such as 1.8, above 0, found \"%s\"", text);
    *ret_bytes = bytes;
    return 0;
}

int tp_view_arguments_handle(struct tp_view_arguments *arguments, const char *name,
                             const char *value, bool *ret_known, struct tp_error *error)
{
    struct tp_view_options *view = &arguments->view;
    size_t index = 0;
    int rc = 0;
    *ret_known = true;
    if (strcmp(name, "precision") == 0) {
        rc = tp_parse_choice(value, tp_precision_names, &index, error);
        view->precision = (enum tp_precision)index;
    } else if (strcmp(name, "mxfp4") == 0) {
        rc = tp_parse_choice(value, tp_mxfp4_names, &index, error);
        view->packed = index == 1;
    } else if (strcmp(name, "shard-size") == 0) {
        rc = parse_shard_size(value, &view->shard_size, error);
    } else if (strcmp(name, "include") == 0) {
        rc = add_pattern(&arguments->include, &view->n_include, value, error);
        view->include = arguments->include;
    } else if (strcmp(name, "exclude") == 0) {
        rc = add_pattern(&arguments->exclude, &view->n_exclude, value, error);
        view->exclude = arguments->exclude;
    } else {
        *ret_known = false;
    }
    return rc;
}

enum {
    THREADS_DEFAULT = 10, /* as many as libfuse keeps idle: none is ever destroyed */
    THREADS_MAX = 256,
};
#define CACHE_SIZE_MAX (UINT64_C(1) << 46)

void tp_serve_arguments_init(struct tp_serve_arguments *arguments)
{
    *arguments = (struct tp_serve_arguments){.cache_size = TP_CACHE_SIZE_DEFAULT,
                                             .threads = THREADS_DEFAULT,
                                             .log_level = TP_LOG_WARNING};
}

int tp_serve_arguments_handle(struct tp_serve_arguments *arguments, const char *name,
                              const char *value, bool *ret_known, struct tp_error *error)
{
    uint64_t number = arguments->threads;
    size_t index = arguments->log_level;
    int rc = 0;
    *ret_known = true;
    if (strcmp(name, "cache-size") == 0) {
        rc = tp_parse_size(value, &arguments->cache_size, error);
        if (rc == 0 && arguments->cache_size > CACHE_SIZE_MAX)
            rc = tp_error_set(error, -EINVAL, "expected at most 64T, found \"%s\"", value);
    } else if (strcmp(name, "threads") == 0) {
        rc = tp_parse_unsigned(value, 1, THREADS_MAX, &number, error);
        arguments->threads = (unsigned)number;
    } else if (strcmp(name, "log-level") == 0) {
        rc = tp_parse_choice(value, tp_log_level_names, &index, error);
        arguments->log_level = (enum tp_log_level)index;
    } else if (strcmp(name, "direct-io") == 0) {
        arguments->direct_io = true;
    } else {
        *ret_known = false;
    }
    return rc;
}
