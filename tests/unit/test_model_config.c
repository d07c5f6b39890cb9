/* config.json against what transformers makes of it (goldens/configs.json), and with each of its
 * fields broken. */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "infer/model/config.h"
#include "infer/model/rope.h"
#include "tests/unit/read_file.h"

static cJSON *read_json(const char *path)
{
    struct bytes file = read_source_file(path);
    cr_assert_not_null(file.data, "%s", path);
    cJSON *json = cJSON_Parse(file.data);
    cr_assert_not_null(json, "%s", path);
    free(file.data);
    return json;
}

/* ---- goldens ---- */

static double number(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    cr_assert(cJSON_IsNumber(item) || cJSON_IsBool(item), "%s", name);
    return cJSON_IsBool(item) ? cJSON_IsTrue(item) : item->valuedouble;
}

static void compare_sizes(const cJSON *expected, const struct tp_model_config *config)
{
    const struct {
        const char *name;
        double found;
    } pairs[] = {
        {"vocab_size", (double)config->vocab_size},
        {"hidden_size", (double)config->hidden_size},
        {"intermediate_size", (double)config->intermediate_size},
        {"num_hidden_layers", (double)config->n_layers},
        {"num_attention_heads", (double)config->n_heads},
        {"num_key_value_heads", (double)config->n_kv_heads},
        {"head_dim", (double)config->head_dim},
        {"max_position_embeddings", (double)config->context},
        {"num_local_experts", (double)config->n_experts},
        {"num_experts_per_tok", (double)config->n_experts_per_token},
        {"tie_word_embeddings", config->tied},
        {"attention_bias", config->attention_bias},
        {"mlp_bias", config->mlp_bias},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        cr_expect_eq(pairs[i].found, number(expected, pairs[i].name), "%s", pairs[i].name);
    cr_expect_eq(config->rms_norm_eps, (float)number(expected, "rms_norm_eps"));
    cr_expect_eq(config->swiglu_limit, (float)number(expected, "swiglu_limit"));
    cr_expect_eq(config->swiglu_alpha, (float)number(expected, "swiglu_alpha"));
}

static void compare_list(const cJSON *list, const size_t *found, size_t n)
{
    cr_assert_eq((size_t)cJSON_GetArraySize(list), n);
    for (size_t i = 0; i < n; i++)
        cr_expect_eq(found[i], (size_t)cJSON_GetArrayItem(list, (int)i)->valuedouble);
}

static void compare_tokens(const cJSON *expected, const struct tp_model_config *config)
{
    const cJSON *bos = cJSON_GetObjectItemCaseSensitive(expected, "bos");
    cr_expect_eq(config->bos_token, cJSON_IsNull(bos) ? TP_NO_TOKEN : (size_t)bos->valuedouble);
    compare_list(cJSON_GetObjectItemCaseSensitive(expected, "eos"), config->eos_tokens,
                 config->n_eos_tokens);
    compare_list(cJSON_GetObjectItemCaseSensitive(expected, "windows"), config->windows,
                 config->n_layers);
}

/* What the file leaves out is ours to choose: transformers says None. */
static void compare_sampling(const cJSON *expected, const struct tp_sampling_defaults *sampling)
{
    const struct {
        const char *name;
        double found, without;
    } pairs[] = {
        {"do_sample", sampling->sample, 1}, {"temperature", sampling->temperature, 1},
        {"top_p", sampling->top_p, 1},      {"top_k", (double)sampling->top_k, 0},
        {"min_p", sampling->min_p, 0},      {"repetition_penalty", sampling->repetition_penalty, 1},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        bool there = expected != NULL &&
                     !cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(expected, pairs[i].name));
        cr_expect_eq(pairs[i].found, there ? number(expected, pairs[i].name) : pairs[i].without,
                     "%s", pairs[i].name);
    }
}

