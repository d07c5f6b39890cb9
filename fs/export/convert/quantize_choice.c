#include "fs/export/convert/quantize_choice.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode/mxfp4_encode.h"
#include "fs/base/bytes.h"

enum { CONFIG_BYTES_MAX = 16 << 20, REASON_MAX = 160 };

static const char *const linear_weights[] = {"*_proj.weight", "*.experts.*_proj",
                                             "*.experts.*.w[123].weight"};
static const char gate_up_suffix[] = ".experts.gate_up_proj";
static const char down_suffix[] = ".experts.down_proj";
static const char *const gpt_oss_experts[] = {"*.experts.gate_up_proj", "*.experts.down_proj"};

struct choosing {
    const struct tp_view *stored;
    struct tp_quantize_patterns patterns;
    bool is_gpt_oss;
    double hidden_size; /* 0: config.json does not say */
    struct tp_quantized_tensor *tensors;
    size_t n;
    size_t n_unfit;
    char unfit[REASON_MAX + 160]; /* why the first one is */
};

static int out_of_memory(struct tp_error *error)
{
    return tp_error_set(error, -ENOMEM, "out of memory");
}

/* ---- what config.json says ---- */

static const struct tp_view_file *find_config(const struct tp_view *view)
{
    for (size_t i = view->n_tensors; i < view->n_files; i++) {
        if (strcmp(view->files[i].name, "config.json") == 0)
            return &view->files[i];
    }
    return NULL;
}

static int take_config(struct choosing *choosing, const cJSON *config, struct tp_error *error)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(config, "model_type");
    const cJSON *hidden = cJSON_GetObjectItemCaseSensitive(config, "hidden_size");
    const cJSON *how = cJSON_GetObjectItemCaseSensitive(config, "quantization_config");
    const cJSON *method = cJSON_GetObjectItemCaseSensitive(how, "quant_method");
    choosing->is_gpt_oss = cJSON_IsString(type) && strcmp(type->valuestring, "gpt_oss") == 0;
    choosing->hidden_size = cJSON_IsNumber(hidden) ? hidden->valuedouble : 0;
    if (cJSON_IsObject(how) &&
        !(cJSON_IsString(method) && strcmp(method->valuestring, "mxfp4") == 0))
        return tp_error_set(error, -EINVAL,
                            "config.json: quantization_config.quant_method: expected none or "
                            "\"mxfp4\", found \"%.40s\": start from the model before it was "
                            "quantised",
                            cJSON_IsString(method) ? method->valuestring : "");
    return 0;
}

static int read_config(struct choosing *choosing, struct tp_error *error)
{
    const struct tp_view_file *file = find_config(choosing->stored);
    if (file == NULL || file->content.data_length > CONFIG_BYTES_MAX)
        return 0;
    size_t length = (size_t)file->content.data_length;
    char *text = malloc(length + 1);
    if (text == NULL)
        return out_of_memory(error);
    int rc = tp_content_read(&file->content, 0, length, text);
    if (rc < 0) {
        free(text);
        return tp_error_set(error, rc, "config.json: %s", strerror(-rc));
    }
    cJSON *config = cJSON_ParseWithLength(text, length);
    free(text);
    if (cJSON_IsObject(config))
        rc = take_config(choosing, config, error);
    cJSON_Delete(config);
    return rc;
}

/* ---- names ---- */

static bool matches(const char *const *patterns, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (fnmatch(patterns[i], name, 0) == 0)
            return true;
    }
    return false;
}

static bool is_meant(const struct choosing *choosing, const char *name)
{
    const struct tp_quantize_patterns *patterns = &choosing->patterns;
    return matches(patterns->include, patterns->n_include, name) &&
           !matches(patterns->exclude, patterns->n_exclude, name);
}

