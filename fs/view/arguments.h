/* The options that say what a view shows, for every program that shows one. */
#ifndef TENSORPORT_FS_VIEW_ARGUMENTS_H
#define TENSORPORT_FS_VIEW_ARGUMENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "decode/error.h"
#include "fs/base/log.h"
#include "fs/view/view.h"

/* Rows of a struct tp_option table. */
#define TP_VIEW_ARGUMENTS_TABLE                                                                    \
    {"precision", 'p', "TYPE",                                                                     \
     "show floating-point tensors as float32 (default), float16,\n"                                \
     "bfloat16, or source: each as it is stored"},                                                 \
        {"mxfp4", 0, "MODE", "decode (default), or packed: the stored blocks and scales"},         \
        {"shard-size", 's', "GB", "decimal GB in each shard_NNN (default 1.8)"},                   \
        {"include", 0, "GLOB", "show only tensors whose names match; may be repeated"},            \
    {                                                                                              \
        "exclude", 0, "GLOB", "leave out tensors whose names match; may be repeated"               \
    }

/* Those that say how it is served, for every program that serves one. */
#define TP_SERVE_ARGUMENTS_TABLE                                                                   \
    {"cache-size", 'c', "SIZE", "most memory for decoded data (default 256M; 0: none)"},           \
        {"threads", 't', "N", "most threads that answer requests (default 10)"},                   \
        {"direct-io", 0, NULL, "bypass the kernel's page cache (then files cannot be mapped)"},    \
    {                                                                                              \
        "log-level", 0, "LEVEL", "error, warning (default), info or debug"                         \
    }

struct tp_view_arguments {
    struct tp_view_options view; /* its patterns point into the arrays below */
    const char **include, **exclude;
};

/* Sets the defaults. */
void tp_view_arguments_init(struct tp_view_arguments *arguments);

/* Takes the option if it is one of the table's; `value` must outlive the arguments. 0, or
 * -EINVAL or -ENOMEM with a message. */
int tp_view_arguments_handle(struct tp_view_arguments *arguments, const char *name,
                             const char *value, bool *ret_known, struct tp_error *error);

void tp_view_arguments_clear(struct tp_view_arguments *arguments);

struct tp_serve_arguments {
    uint64_t cache_size; /* bytes */
    unsigned threads;    /* that answer requests, at most */
    bool direct_io;
    enum tp_log_level log_level;
};
#define TP_CACHE_SIZE_DEFAULT (UINT64_C(256) << 20)

/* The same for them; they own nothing. */
void tp_serve_arguments_init(struct tp_serve_arguments *arguments);
int tp_serve_arguments_handle(struct tp_serve_arguments *arguments, const char *name,
                              const char *value, bool *ret_known, struct tp_error *error);

#endif
