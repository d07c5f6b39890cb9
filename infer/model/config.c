#include "infer/model/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/model/config_rope.h"
#include "infer/model/fields.h"
#include "infer/model/sampling.h"

enum {
    SIZE_LIMIT = INT32_MAX, /* of each dimension: products of three are checked */
    LAYERS_MAX = 65536,
    EXPERTS_MAX = 65536,
};

const char *const tp_architecture_names[] = {"gpt_oss", "llama", "mistral", NULL};

static const char *const class_names[] = {"GptOssForCausalLM", "LlamaForCausalLM",
                                          "MistralForCausalLM", NULL};

/* The fields that are used, then those that have no part in the computation: training, loss,
 * bookkeeping, what generation_config.json repeats, and the original repository's spellings. */
static const char *const known[] = {
    "model_type", "hidden_size", "num_hidden_layers", "architectures", "vocab_size",
    "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act",
    "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "attention_bias", "mlp_bias",
    "layer_types", "sliding_window", "num_local_experts", "num_experts", "num_experts_per_tok",
    "experts_per_token", "swiglu_alpha", "swiglu_limit", "rope_theta", "rope_scaling",
    "rope_parameters", "partial_rotary_factor", "original_max_position_embeddings", "bos_token_id",
    "eos_token_id", "quantization_config",
    /* no part */
    "pad_token_id", "sep_token_id", "decoder_start_token_id", "attention_dropout", "auto_map",
    "chunk_size_feed_forward", "dtype", "finetuning_task", "id2label", "initial_context_length",
    "initializer_range", "is_decoder", "is_encoder_decoder", "label2id", "name_or_path",
    "output_attentions", "output_hidden_states", "output_router_logits", "prefix", "pretraining_tp",
    "problem_type", "return_dict", "router_aux_loss_coef", "task_specific_params",
    "tokenizer_class", "torch_dtype", "torchscript", "transformers_version", "unsloth_fixed",
    "unsloth_version", "use_bfloat16", "use_cache", "add_cross_attention",
    "cross_attention_hidden_size", "pruned_heads", "tie_encoder_decoder", "tf_legacy_loss",
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_scores",
    "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "suppress_tokens",
    "temperature", "top_k", "top_p", "typical_p", "min_p", "max_sequence_length", NULL};

/* ---- architecture ---- */

static int read_architecture(const struct tp_fields *fields, enum tp_architecture *ret_architecture)
{
    size_t type = 0, class = 0;
    const cJSON *classes = tp_fields_find(fields, "architectures");
    if (classes != NULL && (!cJSON_IsArray(classes) || cJSON_GetArraySize(classes) != 1))
        return tp_fields_refuse(fields, "architectures", "an array of one name", classes);
    if (classes == NULL || tp_fields_find(fields, "model_type") != NULL) {
        int rc = tp_fields_require(fields, "model_type");
        if (rc == 0)
            rc = tp_fields_choice(fields, "model_type", tp_architecture_names, &type);
        if (rc < 0)
            return rc;
    }
    if (classes != NULL) {
        int rc = tp_fields_item_choice(fields, "architectures", cJSON_GetArrayItem(classes, 0),
                                       class_names, &class);
        if (rc < 0)
            return rc;
        if (tp_fields_find(fields, "model_type") != NULL && class != type)
            return tp_fields_refuse(fields, "architectures", class_names[type],
                                    cJSON_GetArrayItem(classes, 0));
        type = class;
    }
    *ret_architecture = (enum tp_architecture)type;
    return 0;
}

/* Weights that are stored in a way which the tensors' shapes do not tell. */
static int check_quantization(const struct tp_fields *fields)
{
    const cJSON *item = tp_fields_find(fields, "quantization_config");
    if (item == NULL)
        return 0;
    if (!cJSON_IsObject(item))
        return tp_fields_refuse(fields, "quantization_config", "an object", item);
    const cJSON *method = cJSON_GetObjectItemCaseSensitive(item, "quant_method");
    if (!cJSON_IsString(method) || strcmp(method->valuestring, "mxfp4") != 0)
        return tp_fields_refuse(fields, "quantization_config.quant_method", "\"mxfp4\"", method);
    return 0;
}