static int check_includes(const struct choosing *choosing, struct tp_error *error)
{
    const struct tp_view *stored = choosing->stored;
    for (size_t i = 0; i < choosing->patterns.n_include; i++) {
        const char *pattern = choosing->patterns.include[i];
        bool found = false;
        for (size_t j = 0; !found && j < stored->n_tensors; j++)
            found = fnmatch(pattern, stored->tensors[j].name, 0) == 0;
        if (!found)
            return tp_error_set(error, -EINVAL,
                                "--include \"%.*s\": expected to match a tensor, found none; "
                                "'tensorport inspect' lists their names",
                                tp_bytes_shown(pattern, strlen(pattern)), pattern);
    }
    return 0;
}

/* ---- which way round ---- */

/* 1: [expert, in, out], 0: [expert, out, in], -1: the shape fits both, or nothing is known. */
static int turned_by_shape(const struct choosing *choosing, const struct tp_view_tensor *tensor,
                           bool is_gate_up)
{
    if (tensor->rank != 3 || choosing->hidden_size <= 0)
        return -1;
    bool hidden_first = (double)tensor->shape[1] == choosing->hidden_size;
    bool hidden_last = (double)tensor->shape[2] == choosing->hidden_size;
    if (hidden_first == hidden_last)
        return -1;
    return is_gate_up == hidden_first;
}

static const struct tp_view_tensor *find(const struct tp_view *view, const char *stem,
                                         size_t stem_length, const char *suffix)
{
    size_t length = strlen(suffix);
    for (size_t i = 0; i < view->n_tensors; i++) {
        const struct tp_view_tensor *tensor = &view->tensors[i];
        if (tensor->name_length == stem_length + length &&
            memcmp(tensor->name, stem, stem_length) == 0 &&
            memcmp(tensor->name + stem_length, suffix, length) == 0)
            return tensor;
    }
    return NULL;
}

/* Both stacks of experts have one writer, so either may tell. */
static bool is_turned(const struct choosing *choosing, const struct tp_view_tensor *tensor)
{
    bool is_gate_up = tp_bytes_end_with(tensor->name, tensor->name_length, gate_up_suffix);
    bool is_down = tp_bytes_end_with(tensor->name, tensor->name_length, down_suffix);
    if (tensor->rank != 3 || (!is_gate_up && !is_down))
        return false;
    int turned = turned_by_shape(choosing, tensor, is_gate_up);
    size_t stem = tensor->name_length - strlen(is_gate_up ? gate_up_suffix : down_suffix);
    const struct tp_view_tensor *other =
        find(choosing->stored, tensor->name, stem, is_gate_up ? down_suffix : gate_up_suffix);
    if (turned < 0 && other != NULL)
        turned = turned_by_shape(choosing, other, !is_gate_up);
    return turned < 0 ? choosing->is_gpt_oss : turned == 1;
}

/* ---- one tensor ---- */

/* Writes why it cannot be quantised; "" if it can. */
static void judge(const struct tp_quantized_tensor *tensor, char reason[REASON_MAX])
{
    const struct tp_view_tensor *shown = tensor->file->tensor;
    reason[0] = '\0';
    if (tp_mxfp4_encoder(tp_codecs(), shown->dtype) == NULL)
        snprintf(reason, REASON_MAX, "expected BF16, F16 or F32, found %s",
                 tp_dtype_name(shown->dtype));
    else if (shown->rank < 2)
        snprintf(reason, REASON_MAX, "expected a matrix, found %zu dimension%s", shown->rank,
                 shown->rank == 1 ? "" : "s");
    else if (tensor->file->content.data_length == 0)
        snprintf(reason, REASON_MAX, "expected values, found none");
    else if (tensor->columns % TP_MXFP4_BLOCK_ELEMENTS != 0)
        snprintf(reason, REASON_MAX, "expected a multiple of 32 inputs, found %" PRIu64,
                 tensor->columns);
    else if (tensor->turned && tensor->columns > TP_QUANTIZE_COLUMNS_MAX)
        snprintf(reason, REASON_MAX, "expected at most %" PRIu64 " inputs, found %" PRIu64,
                 TP_QUANTIZE_COLUMNS_MAX, tensor->columns);
}

