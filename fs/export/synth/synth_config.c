/* config.json is written down here as the text that it is: a template per architecture, whose
 * zeros are then replaced by the preset's dimensions and what follows from them. Settings of
 * the command line come twice: those that name a dimension go into the dimensions first, since
 * other fields follow from them, and then all of them into the finished tree. */
#include "fs/export/synth/synth_config.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/export/synth/json_read.h"

const char *const tp_synth_preset_names[] = {"tiny", "small", "mid", "20b", "120b", NULL};
const char *const tp_synth_arch_names[] = {"gpt_oss", "llama", "mistral", NULL};

/* Fields of config.json that a preset gives, then what else it decides. */
static const char *const preset_dimensions[] = {
    [TP_SYNTH_TINY] = "{\"num_hidden_layers\": 4, \"hidden_size\": 128, \"intermediate_size\": 96,"
                      " \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
                      " \"num_local_experts\": 8, \"vocab_size\": 1088,"
                      " \"tokenizer\": \"tiny\", \"shards\": 2}",
    [TP_SYNTH_SMALL] = "{\"num_hidden_layers\": 6, \"hidden_size\": 512,"
                       " \"intermediate_size\": 384, \"num_attention_heads\": 8,"
                       " \"num_key_value_heads\": 2, \"num_local_experts\": 16,"
                       " \"vocab_size\": 8192, \"tokenizer\": \"small\", \"shards\": 2}",
    [TP_SYNTH_MID] = "{\"num_hidden_layers\": 16, \"hidden_size\": 640, \"intermediate_size\": 640,"
                     " \"num_attention_heads\": 16, \"num_key_value_heads\": 4,"
                     " \"num_local_experts\": 32, \"vocab_size\": 201088,"
                     " \"tokenizer\": \"full\", \"shards\": 3}",
    [TP_SYNTH_20B] = "{\"num_hidden_layers\": 24, \"hidden_size\": 2880,"
                     " \"intermediate_size\": 2880, \"num_attention_heads\": 64,"
                     " \"num_key_value_heads\": 8, \"num_local_experts\": 32,"
                     " \"vocab_size\": 201088, \"tokenizer\": \"full\", \"shards\": 3}",
    [TP_SYNTH_120B] = "{\"num_hidden_layers\": 36, \"hidden_size\": 2880,"
                      " \"intermediate_size\": 2880, \"num_attention_heads\": 64,"
                      " \"num_key_value_heads\": 8, \"num_local_experts\": 128,"
                      " \"vocab_size\": 201088, \"tokenizer\": \"full\", \"shards\": 15}",
};

/* Special tokens at the end of each vocabulary. */
static const struct {
    const char *tokenizer;
    uint64_t n_special;
} vocabularies[] = {{"tiny", 66}, {"small", 66}, {"full", 1090}};

/* The fields of the published checkpoint, in its order. */
static const char gpt_oss_template[] =
    "{\"architectures\": [\"GptOssForCausalLM\"], \"attention_bias\": true,"
    " \"attention_dropout\": 0.0, \"eos_token_id\": 0, \"experts_per_token\": 4,"
    " \"head_dim\": 64, \"hidden_act\": \"silu\", \"hidden_size\": 0,"
    " \"initial_context_length\": 4096, \"initializer_range\": 0.02, \"intermediate_size\": 0,"
    " \"layer_types\": [], \"max_position_embeddings\": 131072, \"model_type\": \"gpt_oss\","
    " \"num_attention_heads\": 0, \"num_experts_per_tok\": 4, \"num_hidden_layers\": 0,"
    " \"num_key_value_heads\": 0, \"num_local_experts\": 0, \"output_router_logits\": false,"
    " \"pad_token_id\": 0, \"quantization_config\": {\"modules_to_not_convert\":"
    " [\"model.layers.*.self_attn\", \"model.layers.*.mlp.router\", \"model.embed_tokens\","
    " \"lm_head\"], \"quant_method\": \"mxfp4\"}, \"rms_norm_eps\": 1e-05, \"rope_scaling\":"
    " {\"beta_fast\": 32.0, \"beta_slow\": 1.0, \"factor\": 32.0,"
    " \"original_max_position_embeddings\": 4096, \"rope_type\": \"yarn\", \"truncate\": false},"
    " \"rope_theta\": 150000, \"router_aux_loss_coef\": 0.9, \"sliding_window\": 128,"
    " \"swiglu_limit\": 7.0, \"tie_word_embeddings\": false,"
    " \"transformers_version\": \"4.55.0.dev0\", \"use_cache\": true, \"vocab_size\": 0}";

