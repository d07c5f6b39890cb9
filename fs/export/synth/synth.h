/* Writes a synthetic checkpoint in the format of openai/gpt-oss-20b, or a small dense one.
 *
 * The files depend on the options only, and are byte for byte those of
 * tests/kit/make_checkpoint.py with the same options, so that the goldens which were made
 * with other implementations belong to them.
 */
#ifndef TENSORPORT_FS_EXPORT_SYNTH_SYNTH_H
#define TENSORPORT_FS_EXPORT_SYNTH_SYNTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/dtype.h"
#include "decode/error.h"
#include "fs/export/synth/synth_config.h"
#include "fs/export/synth/synth_write.h"

struct tp_synth_options {
    const char *output; /* a new or empty folder */
    enum tp_synth_preset preset;
    enum tp_synth_arch arch;
    uint64_t seed;
    uint64_t shards;             /* number of files; 0: the preset's */
    enum tp_dtype dtype;         /* BF16, F16 or F32: of everything but the experts */
    const char *const *settings; /* [n_settings]: see tp_synth_config_make() */
    size_t n_settings;
    bool words;            /* write a tokenizer.json of made-up words */
    const char *tokenizer; /* folder whose regular files are copied; NULL for none */
    tp_synth_report *report;
    void *report_context;
};

struct tp_synth_summary {
    size_t n_tensors;
    size_t n_files; /* safetensors files */
    uint64_t bytes; /* of the tensors */
};

/* Creates the checkpoint; either all of its files are there afterwards, or none. About 3 MB of
 * memory for each thread, whatever the size. -EINVAL: no checkpoint has these options; else
 * what went wrong with the files, with a message that names one; or what `report` returned. */
int tp_synth(const struct tp_synth_options *options, struct tp_synth_summary *ret_summary,
             struct tp_error *error);

#endif
