#include "infer/model/fields.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "decode/json.h"
#include "fs/base/bytes.h"

enum {
    KNOWN_MAX = 256,    /* names that check_known() can tell apart */
    EXPECTED_MAX = 400, /* bytes of the text that says what was expected */
};

int tp_fields_parse(const char *text, size_t length, cJSON **ret_object, struct tp_error *error)
{
    struct tp_json json;
    enum tp_json_kind kind;
    tp_json_init(&json, text, length, error);
    int rc = tp_json_peek(&json, &kind);
    if (rc == 0 && kind != TP_JSON_OBJECT)
        return tp_error_set(error, -EINVAL, "expected a JSON object");
    if (rc == 0)
        rc = tp_json_skip(&json);
    if (rc == 0)
        rc = tp_json_end(&json);
    if (rc < 0)
        return rc;
    cJSON *object = cJSON_ParseWithLength(text, length);
    if (object == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    *ret_object = object;
    return 0;
}

/* ---- messages ---- */

enum { FOUND_MAX = 256 };

/* What stands there, short enough for a message. */
static void describe(const cJSON *item, char text[FOUND_MAX])
{
    const char *kind = item == NULL           ? "none"
                       : cJSON_IsNull(item)   ? "null"
                       : cJSON_IsTrue(item)   ? "true"
                       : cJSON_IsFalse(item)  ? "false"
                       : cJSON_IsArray(item)  ? "an array"
                       : cJSON_IsObject(item) ? "an object"
                                              : "";
    if (cJSON_IsNumber(item))
        snprintf(text, FOUND_MAX, "%.17g", item->valuedouble);
    else if (cJSON_IsString(item))
        snprintf(text, FOUND_MAX, "\"%.*s\"",
                 tp_bytes_shown(item->valuestring, strlen(item->valuestring)), item->valuestring);
    else
        snprintf(text, FOUND_MAX, "%s", kind);
}

int tp_fields_refuse(const struct tp_fields *fields, const char *name, const char *expected,
                     const cJSON *found)
{
    char text[FOUND_MAX];
    describe(found, text);
    return tp_error_set(fields->error, -EINVAL, "%s%s: expected %s, found %s", fields->prefix, name,
                        expected, text);
}

static void list_choices(const char *const *choices, char text[EXPECTED_MAX])
{
    size_t at = 0;
    for (size_t i = 0; choices[i] != NULL && at < EXPECTED_MAX; i++)
        at += (size_t)snprintf(text + at, EXPECTED_MAX - at, "%s%s",
                               i == 0                   ? ""
                               : choices[i + 1] == NULL ? " or "
                                                        : ", ",
                               choices[i]);
}

/* ---- fields ---- */

const cJSON *tp_fields_find(const struct tp_fields *fields, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(fields->object, name);
    return cJSON_IsNull(item) ? NULL : item;
}

bool tp_fields_has(const struct tp_fields *fields, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(fields->object, name) != NULL;
}

int tp_fields_require(const struct tp_fields *fields, const char *name)
{
    if (tp_fields_find(fields, name) != NULL)
        return 0;
    return tp_error_set(fields->error, -EINVAL, "%s%s: expected a value, found %s", fields->prefix,
                        name, tp_fields_has(fields, name) ? "null" : "none");
}

static size_t find_known(const char *const *known, const char *name)
{
    size_t i = 0;
    while (known[i] != NULL && strcmp(known[i], name) != 0)
        i++;
    return i;
}

int tp_fields_check_known(const struct tp_fields *fields, const char *const *known)
{
    bool seen[KNOWN_MAX] = {false};
    const cJSON *item;
    cJSON_ArrayForEach(item, fields->object)
    {
        const char *name = item->string;
        size_t i = find_known(known, name);
        if (i < KNOWN_MAX && seen[i])
            return tp_error_set(fields->error, -EINVAL, "%s%s appears twice", fields->prefix, name);
        if (known[i] == NULL && name[0] != '_')
            return tp_error_set(fields->error, -EINVAL,
                                "%s%.*s: not a field of this architecture that is known, and it "
                                "may change the computation; expected among others %s, %s, %s",
                                fields->prefix, tp_bytes_shown(name, strlen(name)), name, known[0],
                                known[1], known[2]);
        if (known[i] != NULL && i < KNOWN_MAX)
            seen[i] = true;
    }
    return 0;
}

/* ---- values ---- */

int tp_fields_item_size(const struct tp_fields *fields, const char *name, const cJSON *item,
                        size_t minimum, size_t maximum, size_t *ret_value)
{
    double value = cJSON_IsNumber(item) ? item->valuedouble : NAN;
    if (!(value >= (double)minimum && value <= (double)maximum) || value != floor(value)) {
        char expected[80];
        snprintf(expected, sizeof expected, "an integer from %zu to %zu", minimum, maximum);
        return tp_fields_refuse(fields, name, expected, item);
    }
    *ret_value = (size_t)value;
    return 0;
}

int tp_fields_item_choice(const struct tp_fields *fields, const char *name, const cJSON *item,
                          const char *const *choices, size_t *ret_index)
{
    size_t i = cJSON_IsString(item) ? find_known(choices, item->valuestring) : 0;
    if (!cJSON_IsString(item) || choices[i] == NULL) {
        char expected[EXPECTED_MAX];
        list_choices(choices, expected);
        return tp_fields_refuse(fields, name, expected, item);
    }
    *ret_index = i;
    return 0;
}

int tp_fields_size(const struct tp_fields *fields, const char *name, size_t minimum, size_t maximum,
                   size_t *value)
{
    const cJSON *item = tp_fields_find(fields, name);
    return item == NULL ? 0 : tp_fields_item_size(fields, name, item, minimum, maximum, value);
}

static int take_number(const struct tp_fields *fields, const char *name, const char *bound,
                       double minimum, bool inclusive, double below, double *value)
{
    const cJSON *item = tp_fields_find(fields, name);
    if (item == NULL)
        return 0;
    double number = cJSON_IsNumber(item) ? item->valuedouble : NAN;
    if (!(number > minimum || (inclusive && number == minimum)) || !(number < below)) {
        char expected[96];
        snprintf(expected, sizeof expected, "a number %s %g and below %g", bound, minimum, below);
        return tp_fields_refuse(fields, name, expected, item);
    }
    *value = number;
    return 0;
}

int tp_fields_number(const struct tp_fields *fields, const char *name, double above, double below,
                     double *value)
{
    return take_number(fields, name, "above", above, false, below, value);
}

int tp_fields_number_from(const struct tp_fields *fields, const char *name, double minimum,
                          double below, double *value)
{
    return take_number(fields, name, "from", minimum, true, below, value);
}

int tp_fields_boolean(const struct tp_fields *fields, const char *name, bool *value)
{
    const cJSON *item = tp_fields_find(fields, name);
    if (item != NULL && !cJSON_IsBool(item))
        return tp_fields_refuse(fields, name, "true or false", item);
    if (item != NULL)
        *value = cJSON_IsTrue(item);
    return 0;
}

int tp_fields_choice(const struct tp_fields *fields, const char *name, const char *const *choices,
                     size_t *value)
{
    const cJSON *item = tp_fields_find(fields, name);
    return item == NULL ? 0 : tp_fields_item_choice(fields, name, item, choices, value);
}