static float float_of_bits(const cJSON *item)
{
    uint32_t bits = (uint32_t)item->valuedouble;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int64_t ulps(float a, float b)
{
    int32_t left, right;
    memcpy(&left, &a, sizeof left);
    memcpy(&right, &b, sizeof right);
    return llabs((int64_t)left - right);
}

/* A frequency may differ from the reference's in its last bit, because its power function is not
 * rounded correctly; the ramps carry that on. Given the same frequencies, cos and sin agree. */
static void compare_rope(const cJSON *expected, const struct tp_model_config *config)
{
    struct tp_rope rope;
    cr_assert_eq(tp_rope_new(&config->rope, config->head_dim, &rope), 0);
    cr_expect_str_eq(tp_rope_kind_names[config->rope.kind],
                     cJSON_GetObjectItemCaseSensitive(expected, "rope_type")->valuestring);
    cr_expect_float_eq(config->rope.concentration, number(expected, "concentration"), 1e-15);
    const cJSON *frequencies = cJSON_GetObjectItemCaseSensitive(expected, "inv_freq");
    cr_assert_eq((size_t)cJSON_GetArraySize(frequencies), rope.n_pairs);
    size_t n_different = 0;
    for (size_t i = 0; i < rope.n_pairs; i++) {
        float golden = float_of_bits(cJSON_GetArrayItem(frequencies, (int)i));
        cr_expect_leq(ulps(rope.inverse_frequencies[i], golden), 2, "pair %zu", i);
        n_different += rope.inverse_frequencies[i] != golden;
        rope.inverse_frequencies[i] = golden;
    }
    cr_expect_leq(n_different, rope.n_pairs / 4);
    const cJSON *positions = cJSON_GetObjectItemCaseSensitive(expected, "positions");
    float cosines[64], sines[64];
    cr_assert_leq(rope.n_pairs, 64);
    for (int p = 0; p < cJSON_GetArraySize(positions); p++) {
        tp_rope_position(&rope, (size_t)cJSON_GetArrayItem(positions, p)->valuedouble, cosines,
                         sines);
        for (size_t i = 0; i < rope.n_pairs; i++) {
            int at = p * (int)rope.n_pairs + (int)i;
            float c = float_of_bits(
                cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(expected, "cos"), at));
            float s = float_of_bits(
                cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(expected, "sin"), at));
            cr_expect_leq(ulps(cosines[i], c), 2, "cos of pair %zu", i);
            cr_expect_leq(ulps(sines[i], s), 2, "sin of pair %zu", i);
        }
    }
    tp_rope_clear(&rope);
}

static void compare_case(const cJSON *golden)
{
    struct tp_model_config config;
    struct tp_error error = {""};
    const cJSON *expected = cJSON_GetObjectItemCaseSensitive(golden, "expected");
    const cJSON *generation = cJSON_GetObjectItemCaseSensitive(golden, "generation");
    char *text = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(golden, "config"));
    char *second = cJSON_IsNull(generation) ? NULL : cJSON_PrintUnformatted(generation);
    int rc = tp_model_config_parse(text, strlen(text), second, second == NULL ? 0 : strlen(second),
                                   &config, &error);
    cr_assert_eq(rc, 0, "%s: %s", text, error.text);
    compare_sizes(expected, &config);
    compare_tokens(expected, &config);
    compare_rope(expected, &config);
    compare_sampling(cJSON_GetObjectItemCaseSensitive(expected, "sampling"), &config.sampling);
    tp_model_config_clear(&config);
    cJSON_free(text);
    cJSON_free(second);
}

Test(model_config, is_what_transformers_makes_of_it)
{
    cJSON *goldens = read_json("tests/kit/goldens/configs.json");
    const cJSON *golden;
    cr_assert_geq(cJSON_GetArraySize(goldens), 36);
    cJSON_ArrayForEach(golden, goldens)
    {
        cr_log_info("%s", cJSON_GetObjectItemCaseSensitive(golden, "name")->valuestring);
        compare_case(golden);
    }
    cJSON_Delete(goldens);
}

/* ---- the published bounds of YaRN ---- */