static void consider(struct choosing *choosing, const struct tp_view_file *file)
{
    const struct tp_view_tensor *shown = file->tensor;
    struct tp_quantized_tensor tensor = {.file = file, .matrices = 1, .rows = 1, .columns = 1};
    char reason[REASON_MAX];
    if (!is_meant(choosing, shown->name))
        return;
    if (shown->rank >= 2) {
        tensor.turned = is_turned(choosing, shown);
        tensor.rows = shown->shape[shown->rank - (tensor.turned ? 1 : 2)];
        tensor.columns = shown->shape[shown->rank - (tensor.turned ? 2 : 1)];
        for (size_t i = 0; i + 2 < shown->rank; i++)
            tensor.matrices *= shown->shape[i];
    }
    judge(&tensor, reason);
    if (reason[0] == '\0')
        choosing->tensors[choosing->n++] = tensor;
    else if (choosing->n_unfit++ == 0)
        snprintf(choosing->unfit, sizeof choosing->unfit, "tensor \"%.*s\": %s",
                 tp_bytes_shown(shown->name, shown->name_length), shown->name, reason);
}

/* ---- all of them ---- */

static void warn(const struct choosing *choosing, const struct tp_log *log)
{
    if (choosing->n_unfit == 1)
        tp_log(log, TP_LOG_WARNING, "%s; left as it is", choosing->unfit);
    else if (choosing->n_unfit > 1)
        tp_log(log, TP_LOG_WARNING, "%s; left as it is, like %zu more", choosing->unfit,
               choosing->n_unfit - 1);
    for (size_t i = 0; i < choosing->n; i++) {
        const char *name = choosing->tensors[i].file->tensor->name;
        if (choosing->is_gpt_oss &&
            matches(gpt_oss_experts, sizeof gpt_oss_experts / sizeof *gpt_oss_experts, name))
            continue;
        tp_log(log, TP_LOG_WARNING,
               "tensor \"%.*s\": transformers loads MXFP4 in experts of GPT-OSS only; "
               "'tensorport convert --format safetensors' decodes the result for it",
               tp_bytes_shown(name, strlen(name)), name);
        return;
    }
}

static int choose(struct choosing *choosing, const struct tp_log *log, struct tp_error *error)
{
    const struct tp_view *stored = choosing->stored;
    int rc = read_config(choosing, error);
    if (rc == 0)
        rc = check_includes(choosing, error);
    if (rc < 0)
        return rc;
    struct tp_quantize_patterns *patterns = &choosing->patterns;
    if (patterns->n_include == 0) {
        bool is_gpt_oss = choosing->is_gpt_oss;
        patterns->include = is_gpt_oss ? gpt_oss_experts : linear_weights;
        patterns->n_include = is_gpt_oss ? sizeof gpt_oss_experts / sizeof *gpt_oss_experts
                                         : sizeof linear_weights / sizeof *linear_weights;
    }
    for (size_t i = 0; i < stored->n_tensors; i++)
        consider(choosing, &stored->files[i]);
    if (choosing->n == 0 && choosing->n_unfit > 0)
        return tp_error_set(error, -EINVAL, "nothing to quantise: %s", choosing->unfit);
    if (choosing->n == 0)
        return tp_error_set(error, -EINVAL,
                            "nothing to quantise: no tensor has the name of a linear layer's "
                            "weight; choose with --include");
    warn(choosing, log);
    return 0;
}

int tp_quantize_choose(const struct tp_view *stored, const struct tp_quantize_patterns *patterns,
                       const struct tp_log *log, struct tp_quantized_tensor **ret_tensors,
                       size_t *ret_n, struct tp_error *error)
{
    struct choosing choosing = {.stored = stored, .patterns = *patterns};
    choosing.tensors = calloc(stored->n_tensors + 1, sizeof *choosing.tensors);
    int rc = choosing.tensors == NULL ? out_of_memory(error) : choose(&choosing, log, error);
    if (rc < 0) {
        free(choosing.tensors);
        return rc;
    }
    *ret_tensors = choosing.tensors;
    *ret_n = choosing.n;
    return 0;
}
