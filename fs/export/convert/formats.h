/* What a view becomes on disk. Each format plans its artifacts; how they are written, resumed and
 * checked is the same for all of them. */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_FORMATS_H
#define TENSORPORT_FS_EXPORT_CONVERT_FORMATS_H

#include "decode/error.h"
#include "fs/export/convert/artifact.h"
#include "fs/view/view.h"

enum tp_export_format {
    TP_EXPORT_NUMPY_DIRECT, /* shard_NNN/NAME.npy, manifest.json: the mounted tree as it is */
    TP_EXPORT_MSGPACK,      /* what flax.serialization.msgpack_restore() reads */
    TP_EXPORT_JAX_PICKLE,   /* a dict of numpy arrays for pickle.load() */
    TP_EXPORT_SAFETENSORS,  /* decoded weights for transformers */
};

/* The names for --format, NULL at the end, in the order of the enum. */
extern const char *const tp_export_format_names[];

/* What is written when no precision is asked for: for safetensors that of the checkpoint, since
 * its readers know all types; for the others that of the mount. */
enum tp_precision tp_export_default_precision(enum tp_export_format format);

/* Plans all artifacts of `view`, which must outlive the plan. On failure the plan is empty. */
int tp_export_plan_new(const struct tp_view *view, enum tp_export_format format,
                       struct tp_export_plan *ret_plan, struct tp_error *error);

/* One for each format: they add to an empty plan, and leave clearing it to the caller. */
int tp_plan_numpy_direct(const struct tp_view *view, struct tp_export_plan *plan,
                         struct tp_error *error);
int tp_plan_msgpack(const struct tp_view *view, struct tp_export_plan *plan,
                    struct tp_error *error);
int tp_plan_jax_pickle(const struct tp_view *view, struct tp_export_plan *plan,
                       struct tp_error *error);
int tp_plan_safetensors(const struct tp_view *view, struct tp_export_plan *plan,
                        struct tp_error *error);

#endif
