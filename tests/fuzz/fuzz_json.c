/* Any bytes as JSON: skipping a text and walking it value by value come to the same verdict,
 * and its strings resolve to as many bytes as they say. */
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void check_string(const struct tp_json_string *string)
{
    char *resolved = malloc(string->length + 1);
    require(resolved != NULL && string->length <= string->raw_length);
    tp_json_string_copy(string, resolved);
    resolved[string->length] = '\0';
    bool whole = strlen(resolved) == string->length;
    require(tp_json_string_equals(string, resolved) == whole);
    free(resolved);
}

static int walk_value(struct tp_json *json);

/* The reader does not recurse; a test may, since the depth is bounded. */
static int walk_container(struct tp_json *json, bool object)
{
    bool first = true, more = true;
    int rc = object ? tp_json_enter_object(json) : tp_json_enter_array(json);
    while (rc == 0) {
        struct tp_json_string key = {"", 0, 0};
        rc = object ? tp_json_object_next(json, &first, &key, &more)
                    : tp_json_array_next(json, &first, &more);
        if (rc != 0 || !more)
            break;
        check_string(&key);
        rc = walk_value(json);
    }
    return rc;
}

static int walk_value(struct tp_json *json)
{
    enum tp_json_kind kind;
    int rc = tp_json_peek(json, &kind);
    if (rc != 0)
        return rc;
    if (kind == TP_JSON_OBJECT || kind == TP_JSON_ARRAY)
        return walk_container(json, kind == TP_JSON_OBJECT);
    if (kind == TP_JSON_STRING) {
        struct tp_json_string string;
        rc = tp_json_string(json, &string);
        if (rc == 0)
            check_string(&string);
        return rc;
    }
    struct tp_json copy = *json;
    copy.error = NULL;
    uint64_t value;
    rc = tp_json_skip(json);
    if (tp_json_unsigned(&copy, &value) == 0)
        require(rc == 0 && copy.at == json->at);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tp_error error = {""};
    struct tp_json skipped, walked;
    tp_json_init(&skipped, (const char *)data, size, &error);
    int rc = tp_json_skip(&skipped);
    require((rc == 0) == (error.text[0] == '\0'));
    tp_json_init(&walked, (const char *)data, size, NULL);
    require(walk_value(&walked) == rc);
    require(rc != 0 || (walked.at == skipped.at && skipped.depth == 0));
    require(tp_json_end(&walked) == tp_json_end(&skipped));
    return 0;
}