Test(model_config, ramp_of_the_published_model)
{
    struct tp_rope_config config = {.kind = TP_ROPE_YARN,
                                    .theta = 150000,
                                    .factor = 32,
                                    .original_context = 4096,
                                    .beta_fast = 32,
                                    .beta_slow = 1,
                                    .concentration = 1};
    struct tp_rope fractional, rounded;
    cr_assert_eq(tp_rope_new(&config, 64, &fractional), 0);
    config.truncate = true;
    cr_assert_eq(tp_rope_new(&config, 64, &rounded), 0);
    /* between 8.0928 and 17.3980, or 8 and 18: pair 8 is untouched only where nothing is rounded */
    double kept = pow(150000, -16.0 / 64);
    cr_expect_float_eq(fractional.inverse_frequencies[8], kept, 1e-8);
    cr_expect_float_eq(rounded.inverse_frequencies[8], kept, 1e-8);
    double blend = (9 - 8.0928) / (17.3980 - 8.0928), wave = pow(150000, -18.0 / 64);
    cr_expect_float_eq(fractional.inverse_frequencies[9], wave * (1 - blend + blend / 32), 1e-6);
    cr_expect_float_eq(rounded.inverse_frequencies[9], wave * (0.9 + 0.1 / 32), 1e-6);
    tp_rope_clear(&fractional);
    tp_rope_clear(&rounded);
}

/* ---- what is refused ---- */

static const char gpt_oss[] =
    "{\"model_type\": \"gpt_oss\", \"architectures\": [\"GptOssForCausalLM\"],"
    " \"vocab_size\": 300, \"hidden_size\": 96, \"intermediate_size\": 64,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
    " \"num_local_experts\": 4, \"num_experts_per_tok\": 2, \"rms_norm_eps\": 1e-05,"
    " \"eos_token_id\": 3, \"sliding_window\": 128, \"rope_scaling\": {\"rope_type\": \"yarn\","
    " \"factor\": 32.0, \"original_max_position_embeddings\": 4096}}";
static const char llama[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 300, \"hidden_size\": 96,"
    " \"intermediate_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4,"
    " \"rms_norm_eps\": 1e-05}";
static const char mistral[] =
    "{\"model_type\": \"mistral\", \"vocab_size\": 300, \"hidden_size\": 96,"
    " \"intermediate_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 8,"
    " \"rms_norm_eps\": 1e-05}";

/* `base` with `field` ("rope_scaling.factor" reaches inside) as `value`, or without it (NULL). */
static char *changed(const char *base, const char *field, const char *value)
{
    cJSON *object = cJSON_Parse(base), *inside = object;
    const char *dot = strchr(field, '.');
    if (dot != NULL) {
        char outer[64];
        snprintf(outer, sizeof outer, "%.*s", (int)(dot - field), field);
        inside = cJSON_GetObjectItemCaseSensitive(object, outer);
        field = dot + 1;
    }
    cJSON_DeleteItemFromObjectCaseSensitive(inside, field);
    if (value != NULL)
        cr_assert(cJSON_AddItemToObject(inside, field, cJSON_CreateRaw(value)));
    char *text = cJSON_PrintUnformatted(object);
    cJSON_Delete(object);
    return text;
}

static void expect_refused(const char *text, const char *generation, const char *says)
{
    struct tp_model_config config;
    struct tp_error error = {""};
    int rc = tp_model_config_parse(text, strlen(text), generation,
                                   generation == NULL ? 0 : strlen(generation), &config, &error);
    cr_expect_eq(rc, -EINVAL, "%s", text);
    cr_expect_not_null(strstr(error.text, says), "expected \"%s\" in \"%s\"", says, error.text);
    if (rc == 0)
        tp_model_config_clear(&config);
}

static void expect_taken(const char *text)
{
    struct tp_model_config config;
    struct tp_error error = {""};
    int rc = tp_model_config_parse(text, strlen(text), NULL, 0, &config, &error);
    cr_expect_eq(rc, 0, "%s: %s", text, error.text);
    if (rc == 0)
        tp_model_config_clear(&config);
}

static void refuse_change(const char *base, const char *field, const char *value, const char *says)
{
    char *text = changed(base, field, value);
    expect_refused(text, NULL, says);
    cJSON_free(text);
}

/* Sizes: none of these is one, wherever a size is expected. */
Test(model_config, sizes_are_sizes)
{
    static const char *const fields[] = {"vocab_size",
                                         "hidden_size",
                                         "intermediate_size",
                                         "num_hidden_layers",
                                         "num_attention_heads",
                                         "num_key_value_heads",
                                         "num_local_experts",
                                         "num_experts_per_tok",
                                         "head_dim",
                                         "max_position_embeddings",
                                         "sliding_window",
                                         "rope_scaling.original_max_position_embeddings",
                                         "original_max_position_embeddings"};
    static const char *const values[] = {"0",
                                         "-1",
                                         "-2147483648",
                                         "1.5",
                                         "1e300",
                                         "1e308",
                                         "\"4\"",
                                         "true",
                                         "[4]",
                                         "{}",
                                         "2147483648",
                                         "1e-9",
                                         "9007199254740993",
                                         "18446744073709551616"};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        expect_taken(gpt_oss);
        for (size_t j = 0; j < sizeof values / sizeof *values; j++)
            refuse_change(gpt_oss, fields[i], values[j], "expected an integer from 1 to");
    }
}

