/* Packing a checkpoint and unpacking it: tensorport-pack(5).
 *
 * The output is a folder that mirrors the input, subfolders included: *.safetensors become
 * *.safetensors.tpk and back, all other files are copied. It appears whole or not at all
 * (fs/export/common/output.h), and its bytes do not depend on the number of workers. 3 MiB of
 * memory for each of them, and the table of one file, whatever the size.
 */
#ifndef TENSORPORT_FS_EXPORT_PACK_PACK_H
#define TENSORPORT_FS_EXPORT_PACK_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "fs/base/log.h"
#include "fs/base/progress.h"
#include "fs/base/stop.h"

enum { TP_PACK_WORKERS_MAX = 64 };

struct tp_pack_options {
    const char *input;  /* a folder or a file */
    const char *output; /* a new or empty folder */
    size_t workers;     /* 1 to TP_PACK_WORKERS_MAX */
    enum tp_progress_style progress;
    const struct tp_stop *stop; /* NULL: cannot be stopped */
    const struct tp_log *log;   /* what is left out */
};

struct tp_pack_summary {
    size_t n_files;          /* of the output */
    size_t n_packed;         /* of them (un)packed, not copied */
    uint64_t original_bytes; /* of the latter as they are without packing */
    uint64_t packed_bytes;   /* of them packed */
    uint64_t copied_bytes;   /* of the other files */
};

/* A checkpoint that could not be opened is not packed, nor is one that is packed. Errors have a
 * message; -EINTR: stopped. */
int tp_pack(const struct tp_pack_options *options, struct tp_pack_summary *ret_summary,
            struct tp_error *error);

/* Every block and every file is checked before anything gets its name. */
int tp_unpack(const struct tp_pack_options *options, struct tp_pack_summary *ret_summary,
              struct tp_error *error);

/* A fault found by tp_packed_verify(): `file` is relative to the folder, `text` one line that names
 * the block if it is one. Calls never overlap. */
typedef void tp_packed_fault(void *context, const char *file, const char *text);

/* Reads all packed files of options->input as tp_unpack() would, writes nothing (options->output is
 * ignored), and reports each fault. 0 if it could look at everything, whether there were faults or
 * not. */
int tp_packed_verify(const struct tp_pack_options *options, tp_packed_fault *fault, void *context,
                     struct tp_pack_summary *ret_summary, struct tp_error *error);

/* Whether `path` is a packed file, or a folder that has one at its top. */
bool tp_is_packed(const char *path);

#endif