/* ---- sizes ---- */

static int read_required(const struct tp_fields *fields, const char *name, size_t maximum,
                         size_t *ret_value)
{
    int rc = tp_fields_require(fields, name);
    return rc < 0 ? rc : tp_fields_size(fields, name, 1, maximum, ret_value);
}

/* `other` is a second name of the field, for files of other writers. */
static int read_required_either(const struct tp_fields *fields, const char *name, const char *other,
                                size_t maximum, size_t *ret_value)
{
    bool use_other = tp_fields_find(fields, name) == NULL && tp_fields_find(fields, other) != NULL;
    return read_required(fields, use_other ? other : name, maximum, ret_value);
}

static int read_sizes(const struct tp_fields *fields, struct tp_model_config *config)
{
    struct {
        const char *name;
        size_t maximum, *target;
    } sizes[] = {
        {"vocab_size", TP_VOCABULARY_MAX, &config->vocab_size},
        {"hidden_size", SIZE_LIMIT, &config->hidden_size},
        {"intermediate_size", SIZE_LIMIT, &config->intermediate_size},
        {"num_hidden_layers", LAYERS_MAX, &config->n_layers},
        {"num_attention_heads", SIZE_LIMIT, &config->n_heads},
    };
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof sizes / sizeof *sizes; i++)
        rc = read_required(fields, sizes[i].name, sizes[i].maximum, sizes[i].target);
    config->context = config->architecture == TP_LLAMA ? 2048 : 131072;
    if (rc == 0)
        rc = tp_fields_size(fields, "max_position_embeddings", 1, SIZE_LIMIT, &config->context);
    return rc;
}

/* Absent and null differ: the classes have a default for the one and a rule for the other. */
static size_t kv_heads_default(const struct tp_fields *fields, const struct tp_model_config *config)
{
    bool by_rule = config->architecture == TP_LLAMA || tp_fields_has(fields, "num_key_value_heads");
    return by_rule ? config->n_heads : 8;
}

static int read_head_size(const struct tp_fields *fields, struct tp_model_config *config)
{
    if (config->architecture == TP_GPT_OSS && !tp_fields_has(fields, "head_dim"))
        config->head_dim = 64;
    else if (tp_fields_find(fields, "head_dim") == NULL) {
        if (config->hidden_size % config->n_heads != 0)
            return tp_error_set(fields->error, -EINVAL,
                                "hidden_size: expected a multiple of num_attention_heads (%zu) "
                                "where there is no head_dim, found %zu",
                                config->n_heads, config->hidden_size);
        config->head_dim = config->hidden_size / config->n_heads;
    }
    int rc = tp_fields_size(fields, "head_dim", 1, SIZE_LIMIT, &config->head_dim);
    if (rc == 0 && config->head_dim % 2 != 0)
        return tp_error_set(fields->error, -EINVAL,
                            "head_dim: expected an even size, as its halves are rotated, found %zu",
                            config->head_dim);
    return rc;
}

static int read_heads(const struct tp_fields *fields, struct tp_model_config *config)
{
    config->n_kv_heads = kv_heads_default(fields, config);
    int rc = tp_fields_size(fields, "num_key_value_heads", 1, SIZE_LIMIT, &config->n_kv_heads);
    if (rc == 0 && config->n_heads % config->n_kv_heads != 0)
        return tp_error_set(fields->error, -EINVAL,
                            "num_attention_heads: expected a multiple of num_key_value_heads "
                            "(%zu), found %zu",
                            config->n_kv_heads, config->n_heads);
    return rc < 0 ? rc : read_head_size(fields, config);
}

