/* What packing and unpacking share: a run over the files of the input. */
#ifndef TENSORPORT_FS_EXPORT_PACK_PACK_COPY_H
#define TENSORPORT_FS_EXPORT_PACK_PACK_COPY_H

#include "fs/export/common/output.h"
#include "fs/export/pack/files.h"
#include "fs/export/pack/pack.h"

/* Pieces that threads take: so many blocks, 1 MiB at the usual block size. */
enum { TP_PACK_PIECE_BLOCKS = 16 };

struct tp_pack_run {
    const struct tp_pack_options *options;
    struct tp_file_list files;
    struct tp_output *output;
    struct tp_progress *progress;
    struct tp_pack_summary summary;
    struct tp_error *error;
};

/* Lists the input and starts the progress. */
int tp_pack_run_start(struct tp_pack_run *run, const char *verb);

/* Names the input's file at fault: "FOLDER/NAME: ...". */
int tp_pack_run_fail(struct tp_pack_run *run, const char *name, int rc);

/* -EINTR once a signal has come. */
int tp_pack_run_check_stop(const struct tp_pack_run *run);

/* Copies file number `i` as it is. */
int tp_pack_run_copy(struct tp_pack_run *run, size_t i);

/* Gives the output's files their names, unless `rc` is an error, and frees everything. */
int tp_pack_run_end(struct tp_pack_run *run, int rc);

#endif