static const char llama_template[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"attention_bias\": false,"
    " \"attention_dropout\": 0.0, \"bos_token_id\": 0, \"eos_token_id\": 0, \"head_dim\": 32,"
    " \"hidden_act\": \"silu\", \"hidden_size\": 0, \"initializer_range\": 0.02,"
    " \"intermediate_size\": 352, \"max_position_embeddings\": 4096, \"mlp_bias\": false,"
    " \"model_type\": \"llama\", \"num_attention_heads\": 0, \"num_hidden_layers\": 0,"
    " \"num_key_value_heads\": 0, \"rms_norm_eps\": 1e-05, \"rope_scaling\": null,"
    " \"rope_theta\": 10000.0, \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\","
    " \"use_cache\": true, \"vocab_size\": 0}";

static const char mistral_template[] =
    "{\"architectures\": [\"MistralForCausalLM\"], \"attention_dropout\": 0.0,"
    " \"bos_token_id\": 0, \"eos_token_id\": 0, \"head_dim\": 32, \"hidden_act\": \"silu\","
    " \"hidden_size\": 0, \"initializer_range\": 0.02, \"intermediate_size\": 352,"
    " \"max_position_embeddings\": 4096, \"model_type\": \"mistral\","
    " \"num_attention_heads\": 0, \"num_hidden_layers\": 0, \"num_key_value_heads\": 0,"
    " \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, \"tie_word_embeddings\": false,"
    " \"torch_dtype\": \"bfloat16\", \"use_cache\": true, \"vocab_size\": 0,"
    " \"sliding_window\": 64}";

static const char *const templates[] = {
    [TP_SYNTH_GPT_OSS] = gpt_oss_template,
    [TP_SYNTH_LLAMA] = llama_template,
    [TP_SYNTH_MISTRAL] = mistral_template,
};

/* Dimensions that every template takes from the preset; gpt_oss takes two more. */
static const char *const shared_dimensions[] = {
    "hidden_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "vocab_size",
};
static const char *const gpt_oss_dimensions[] = {"intermediate_size", "num_local_experts"};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Above these a checkpoint could not be written anyway; below them sums do not overflow. */
enum { MAX_DIMENSION = 1 << 24, MAX_LAYERS = 1 << 12, MAX_SHARDS = 1 << 20 };

static int out_of_memory(struct tp_error *error)
{
    return tp_error_set(error, -ENOMEM, "out of memory");
}

static int set_number(cJSON *object, const char *field, uint64_t value, struct tp_error *error)
{
    int rc = tp_json_set(object, field, cJSON_CreateNumber((double)value));
    return rc < 0 ? out_of_memory(error) : 0;
}

static int copy_field(cJSON *to, const char *to_field, const cJSON *from, const char *from_field,
                      struct tp_error *error)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(from, from_field);
    int rc = tp_json_set(to, to_field, cJSON_Duplicate(item, true));
    return rc < 0 ? out_of_memory(error) : 0;
}

static int read_dimension(const cJSON *object, const char *field, uint64_t maximum,
                          uint64_t *ret_value, struct tp_error *error)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, field);
    double value = cJSON_IsNumber(item) ? item->valuedouble : 0;
    if (!(value >= 1 && value <= (double)maximum))
        return tp_error_set(error, -EINVAL, "%s must be a whole number from 1 to %llu", field,
                            (unsigned long long)maximum);
    *ret_value = (uint64_t)value;
    return 0;
}

/* The value of a setting: JSON, or else plain text. */
static int read_setting(const char *text, cJSON **ret_value, struct tp_error *error)
{
    int rc = tp_json_read(text, strlen(text), ret_value, error);
    if (rc != -EINVAL)
        return rc;
    *ret_value = cJSON_CreateString(text);
    return *ret_value != NULL ? 0 : out_of_memory(error);
}

/* Applies a setting whose path, up to its '=', has been copied to `path`. */
static int set_path(cJSON *tree, char *path, const char *value_text, struct tp_error *error)
{
    cJSON *value;
    char *field = path;
    for (char *dot; (dot = strchr(field, '.')) != NULL; field = dot + 1) {
        *dot = '\0';
        tree = cJSON_GetObjectItemCaseSensitive(tree, field);
        if (!cJSON_IsObject(tree))
            return tp_error_set(error, -EINVAL, "\"%s\" is no group of fields of config.json",
                                field);
    }
    if (*field == '\0')
        return tp_error_set(error, -EINVAL, "expected FIELD=VALUE or GROUP.FIELD=VALUE");
    int rc = read_setting(value_text, &value, error);
    if (rc == 0 && tp_json_set(tree, field, value) < 0)
        rc = out_of_memory(error);
    return rc;
}

