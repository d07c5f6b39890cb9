/* What a synthetic checkpoint looks like: its preset, its config.json, its dimensions.
 *
 * Source: tests/kit/make_checkpoint.py, whose files these are byte for byte.
 */
#ifndef TENSORPORT_FS_EXPORT_SYNTH_SYNTH_CONFIG_H
#define TENSORPORT_FS_EXPORT_SYNTH_SYNTH_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "decode/error.h"

enum tp_synth_preset {
    TP_SYNTH_TINY,
    TP_SYNTH_SMALL,
    TP_SYNTH_MID,
    TP_SYNTH_20B,
    TP_SYNTH_120B,
};

enum tp_synth_arch {
    TP_SYNTH_GPT_OSS,
    TP_SYNTH_LLAMA,
    TP_SYNTH_MISTRAL,
};

/* The names on the command line, in the order of the enums, NULL at the end. */
extern const char *const tp_synth_preset_names[];
extern const char *const tp_synth_arch_names[];

struct tp_synth_config {
    cJSON *model;      /* config.json */
    cJSON *generation; /* generation_config.json */
    enum tp_synth_arch arch;
    uint64_t layers;
    uint64_t width; /* hidden_size */
    uint64_t inner; /* intermediate_size */
    uint64_t heads;
    uint64_t kv_heads;
    uint64_t head_dim;
    uint64_t experts; /* 0 in a dense model */
    uint64_t vocab;
    uint64_t n_text;      /* tokens before the special ones, which end the vocabulary */
    bool tied;            /* no lm_head: the embedding serves */
    uint64_t shards;      /* the preset's number of files */
    bool count_from_zero; /* names of the files: see tp_synth_plan() */
};

/* Builds both trees; `settings` are FIELD=VALUE or GROUP.FIELD=VALUE, the value JSON or else
 * plain text. -EINVAL with a message that names the field, -ENOMEM. */
int tp_synth_config_make(enum tp_synth_preset preset, enum tp_synth_arch arch,
                         const char *const *settings, size_t n_settings,
                         struct tp_synth_config *ret_config, struct tp_error *error);

void tp_synth_config_clear(struct tp_synth_config *config);

#endif