Test(model_config, what_cannot_be_guessed_must_be_there)
{
    static const char *const fields[] = {
        "vocab_size",          "hidden_size",         "intermediate_size",
        "num_hidden_layers",   "num_attention_heads", "num_local_experts",
        "num_experts_per_tok", "rms_norm_eps",        "rope_scaling.factor"};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        refuse_change(gpt_oss, fields[i], NULL, "expected a value, found none");
        if (strcmp(fields[i], "rope_scaling.factor") != 0)
            refuse_change(gpt_oss, fields[i], "null", "expected a value, found null");
    }
    char *text = changed(gpt_oss, "model_type", NULL);
    expect_taken(text); /* the class says it as well */
    cJSON_free(text);
    refuse_change(llama, "model_type", NULL, "model_type: expected a value, found none");
}

Test(model_config, numbers_are_numbers)
{
    static const char *const fields[] = {"rms_norm_eps",
                                         "swiglu_limit",
                                         "swiglu_alpha",
                                         "rope_theta",
                                         "rope_scaling.rope_theta",
                                         "rope_scaling.factor",
                                         "rope_scaling.beta_fast",
                                         "rope_scaling.beta_slow",
                                         "rope_scaling.attention_factor",
                                         "rope_scaling.mscale",
                                         "rope_scaling.mscale_all_dim",
                                         "partial_rotary_factor",
                                         "rope_scaling.partial_rotary_factor"};
    static const char *const values[] = {"-1", "1e308", "1e31", "\"1\"", "true", "[]", "{}"};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        for (size_t j = 0; j < sizeof values / sizeof *values; j++)
            refuse_change(gpt_oss, fields[i], values[j], "expected a number");
    }
    refuse_change(gpt_oss, "rms_norm_eps", "0", "rms_norm_eps: expected a number above 0");
    refuse_change(gpt_oss, "rms_norm_eps", "1", "below 1, found 1");
    refuse_change(gpt_oss, "swiglu_limit", "0", "swiglu_limit: expected a number above 0");
    refuse_change(gpt_oss, "rope_theta", "1", "rope_theta: expected a number above 1");
    refuse_change(gpt_oss, "rope_scaling.factor", "0.5", "rope_scaling.factor: expected a number");
    refuse_change(gpt_oss, "rope_scaling.attention_factor", "0", "attention_factor: expected");
    refuse_change(gpt_oss, "rms_norm_eps", "NaN", "config.json: ");
    refuse_change(gpt_oss, "rms_norm_eps", "Infinity", "config.json: ");
}

Test(model_config, switches_are_switches)
{
    static const char *const fields[] = {"tie_word_embeddings", "attention_bias", "mlp_bias",
                                         "rope_scaling.truncate"};
    static const char *const values[] = {"0", "1", "\"true\"", "[]"};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        for (size_t j = 0; j < sizeof values / sizeof *values; j++)
            refuse_change(gpt_oss, fields[i], values[j], "expected true or false");
    }
    refuse_change(gpt_oss, "mlp_bias", "true", "mlp_bias: expected false for gpt_oss");
    refuse_change(mistral, "mlp_bias", "true", "mlp_bias: expected false for mistral");
    refuse_change(mistral, "attention_bias", "true", "attention_bias: expected false for mistral");
}

