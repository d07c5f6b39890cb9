#include "fs/export/synth/json_read.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"
#include "fs/export/common/json_print.h"

static int read_value(struct tp_json *json, cJSON **ret_item);

static int out_of_memory(struct tp_json *json)
{
    return tp_error_set(json->error, -ENOMEM, "out of memory");
}

/* Consumes a scalar; its text, NUL-terminated, is the caller's to free. */
static int take_text(struct tp_json *json, char **ret_text)
{
    size_t begin = json->at;
    int rc = tp_json_skip(json);
    if (rc < 0)
        return rc;
    size_t end = json->at;
    while (isspace((unsigned char)json->text[begin]))
        begin++;
    while (isspace((unsigned char)json->text[end - 1]))
        end--;
    *ret_text = strndup(json->text + begin, end - begin);
    return *ret_text != NULL ? 0 : out_of_memory(json);
}

static int take_string(struct tp_json *json, const struct tp_json_string *string, char **ret_text)
{
    char *text = malloc(string->length + 1);
    if (text == NULL)
        return out_of_memory(json);
    tp_json_string_copy(string, text);
    text[string->length] = '\0';
    if (strlen(text) != string->length) {
        free(text);
        return tp_error_set(json->error, -ERANGE, "a string has a NUL in it");
    }
    *ret_text = text;
    return 0;
}

static cJSON *make_number(const char *text)
{
    char real[TP_JSON_REAL_SIZE];
    double number = strtod(text, NULL);

    if (strpbrk(text, ".eE") != NULL) {
        tp_json_real_text(number, real);
        return cJSON_CreateRaw(real);
    }
    return fabs(number) < 0x1p53 ? cJSON_CreateNumber(number + 0.0) /* no -0 */
                                 : cJSON_CreateRaw(text);
}

static int read_word(struct tp_json *json, enum tp_json_kind kind, cJSON **ret_item)
{
    char *text;
    int rc = take_text(json, &text);
    if (rc < 0)
        return rc;
    if (kind == TP_JSON_NUMBER)
        *ret_item = make_number(text);
    else
        *ret_item = kind == TP_JSON_NULL ? cJSON_CreateNull() : cJSON_CreateBool(*text == 't');
    free(text);
    return 0;
}

static int read_string(struct tp_json *json, cJSON **ret_item)
{
    struct tp_json_string string;
    char *text;
    int rc = tp_json_string(json, &string);
    if (rc < 0)
        return rc;
    rc = take_string(json, &string, &text);
    if (rc < 0)
        return rc;
    *ret_item = cJSON_CreateString(text);
    free(text);
    return 0;
}

static int read_member(struct tp_json *json, const struct tp_json_string *key, cJSON *object)
{
    char *name;
    cJSON *value;
    int rc = take_string(json, key, &name);
    if (rc < 0)
        return rc;
    rc = read_value(json, &value);
    if (rc == 0 && tp_json_set(object, name, value) < 0)
        rc = out_of_memory(json);
    free(name);
    return rc;
}

static int read_members(struct tp_json *json, cJSON *object)
{
    struct tp_json_string key;
    bool first = true, more;
    int rc = tp_json_enter_object(json);
    while (rc == 0 && (rc = tp_json_object_next(json, &first, &key, &more)) == 0 && more)
        rc = read_member(json, &key, object);
    return rc;
}

static int read_elements(struct tp_json *json, cJSON *array)
{
    bool first = true, more;
    cJSON *value;
    int rc = tp_json_enter_array(json);
    while (rc == 0 && (rc = tp_json_array_next(json, &first, &more)) == 0 && more) {
        rc = read_value(json, &value);
        if (rc == 0)
            cJSON_AddItemToArray(array, value);
    }
    return rc;
}

/* Recurses no deeper than TP_JSON_DEPTH_MAX. */
static int read_value(struct tp_json *json, cJSON **ret_item)
{
    enum tp_json_kind kind;
    cJSON *item = NULL;
    int rc = tp_json_peek(json, &kind);
    if (rc < 0)
        return rc;
    if (kind == TP_JSON_OBJECT && (item = cJSON_CreateObject()) != NULL)
        rc = read_members(json, item);
    else if (kind == TP_JSON_ARRAY && (item = cJSON_CreateArray()) != NULL)
        rc = read_elements(json, item);
    else if (kind == TP_JSON_STRING)
        rc = read_string(json, &item);
    else if (kind != TP_JSON_OBJECT && kind != TP_JSON_ARRAY)
        rc = read_word(json, kind, &item);
    if (rc == 0 && item == NULL)
        rc = out_of_memory(json);
    if (rc < 0)
        cJSON_Delete(item);
    else
        *ret_item = item;
    return rc;
}

int tp_json_read(const char *text, size_t length, cJSON **ret_tree, struct tp_error *error)
{
    struct tp_json json;
    cJSON *tree;
    tp_json_init(&json, text, length, error);
    int rc = read_value(&json, &tree);
    if (rc < 0)
        return rc;
    rc = tp_json_end(&json);
    if (rc < 0)
        cJSON_Delete(tree);
    else
        *ret_tree = tree;
    return rc;
}

int tp_json_set(cJSON *object, const char *field, cJSON *value)
{
    if (value == NULL)
        return -ENOMEM;
    bool is_set = cJSON_GetObjectItemCaseSensitive(object, field) != NULL
                      ? cJSON_ReplaceItemInObjectCaseSensitive(object, field, value)
                      : cJSON_AddItemToObject(object, field, value);
    if (!is_set)
        cJSON_Delete(value);
    return is_set ? 0 : -ENOMEM;
}