static int apply_setting(cJSON *tree, const char *setting, bool known_fields_only,
                         struct tp_error *error)
{
    const char *equals = strchr(setting, '=');
    if (equals == NULL)
        return tp_error_set(error, -EINVAL, "--set %s: expected FIELD=VALUE or GROUP.FIELD=VALUE",
                            setting);
    char *path = strndup(setting, (size_t)(equals - setting));
    if (path == NULL)
        return out_of_memory(error);
    int rc = 0;
    if (!known_fields_only || cJSON_GetObjectItemCaseSensitive(tree, path) != NULL)
        rc = set_path(tree, path, equals + 1, error);
    free(path);
    return rc < 0 ? tp_error_prefix(error, rc == -ENOMEM ? rc : -EINVAL, "--set %s", setting) : 0;
}

static int apply_settings(cJSON *tree, const char *const *settings, size_t n,
                          bool known_fields_only, struct tp_error *error)
{
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = apply_setting(tree, settings[i], known_fields_only, error);
    return rc;
}

static int read_tokenizer(const cJSON *dimensions, uint64_t *ret_n_special, struct tp_error *error)
{
    const char *name =
        cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(dimensions, "tokenizer"));
    for (size_t i = 0; i < COUNT(vocabularies); i++) {
        if (name != NULL && strcmp(name, vocabularies[i].tokenizer) == 0) {
            *ret_n_special = vocabularies[i].n_special;
            return 0;
        }
    }
    return tp_error_set(error, -EINVAL, "tokenizer must be tiny, small or full");
}

/* The number of text tokens of the vocabulary in `tree`, which is also the id of the first
 * special token. */
static int read_n_text(const cJSON *tree, uint64_t n_special, uint64_t *ret_n_text,
                       struct tp_error *error)
{
    uint64_t vocab = 0;
    int rc = read_dimension(tree, "vocab_size", MAX_DIMENSION, &vocab, error);
    if (rc < 0)
        return rc;
    if (vocab <= n_special)
        return tp_error_set(error, -EINVAL,
                            "vocab_size is %llu, expected more than the %llu special tokens",
                            (unsigned long long)vocab, (unsigned long long)n_special);
    *ret_n_text = vocab - n_special;
    return 0;
}

static int fill_dimensions(cJSON *model, const cJSON *dimensions, const char *const *fields,
                           size_t n, struct tp_error *error)
{
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = copy_field(model, fields[i], dimensions, fields[i], error);
    return rc;
}

static int fill_gpt_oss(cJSON *model, const cJSON *dimensions, uint64_t first_special,
                        struct tp_error *error)
{
    uint64_t layers = 0;
    int rc = read_dimension(dimensions, "num_hidden_layers", MAX_LAYERS, &layers, error);
    cJSON *types = cJSON_GetObjectItemCaseSensitive(model, "layer_types");
    for (uint64_t i = 0; i < layers && rc == 0; i++) {
        const char *type = i % 2 == 1 ? "full_attention" : "sliding_attention";
        if (!cJSON_AddItemToArray(types, cJSON_CreateString(type)))
            rc = out_of_memory(error);
    }
    if (rc == 0)
        rc = fill_dimensions(model, dimensions, gpt_oss_dimensions, COUNT(gpt_oss_dimensions),
                             error);
    if (rc == 0)
        rc = set_number(model, "eos_token_id", first_special + 4, error);
    return rc < 0 ? rc : set_number(model, "pad_token_id", first_special + 1, error);
}

static int fill_dense(cJSON *model, uint64_t first_special, struct tp_error *error)
{
    int rc = set_number(model, "bos_token_id", first_special, error);
    return rc < 0 ? rc : set_number(model, "eos_token_id", first_special + 1, error);
}

static int fill_template(struct tp_synth_config *config, const cJSON *dimensions,
                         uint64_t n_special, struct tp_error *error)
{
    uint64_t first_special = 0;
    const char *text = templates[config->arch];
    int rc = read_n_text(dimensions, n_special, &first_special, error);
    if (rc == 0)
        rc = tp_json_read(text, strlen(text), &config->model, error);
    if (rc == 0)
        rc = fill_dimensions(config->model, dimensions, shared_dimensions, COUNT(shared_dimensions),
                             error);
    if (rc < 0)
        return rc;
    return config->arch == TP_SYNTH_GPT_OSS
               ? fill_gpt_oss(config->model, dimensions, first_special, error)
               : fill_dense(config->model, first_special, error);
}

