/* Ordinary safetensors for transformers: what was MXFP4 is decoded, and config.json says so.
 *
 * Sources: the official library's serialize() for the layout (widest types first, then by name;
 * header padded with spaces, so that all data is aligned to its width), and transformers'
 * integrations/mxfp4.py for what a decoded model looks like: experts keep their names and the
 * order of their rows, but are [expert, in, out]. */
#include "fs/export/convert/format_safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"
#include "decode/safetensors.h"
#include "fs/base/bytes.h"
#include "fs/export/convert/container.h"
#include "fs/export/convert/formats.h"
#include "fs/export/convert/json_edit.h"
#include "fs/export/convert/transpose.h"

static const char metadata_key[] = "__metadata__";

/* ---- the container ---- */

/* Experts: the only tensors that transformers keeps the other way round. */
static bool is_transposed(const struct tp_view_tensor *tensor)
{
    enum { EXPERTS_RANK = 3 };
    return tensor->pair != NULL && tensor->rank == EXPERTS_RANK;
}

/* The official library's order of types, which is also one of widths. */
static unsigned order_of(enum tp_dtype dtype)
{
    static const unsigned char order[TP_N_DTYPES] = {
        [TP_U64] = 1,  [TP_I64] = 2,      [TP_F64] = 3,      [TP_C64] = 4,      [TP_F32] = 5,
        [TP_U32] = 6,  [TP_I32] = 7,      [TP_BF16] = 8,     [TP_F16] = 9,      [TP_U16] = 10,
        [TP_I16] = 11, [TP_F8_E8M0] = 12, [TP_F8_E4M3] = 13, [TP_F8_E5M2] = 14, [TP_I8] = 15,
        [TP_U8] = 16,  [TP_BOOL] = 17,
    };
    return order[dtype];
}

int tp_safetensors_compare(const struct tp_view_file *a, const struct tp_view_file *b)
{
    unsigned left = order_of(a->tensor->dtype), right = order_of(b->tensor->dtype);
    return left != right ? (left < right ? -1 : 1) : tp_container_compare_names(a, b);
}

/* Escapes as serde_json does. */
static void print_string(FILE *stream, const char *text, size_t length)
{
    static const char plain[] = "\"\\\b\f\n\r\t", escaped[] = "\"\\bfnrt";
    putc_unlocked('"', stream);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        const char *found = c == 0 ? NULL : strchr(plain, c);
        if (found != NULL)
            fprintf(stream, "\\%c", escaped[found - plain]);
        else if (c < 0x20)
            fprintf(stream, "\\u%04x", c);
        else
            putc_unlocked(c, stream);
    }
    putc_unlocked('"', stream);
}

static void print_entry(FILE *stream, const struct tp_view_file *file, uint64_t begin)
{
    const struct tp_view_tensor *tensor = file->tensor;
    print_string(stream, tensor->name, tensor->name_length);
    fprintf(stream, ":{\"dtype\":\"%s\",\"shape\":[", tp_dtype_name(tensor->dtype));
    for (size_t i = 0; i < tensor->rank; i++) {
        size_t from = is_transposed(tensor) && i > 0 ? tensor->rank - i : i;
        fprintf(stream, "%s%" PRIu64, i > 0 ? "," : "", tensor->shape[from]);
    }
    fprintf(stream, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin,
            begin + file->content.data_length);
}

int tp_safetensors_write_header(struct tp_container *container, struct tp_error *error)
{
    struct tp_text text;
    char *header;
    size_t length;
    int rc = tp_text_open(&text);
    if (rc < 0)
        return rc;
    fprintf(text.stream, "{\"%s\":{\"format\":\"pt\"}", metadata_key);
    for (size_t i = 0, begin = 0; i < container->n_files; i++) {
        putc_unlocked(',', text.stream);
        print_entry(text.stream, container->files[i], begin);
        begin += container->files[i]->content.data_length;
    }
    putc_unlocked('}', text.stream);
    for (long at = ftell(text.stream); at % TP_SAFETENSORS_LENGTH_BYTES != 0; at++)
        putc_unlocked(' ', text.stream);
    rc = tp_text_close(&text, 0, &header, &length);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < TP_SAFETENSORS_LENGTH_BYTES; i++)
        putc_unlocked((int)((uint64_t)length >> (8 * i) & 0xFF), container->text.stream);
    fwrite(header, 1, length, container->text.stream);
    free(header);
    return length <= TP_SAFETENSORS_HEADER_MAX
               ? 0
               : tp_error_set(error, -EFBIG,
                              "%s: its header would have %zu bytes, of which readers allow %" PRIu64
                              "; choose a smaller --shard-size",
                              container->artifact->path, length, TP_SAFETENSORS_HEADER_MAX);
}

static int fill(struct tp_container *container, struct tp_error *error)
{
    int rc = tp_safetensors_write_header(container, error);
    for (size_t i = 0; rc == 0 && i < container->n_files; i++) {
        const struct tp_view_file *file = container->files[i];
        rc = is_transposed(file->tensor)
                 ? tp_container_add_transposed(container, file)
                 : tp_container_add_data(container, file, 0, file->content.data_length);
    }
    return rc;
}