static int read_experts(const struct tp_fields *fields, struct tp_model_config *config)
{
    if (config->architecture != TP_GPT_OSS)
        return 0;
    int rc = read_required_either(fields, "num_local_experts", "num_experts", EXPERTS_MAX,
                                  &config->n_experts);
    if (rc == 0)
        rc = read_required_either(fields, "num_experts_per_tok", "experts_per_token", EXPERTS_MAX,
                                  &config->n_experts_per_token);
    if (rc == 0 && config->n_experts_per_token > config->n_experts)
        return tp_error_set(fields->error, -EINVAL,
                            "num_experts_per_tok: expected at most num_local_experts (%zu), found "
                            "%zu",
                            config->n_experts, config->n_experts_per_token);
    double limit = 7, alpha = 1.702;
    if (rc == 0)
        rc = tp_fields_number(fields, "swiglu_limit", 0, 1e30, &limit);
    if (rc == 0)
        rc = tp_fields_number(fields, "swiglu_alpha", 0, 1e30, &alpha);
    config->swiglu_limit = (float)limit;
    config->swiglu_alpha = (float)alpha;
    return rc;
}

/* Every tensor, in the widest type, has a size that a file can have. */
static int check_products(const struct tp_model_config *config, struct tp_error *error)
{
    size_t heads = config->n_heads * config->head_dim; /* each below 2^31 */
    size_t products[][3] = {
        {config->vocab_size, config->hidden_size, 1},
        {heads, config->hidden_size, 1},
        {config->n_experts > 0 ? config->n_experts : 1, 2 * config->intermediate_size,
         config->hidden_size},
    };
    for (size_t i = 0; i < sizeof products / sizeof *products; i++) {
        size_t bytes = sizeof(float);
        for (size_t j = 0; j < 3; j++) {
            if (__builtin_mul_overflow(bytes, products[i][j], &bytes) || bytes > INT64_MAX)
                return tp_error_set(error, -EINVAL,
                                    "sizes: expected matrices below 2^63 bytes, found one of %zu x "
                                    "%zu x %zu numbers",
                                    products[i][0], products[i][1], products[i][2]);
        }
    }
    return 0;
}

/* ---- switches ---- */

static int read_switches(const struct tp_fields *fields, struct tp_model_config *config)
{
    static const char *const activations[] = {"silu", "swish", NULL}; /* two names of one */
    size_t activation;
    double eps = 0;
    config->sinks = config->attention_bias = config->architecture == TP_GPT_OSS;
    int rc = tp_fields_require(fields, "rms_norm_eps");
    if (rc == 0)
        rc = tp_fields_number(fields, "rms_norm_eps", 0, 1, &eps);
    if (rc < 0)
        return rc;
    config->rms_norm_eps = (float)eps;
    rc = tp_fields_choice(fields, "hidden_act", activations, &activation);
    if (rc == 0)
        rc = tp_fields_boolean(fields, "tie_word_embeddings", &config->tied);
    if (rc == 0)
        rc = tp_fields_boolean(fields, "attention_bias", &config->attention_bias);
    if (rc == 0)
        rc = tp_fields_boolean(fields, "mlp_bias", &config->mlp_bias);
    if (rc < 0)
        return rc;
    if (config->attention_bias && config->architecture == TP_MISTRAL)
        return tp_error_set(fields->error, -EINVAL,
                            "attention_bias: expected false for mistral, found true");
    if (config->mlp_bias && config->architecture != TP_LLAMA)
        return tp_error_set(fields->error, -EINVAL, "mlp_bias: expected false for %s, found true",
                            tp_architecture_names[config->architecture]);
    return 0;
}

/* ---- windows ---- */

enum layer_type { FULL, SLIDING };
static const char *const layer_type_names[] = {"full_attention", "sliding_attention", NULL};

