/* What a checkpoint says of its model: config.json and generation_config.json.
 *
 * Source: the configuration classes of transformers 5.23 (GptOssConfig, LlamaConfig, MistralConfig
 * and, as AutoConfig does, MinistralConfig for a mistral with layer_types) and its
 * modeling_rope_utils. What may be absent has their defaults. What no published checkpoint leaves
 * out and no tensor shows (sizes, counts, rms_norm_eps, experts per token) must be there. A field
 * that is neither used nor known to have no part in the computation is refused: it might.
 */
#ifndef TENSORPORT_INFER_MODEL_CONFIG_H
#define TENSORPORT_INFER_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"

enum tp_architecture { TP_GPT_OSS, TP_LLAMA, TP_MISTRAL };

/* "gpt_oss": config.json's model_type. NULL at the end, in the order of the enum. */
extern const char *const tp_architecture_names[];

enum tp_rope_kind { TP_ROPE_DEFAULT, TP_ROPE_LINEAR, TP_ROPE_LLAMA3, TP_ROPE_YARN };

/* "yarn": the rope_type. NULL at the end, in the order of the enum. */
extern const char *const tp_rope_kind_names[];

struct tp_rope_config {
    enum tp_rope_kind kind;
    double theta;            /* base of the frequencies, above 1 */
    double factor;           /* by which the context is stretched; 1 for the default kind */
    double original_context; /* llama3, yarn: positions before that */
    double low_frequency_factor, high_frequency_factor; /* llama3 */
    double beta_fast, beta_slow;                        /* yarn: turns over the original context */
    bool truncate;                                      /* yarn: bounds of the ramp are rounded */
    double concentration;                               /* factor of cos and sin; 1 but for yarn */
};

/* What generation_config.json recommends; otherwise temperature 1 and nothing cut off. */
struct tp_sampling_defaults {
    bool sample; /* false: take the likeliest token */
    double temperature, top_p, min_p, repetition_penalty;
    size_t top_k; /* 0: all */
};

enum { TP_EOS_MAX = 64 };
#define TP_NO_TOKEN SIZE_MAX

struct tp_model_config {
    enum tp_architecture architecture;
    size_t vocab_size, hidden_size, intermediate_size;
    size_t n_layers, n_heads, n_kv_heads, head_dim; /* heads are a multiple of KV heads */
    size_t n_experts, n_experts_per_token;          /* 0, 0: a dense model */
    size_t context;                                 /* max_position_embeddings */
    size_t *windows;     /* [n_layers]: keys that a position sees, itself included; 0: all */
    bool attention_bias; /* on q, k, v and o */
    bool mlp_bias;       /* llama: on gate, up and down */
    bool sinks;          /* gpt_oss: a logit for each head */
    bool tied;           /* the embedding is the head as well */
    float rms_norm_eps;
    float swiglu_limit, swiglu_alpha; /* gpt_oss */
    struct tp_rope_config rope;
    size_t bos_token; /* or TP_NO_TOKEN */
    size_t eos_tokens[TP_EOS_MAX], n_eos_tokens;
    struct tp_sampling_defaults sampling;
};

/* Parses and checks both texts; `generation` may be NULL when there is no such file. -EINVAL with
 * file, field, expected and found; -ENOMEM. */
int tp_model_config_parse(const char *config, size_t config_length, const char *generation,
                          size_t generation_length, struct tp_model_config *ret_config,
                          struct tp_error *error);

void tp_model_config_clear(struct tp_model_config *config);

#endif