int tp_safetensors_check(const struct tp_view_file *file, struct tp_error *error)
{
    const struct tp_view_tensor *tensor = file->tensor;
    int shown = tp_bytes_shown(tensor->name, tensor->name_length);
    if (tp_bytes_compare(tensor->name, tensor->name_length, metadata_key, strlen(metadata_key)) ==
        0)
        return tp_error_set(error, -EINVAL,
                            "tensor \"%s\": safetensors gives this name a meaning of its own; "
                            "leave it out with --exclude",
                            metadata_key);
    if (is_transposed(tensor) && tensor->shape[1] > TP_TRANSPOSE_ROWS_MAX)
        return tp_error_set(error, -EFBIG,
                            "tensor \"%.*s\": expected at most %" PRIu64
                            " rows to transpose, found %" PRIu64 "; use --mxfp4=packed",
                            shown, tensor->name, TP_TRANSPOSE_ROWS_MAX, tensor->shape[1]);
    return 0;
}

/* ---- config.json ---- */

static bool has_value(const struct tp_json_text *config, const char *key)
{
    struct tp_json_member member;
    return tp_json_edit_find(config, key, &member) == 0 &&
           strncmp(config->bytes + member.value, "null", 4) != 0;
}

/* Whether quantization_config says that the model is MXFP4. */
static bool is_mxfp4(const struct tp_json_text *config)
{
    struct tp_json_member member;
    if (tp_json_edit_find(config, "quantization_config", &member) < 0)
        return false;
    struct tp_json_text value = {config->bytes + member.value, member.end - member.value};
    static const char mxfp4[] = "\"mxfp4\"";
    return tp_json_edit_find(&value, "quant_method", &member) == 0 &&
           member.end - member.value == strlen(mxfp4) &&
           memcmp(value.bytes + member.value, mxfp4, strlen(mxfp4)) == 0;
}

/* transformers calls it dtype since 4.56 and reads both, before that torch_dtype only. */
static int set_dtype(struct tp_json_text *config, const char *dtype)
{
    static const char *const keys[] = {"torch_dtype", "dtype"};
    struct tp_json_member member;
    char value[32];
    int rc = 0;
    bool is_set = false;
    snprintf(value, sizeof value, "\"%s\"", dtype);
    for (size_t i = 0; rc == 0 && i < sizeof keys / sizeof *keys; i++) {
        if (tp_json_edit_find(config, keys[i], &member) < 0)
            continue;
        rc = tp_json_edit_set(config, keys[i], value);
        is_set = true;
    }
    return rc < 0 || is_set ? rc : tp_json_edit_set(config, keys[0], value);
}

/* With precision `source` the type is what it was; but that of a quantised model may have gone
 * without saying. */
static int edit_config(const struct tp_view *view, struct tp_json_text *config)
{
    enum tp_precision precision = view->options.precision;
    bool decoded = !view->options.packed && view->checkpoint->n_pairs > 0 && is_mxfp4(config);
    int rc = decoded ? tp_json_edit_remove(config, "quantization_config") : 0;
    if (rc < 0)
        return rc;
    if (precision != TP_PRECISION_SOURCE)
        return set_dtype(config, tp_precision_names[precision]);
    if (decoded && !has_value(config, "torch_dtype") && !has_value(config, "dtype"))
        return set_dtype(config, tp_precision_names[TP_PRECISION_BFLOAT16]);
    return 0;
}

int tp_safetensors_rewrite(const struct tp_view *view, const struct tp_view_file *file,
                           tp_edit_config_fn *edit, char **ret_text, size_t *ret_length,
                           struct tp_error *error)
{
    enum { CONFIG_BYTES_MAX = 16 << 20 };
    size_t length = (size_t)file->content.data_length;
    if (strcmp(file->name, "config.json") != 0 || length > CONFIG_BYTES_MAX)
        return 0;
    struct tp_json_text config = {malloc(length + 1), length};
    int rc =
        config.bytes == NULL ? -ENOMEM : tp_content_read(&file->content, 0, length, config.bytes);
    if (rc == 0) {
        config.bytes[length] = '\0';
        rc = edit(view, &config);
    }
    if (rc == -EINVAL) { /* no JSON object: the view has warned of it, and it stays as it is */
        free(config.bytes);
        return 0;
    }
    if (rc < 0) {
        free(config.bytes);
        return tp_error_set(error, rc, "%s: %s", file->name, strerror(-rc));
    }
    *ret_text = config.bytes;
    *ret_length = config.length;
    return 0;
}

static int rewrite(const struct tp_view *view, const struct tp_view_file *file, char **ret_text,
                   size_t *ret_length, struct tp_error *error)
{
    return tp_safetensors_rewrite(view, file, edit_config, ret_text, ret_length, error);
}

int tp_plan_safetensors(const struct tp_view *view, struct tp_export_plan *plan,
                        struct tp_error *error)
{
    static const struct tp_container_format format = {
        .name = "safetensors",
        .stem = "model",
        .extension = ".safetensors",
        .compare = tp_safetensors_compare,
        .check = tp_safetensors_check,
        .fill = fill,
        .rewrite = rewrite,
    };
    return tp_plan_containers(view, &format, plan, error);
}
