/* Any bytes as config.json, and behind a NUL as generation_config.json: what is accepted keeps what
 * struct tp_model_config promises, and its rotary embedding is made of numbers. */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "infer/model/config.h"
#include "infer/model/rope.h"

enum { HEAD_MAX = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void check_rope(const struct tp_model_config *config)
{
    struct tp_rope rope;
    require(tp_rope_new(&config->rope, config->head_dim, &rope) == 0);
    require(isfinite(rope.concentration) && rope.concentration > 0);
    for (size_t i = 0; i < rope.n_pairs; i++)
        require(isfinite(rope.inverse_frequencies[i]) && rope.inverse_frequencies[i] >= 0);
    tp_rope_clear(&rope);
}

static void check_config(const struct tp_model_config *config)
{
    require(config->vocab_size > 0 && config->hidden_size > 0 && config->intermediate_size > 0);
    require(config->n_layers > 0 && config->context > 0 && config->windows != NULL);
    require(config->n_kv_heads > 0 && config->n_heads % config->n_kv_heads == 0);
    require(config->head_dim > 0 && config->head_dim % 2 == 0);
    require(config->n_experts_per_token <= config->n_experts);
    require((config->architecture == TP_GPT_OSS) == (config->n_experts_per_token > 0));
    require(isfinite(config->rms_norm_eps) && config->rms_norm_eps >= 0);
    require(config->n_eos_tokens <= TP_EOS_MAX);
    for (size_t i = 0; i < config->n_eos_tokens; i++)
        require(config->eos_tokens[i] < config->vocab_size);
    require(config->bos_token == TP_NO_TOKEN || config->bos_token < config->vocab_size);
    if (config->head_dim <= HEAD_MAX)
        check_rope(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tp_error error = {""};
    struct tp_model_config config;
    const uint8_t *nul = size == 0 ? NULL : memchr(data, '\0', size);
    size_t length = nul == NULL ? size : (size_t)(nul - data);
    const char *generation = nul == NULL ? NULL : (const char *)nul + 1;
    int rc = tp_model_config_parse((const char *)data, length, generation,
                                   nul == NULL ? 0 : size - length - 1, &config, &error);
    require((rc == 0) == (error.text[0] == '\0'));
    if (rc == 0) {
        check_config(&config);
        tp_model_config_clear(&config);
    }
    return 0;
}