static int read_layer_types(const struct tp_fields *fields, const struct tp_model_config *config,
                            const cJSON *types, size_t window)
{
    if (!cJSON_IsArray(types) || (size_t)cJSON_GetArraySize(types) != config->n_layers) {
        char expected[64];
        snprintf(expected, sizeof expected, "an array of num_hidden_layers (%zu) names",
                 config->n_layers);
        return tp_fields_refuse(fields, "layer_types", expected, types);
    }
    size_t i = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, types)
    {
        size_t type;
        int rc = tp_fields_item_choice(fields, "layer_types", item, layer_type_names, &type);
        if (rc < 0)
            return rc;
        if (type == SLIDING && config->architecture == TP_LLAMA)
            return tp_fields_refuse(fields, "layer_types", "full_attention for llama", item);
        if (type == SLIDING && window == 0)
            return tp_error_set(fields->error, -EINVAL,
                                "sliding_window: expected a size, as layer_types has "
                                "sliding_attention, found null");
        config->windows[i++] = type == SLIDING ? window : 0;
    }
    return 0;
}

/* Without layer_types: gpt_oss slides on even layers, mistral on all, llama on none. */
static int set_windows(const struct tp_fields *fields, const struct tp_model_config *config,
                       size_t window)
{
    if (config->architecture == TP_GPT_OSS && window == 0)
        return tp_error_set(fields->error, -EINVAL,
                            "sliding_window: expected a size for gpt_oss, found null");
    for (size_t i = 0; i < config->n_layers; i++) {
        bool slides = config->architecture == TP_MISTRAL ||
                      (config->architecture == TP_GPT_OSS && i % 2 == 0);
        config->windows[i] = slides ? window : 0;
    }
    return 0;
}

static int read_windows(const struct tp_fields *fields, struct tp_model_config *config)
{
    static const size_t defaults[] = {[TP_GPT_OSS] = 128, [TP_LLAMA] = 0, [TP_MISTRAL] = 4096};
    const cJSON *types = tp_fields_find(fields, "layer_types");
    size_t window = tp_fields_has(fields, "sliding_window") ? 0 : defaults[config->architecture];
    int rc = tp_fields_size(fields, "sliding_window", 1, SIZE_LIMIT, &window);
    if (rc < 0)
        return rc;
    if (window != 0 && config->architecture == TP_LLAMA)
        return tp_error_set(fields->error, -EINVAL,
                            "sliding_window: expected none for llama, found %zu", window);
    config->windows = calloc(config->n_layers, sizeof *config->windows);
    if (config->windows == NULL)
        return tp_error_set(fields->error, -ENOMEM, "out of memory");
    return types == NULL ? set_windows(fields, config, window)
                         : read_layer_types(fields, config, types, window);
}

/* ---- tokens and sampling ---- */

static int add_eos(const struct tp_fields *fields, const cJSON *item,
                   struct tp_model_config *config)
{
    size_t id;
    int rc = tp_fields_item_size(fields, "eos_token_id", item, 0, config->vocab_size - 1, &id);
    if (rc < 0)
        return rc;
    if (config->n_eos_tokens == TP_EOS_MAX)
        return tp_error_set(fields->error, -EINVAL, "eos_token_id: expected at most %d ids",
                            TP_EOS_MAX);
    config->eos_tokens[config->n_eos_tokens++] = id;
    return 0;
}

