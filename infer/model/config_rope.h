/* The rotary embedding's part of config.json, in both of its spellings. */
#ifndef TENSORPORT_INFER_MODEL_CONFIG_ROPE_H
#define TENSORPORT_INFER_MODEL_CONFIG_ROPE_H

#include "infer/model/config.h"
#include "infer/model/fields.h"

/* Reads rope_scaling or rope_parameters, rope_theta and what else concerns it. `config` holds the
 * architecture and the context already. -EINVAL. */
int tp_config_read_rope(const struct tp_fields *fields, const struct tp_model_config *config,
                        struct tp_rope_config *ret_rope);

#endif