/* Reads the dimensions back from the finished tree, which the settings had the last word on. */
static int read_model(struct tp_synth_config *config, uint64_t n_special, struct tp_error *error)
{
    const struct {
        const char *field;
        uint64_t maximum;
        uint64_t *value;
    } fields[] = {
        {"num_hidden_layers", MAX_LAYERS, &config->layers},
        {"hidden_size", MAX_DIMENSION, &config->width},
        {"intermediate_size", MAX_DIMENSION, &config->inner},
        {"num_attention_heads", MAX_DIMENSION, &config->heads},
        {"num_key_value_heads", MAX_DIMENSION, &config->kv_heads},
        {"head_dim", MAX_DIMENSION, &config->head_dim},
        {"vocab_size", MAX_DIMENSION, &config->vocab},
        {"num_local_experts", MAX_DIMENSION, &config->experts},
    };
    size_t n = COUNT(fields) - (config->arch == TP_SYNTH_GPT_OSS ? 0 : 1);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = read_dimension(config->model, fields[i].field, fields[i].maximum, fields[i].value,
                            error);
    if (rc == 0)
        rc = read_n_text(config->model, n_special, &config->n_text, error);
    if (rc < 0)
        return rc;
    const cJSON *tied = cJSON_GetObjectItemCaseSensitive(config->model, "tie_word_embeddings");
    if (!cJSON_IsBool(tied))
        return tp_error_set(error, -EINVAL, "tie_word_embeddings must be true or false");
    config->tied = cJSON_IsTrue(tied);
    if (config->arch == TP_SYNTH_GPT_OSS && (config->width % 32 != 0 || config->inner % 32 != 0))
        return tp_error_set(error, -EINVAL,
                            "hidden_size and intermediate_size must be multiples of 32: the rows "
                            "of the experts are stored in MXFP4 blocks of 32");
    return 0;
}

/* [<|return|>, <|endoftext|>, <|call|>], or NULL. */
static cJSON *make_eos_list(const cJSON *eos, uint64_t first_special)
{
    cJSON *list = cJSON_CreateArray();
    cJSON_AddItemToArray(list, cJSON_Duplicate(eos, true));
    cJSON_AddItemToArray(list, cJSON_CreateNumber((double)first_special + 1));
    cJSON_AddItemToArray(list, cJSON_CreateNumber((double)first_special + 14));
    if (cJSON_GetArraySize(list) == 3)
        return list;
    cJSON_Delete(list);
    return NULL;
}

static int make_generation(struct tp_synth_config *config, struct tp_error *error)
{
    uint64_t first = config->n_text;
    cJSON *tree = config->generation = cJSON_CreateObject();
    const cJSON *eos = cJSON_GetObjectItemCaseSensitive(config->model, "eos_token_id");
    int rc = tree == NULL ? out_of_memory(error) : set_number(tree, "bos_token_id", first, error);
    if (rc < 0)
        return rc;
    if (cJSON_AddTrueToObject(tree, "do_sample") == NULL ||
        tp_json_set(tree, "eos_token_id",
                    config->arch == TP_SYNTH_GPT_OSS ? make_eos_list(eos, first)
                                                     : cJSON_Duplicate(eos, true)) < 0 ||
        set_number(tree, "pad_token_id", first + 1, error) < 0 ||
        cJSON_AddStringToObject(tree, "transformers_version", "4.55.0.dev0") == NULL)
        return out_of_memory(error);
    return 0;
}

static int make_with_dimensions(struct tp_synth_config *config, cJSON *dimensions,
                                const char *const *settings, size_t n_settings,
                                struct tp_error *error)
{
    uint64_t n_special = 0;
    int rc = apply_settings(dimensions, settings, n_settings, true, error);
    if (rc == 0)
        rc = read_tokenizer(dimensions, &n_special, error);
    if (rc == 0)
        rc = read_dimension(dimensions, "shards", MAX_SHARDS, &config->shards, error);
    if (rc == 0)
        rc = fill_template(config, dimensions, n_special, error);
    if (rc == 0)
        rc = apply_settings(config->model, settings, n_settings, false, error);
    if (rc == 0 && config->arch == TP_SYNTH_GPT_OSS)
        rc = copy_field(config->model, "experts_per_token", config->model, "num_experts_per_tok",
                        error);
    if (rc == 0)
        rc = read_model(config, n_special, error);
    return rc < 0 ? rc : make_generation(config, error);
}

int tp_synth_config_make(enum tp_synth_preset preset, enum tp_synth_arch arch,
                         const char *const *settings, size_t n_settings,
                         struct tp_synth_config *ret_config, struct tp_error *error)
{
    struct tp_synth_config config = {
        .arch = arch,
        .count_from_zero = preset == TP_SYNTH_20B || preset == TP_SYNTH_120B,
    };
    cJSON *dimensions;
    const char *text = preset_dimensions[preset];
    int rc = tp_json_read(text, strlen(text), &dimensions, error);
    if (rc < 0)
        return rc;
    rc = make_with_dimensions(&config, dimensions, settings, n_settings, error);
    cJSON_Delete(dimensions);
    if (rc < 0)
        tp_synth_config_clear(&config);
    else
        *ret_config = config;
    return rc;
}

void tp_synth_config_clear(struct tp_synth_config *config)
{
    cJSON_Delete(config->model);
    cJSON_Delete(config->generation);
    *config = (struct tp_synth_config){0};
}