Test(model_config, names_are_known_ones)
{
    refuse_change(gpt_oss, "model_type", "\"gpt2\"",
                  "model_type: expected gpt_oss, llama or mistral, found \"gpt2\"");
    refuse_change(gpt_oss, "model_type", "7", "model_type: expected gpt_oss");
    refuse_change(gpt_oss, "model_type", "\"llama\"", "architectures: expected LlamaForCausalLM");
    refuse_change(gpt_oss, "architectures", "[\"Other\"]", "architectures: expected GptOssFor");
    refuse_change(gpt_oss, "architectures", "[]", "architectures: expected an array of one name");
    refuse_change(gpt_oss, "architectures", "\"GptOssForCausalLM\"", "architectures: expected an");
    refuse_change(gpt_oss, "architectures", "[3]", "architectures: expected GptOss");
    refuse_change(gpt_oss, "hidden_act", "\"gelu\"", "hidden_act: expected silu or swish");
    refuse_change(gpt_oss, "hidden_act", "1", "hidden_act: expected silu or swish");
    refuse_change(gpt_oss, "rope_scaling.rope_type", "\"longrope\"",
                  "rope_scaling.rope_type: expected default, linear, llama3 or yarn, found");
    refuse_change(gpt_oss, "rope_scaling.rope_type", "3", "rope_scaling.rope_type: expected");
    refuse_change(gpt_oss, "rope_scaling", "\"yarn\"", "rope_scaling: expected an object or null");
    refuse_change(llama, "rope_parameters", "[]", "rope_parameters: expected an object or null");
}

Test(model_config, relations)
{
    refuse_change(gpt_oss, "num_key_value_heads", "3",
                  "num_attention_heads: expected a multiple of num_key_value_heads (3), found 4");
    refuse_change(mistral, "num_attention_heads", "12",
                  "num_attention_heads: expected a multiple of num_key_value_heads (8), found 12");
    refuse_change(gpt_oss, "head_dim", "63", "head_dim: expected an even size");
    refuse_change(llama, "num_attention_heads", "5",
                  "hidden_size: expected a multiple of num_attention_heads (5)");
    refuse_change(llama, "num_attention_heads", "32", "head_dim: expected an even size");
    refuse_change(gpt_oss, "num_experts_per_tok", "5",
                  "num_experts_per_tok: expected at most num_local_experts (4), found 5");
    refuse_change(gpt_oss, "rope_scaling.beta_slow", "33",
                  "beta_fast: expected at least beta_slow");
    refuse_change(gpt_oss, "partial_rotary_factor", "0.5", "partial_rotary_factor: expected 1");
    refuse_change(llama, "sliding_window", "64", "sliding_window: expected none for llama");
    refuse_change(gpt_oss, "sliding_window", "null", "sliding_window: expected a size");
    refuse_change(gpt_oss, "layer_types", "[\"full_attention\"]",
                  "layer_types: expected an array of num_hidden_layers (2) names");
    refuse_change(gpt_oss, "layer_types", "[\"full_attention\", \"chunked_attention\"]",
                  "layer_types: expected full_attention or sliding_attention, found \"chunked");
    refuse_change(gpt_oss, "layer_types", "[\"full_attention\", 1]", "layer_types: expected full");
    refuse_change(gpt_oss, "layer_types", "{}", "layer_types: expected an array");
    refuse_change(llama, "layer_types", "[\"full_attention\", \"sliding_attention\"]",
                  "layer_types: expected full_attention for llama");
}

Test(model_config, llama3_needs_its_factors)
{
    char *text = changed(llama, "rope_scaling",
                         "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1,"
                         " \"high_freq_factor\": 4}");
    static const char *const fields[] = {"factor", "low_freq_factor", "high_freq_factor"};
    char field[64];
    expect_taken(text);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        snprintf(field, sizeof field, "rope_scaling.%s", fields[i]);
        refuse_change(text, field, NULL, "expected a value, found none");
        refuse_change(text, field, "0", "expected a number");
        refuse_change(text, field, "\"8\"", "expected a number");
    }
    refuse_change(text, "rope_scaling.high_freq_factor", "1",
                  "high_freq_factor: expected a number");
    cJSON_free(text);
}