/* Fields that are there replace what is known already. */
static int read_tokens(const struct tp_fields *fields, struct tp_model_config *config)
{
    int rc = tp_fields_size(fields, "bos_token_id", 0, config->vocab_size - 1, &config->bos_token);
    const cJSON *eos = tp_fields_find(fields, "eos_token_id"), *item;
    if (rc < 0 || eos == NULL)
        return rc;
    config->n_eos_tokens = 0;
    if (!cJSON_IsArray(eos))
        return add_eos(fields, eos, config);
    cJSON_ArrayForEach(item, eos)
    {
        rc = add_eos(fields, item, config);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The classes' own ids, for fields that are absent; null means that there is none. */
static void set_token_defaults(const struct tp_fields *fields, struct tp_model_config *config)
{
    config->bos_token = TP_NO_TOKEN;
    if (config->architecture == TP_GPT_OSS || config->vocab_size < 3)
        return;
    if (!tp_fields_has(fields, "bos_token_id"))
        config->bos_token = 1;
    if (!tp_fields_has(fields, "eos_token_id"))
        config->eos_tokens[config->n_eos_tokens++] = 2;
}

static int read_sampling(const struct tp_fields *fields, struct tp_sampling_defaults *sampling)
{
    int rc = tp_fields_boolean(fields, "do_sample", &sampling->sample);
    if (rc == 0)
        rc = tp_fields_number_from(fields, "temperature", 0, 1e30, &sampling->temperature);
    if (rc == 0)
        rc = tp_fields_number_from(fields, "top_p", 0, 1 + 1e-9, &sampling->top_p);
    if (rc == 0)
        rc = tp_fields_number_from(fields, "min_p", 0, 1 + 1e-9, &sampling->min_p);
    if (rc == 0)
        rc = tp_fields_size(fields, "top_k", 0, SIZE_LIMIT, &sampling->top_k);
    if (rc == 0)
        rc = tp_fields_number(fields, "repetition_penalty", 0, 1e30, &sampling->repetition_penalty);
    return rc;
}

static int read_generation(const char *text, size_t length, struct tp_model_config *config,
                           struct tp_error *error)
{
    cJSON *object;
    int rc = tp_fields_parse(text, length, &object, error);
    if (rc < 0)
        return rc;
    struct tp_fields fields = {object, "", error};
    rc = read_tokens(&fields, config);
    if (rc == 0)
        rc = read_sampling(&fields, &config->sampling);
    cJSON_Delete(object);
    return rc;
}

/* ---- the whole ---- */

static int read_config(const struct tp_fields *fields, struct tp_model_config *config)
{
    int rc =
        read_architecture(fields, &config->architecture); /* first: others are wholly different */
    if (rc == 0)
        rc = tp_fields_check_known(fields, known);
    if (rc == 0)
        rc = check_quantization(fields);
    if (rc == 0)
        rc = read_sizes(fields, config);
    if (rc == 0)
        rc = read_heads(fields, config);
    if (rc == 0)
        rc = read_experts(fields, config);
    if (rc == 0)
        rc = check_products(config, fields->error);
    if (rc == 0)
        rc = read_switches(fields, config);
    if (rc == 0)
        rc = read_windows(fields, config);
    if (rc == 0)
        rc = tp_config_read_rope(fields, config, &config->rope);
    if (rc < 0)
        return rc;
    set_token_defaults(fields, config);
    return read_tokens(fields, config);
}

int tp_model_config_parse(const char *config_text, size_t config_length, const char *generation,
                          size_t generation_length, struct tp_model_config *ret_config,
                          struct tp_error *error)
{
    struct tp_model_config config = {
        .sampling = {.sample = true, .temperature = 1, .top_p = 1, .repetition_penalty = 1},
    };
    const char *file = "config.json";
    cJSON *object;
    int rc = tp_fields_parse(config_text, config_length, &object, error);
    if (rc == 0) {
        struct tp_fields fields = {object, "", error};
        rc = read_config(&fields, &config);
        cJSON_Delete(object);
    }
    if (rc == 0 && generation != NULL) {
        file = "generation_config.json";
        rc = read_generation(generation, generation_length, &config, error);
    }
    if (rc < 0) {
        tp_model_config_clear(&config);
        return tp_error_prefix(error, rc, "%s", file);
    }
    *ret_config = config;
    return 0;
}

void tp_model_config_clear(struct tp_model_config *config)
{
    free(config->windows);
    *config = (struct tp_model_config){0};
}