Test(model_config, sizes_whose_products_overflow)
{
    char *a = changed(gpt_oss, "hidden_size", "2147483647");
    char *b = changed(a, "intermediate_size", "2147483647");
    refuse_change(b, "num_local_experts", "65536", "sizes: expected matrices below 2^63 bytes");
    char *c = changed(a, "num_attention_heads", "2147483646");
    refuse_change(c, "head_dim", "2147483646", "sizes: expected matrices below 2^63 bytes");
    cJSON_free(a);
    cJSON_free(b);
    cJSON_free(c);
}

Test(model_config, tokens)
{
    static const char *const values[] = {"300",      "-1",     "1.5", "\"3\"",
                                         "[3, 300]", "[null]", "{}",  "true"};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        refuse_change(gpt_oss, "eos_token_id", values[i],
                      "eos_token_id: expected an integer from 0 to 299");
    refuse_change(gpt_oss, "bos_token_id", "300",
                  "bos_token_id: expected an integer from 0 to 299");
    char many[1024];
    size_t length = (size_t)snprintf(many, sizeof many, "[0");
    for (size_t i = 0; i < TP_EOS_MAX; i++)
        length += (size_t)snprintf(many + length, sizeof many - length, ", 1");
    snprintf(many + length, sizeof many - length, "]");
    refuse_change(gpt_oss, "eos_token_id", many, "eos_token_id: expected at most 64");
}

Test(model_config, unknown_and_repeated_fields)
{
    refuse_change(gpt_oss, "logit_softcapping", "30.0",
                  "logit_softcapping: not a field of this architecture that is known");
    refuse_change(gpt_oss, "rope_scaling.short_factor", "[]", "rope_scaling.short_factor: not a");
    refuse_change(gpt_oss, "rope_scaling.full_attention", "{}", "rope_scaling.full_attention: not");
    refuse_change(gpt_oss, "quantization_config", "{\"quant_method\": \"fp8\"}",
                  "quantization_config.quant_method: expected \"mxfp4\", found \"fp8\"");
    refuse_change(gpt_oss, "quantization_config", "{}", "expected \"mxfp4\", found none");
    refuse_change(gpt_oss, "quantization_config", "8", "quantization_config: expected an object");
    char *twice = changed(gpt_oss, "_private", "1");
    expect_taken(twice);
    cJSON_free(twice);
    expect_refused("{\"model_type\": \"llama\", \"model_type\": \"llama\"}", NULL,
                   "model_type appears twice");
}

Test(model_config, text_that_is_no_object)
{
    static const char *const texts[] = {
        "",          " ",           "[]",   "null",         "7", "{", "{}x",
        "{\"a\": }", "{\"a\": 1,}", "\xff", "{\"\xff\": 1}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        expect_refused(texts[i], NULL, "config.json: ");
    expect_refused(llama, "[]", "generation_config.json: expected a JSON object");
    expect_refused(llama, "{", "generation_config.json: ");
}

Test(model_config, generation)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"{\"eos_token_id\": [1, 300]}", "eos_token_id: expected an integer from 0 to 299"},
        {"{\"eos_token_id\": \"x\"}", "eos_token_id: expected an integer"},
        {"{\"bos_token_id\": -1}", "bos_token_id: expected an integer"},
        {"{\"do_sample\": 1}", "do_sample: expected true or false"},
        {"{\"temperature\": -0.5}", "temperature: expected a number from 0"},
        {"{\"temperature\": 1e300}", "temperature: expected a number from 0"},
        {"{\"top_p\": 1.5}", "top_p: expected a number from 0"},
        {"{\"min_p\": \"a\"}", "min_p: expected a number from 0"},
        {"{\"top_k\": 2.5}", "top_k: expected an integer"},
        {"{\"top_k\": -1}", "top_k: expected an integer"},
        {"{\"repetition_penalty\": 0}", "repetition_penalty: expected a number above 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_refused(llama, cases[i].text, cases[i].says);
        expect_refused(llama, cases[i].text, "generation_config.json: ");
    }
}
