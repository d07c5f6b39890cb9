/* Any bytes as JSON to edit: what is no object is refused and stays as it was; in an object a
 * member that was set is found, and one that was removed is not; and it stays JSON. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"
#include "fs/export/convert/json_edit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

static bool is_object(const struct tp_json_text *text)
{
    struct tp_json json;
    enum tp_json_kind kind;
    tp_json_init(&json, text->bytes, text->length, NULL);
    return tp_json_peek(&json, &kind) == 0 && kind == TP_JSON_OBJECT && tp_json_skip(&json) == 0 &&
           tp_json_end(&json) == 0;
}

static void check_key(const uint8_t *data, size_t size, const char *key)
{
    static const char value[] = "[\"new\", 1]";
    struct tp_json_text text = {malloc(size + 1), size};
    struct tp_json_member member;
    require(text.bytes != NULL);
    memcpy(text.bytes, data, size);
    text.bytes[size] = '\0';
    bool valid = is_object(&text);

    int rc = tp_json_edit_set(&text, key, value);
    require(rc == (valid ? 0 : -EINVAL));
    if (valid) {
        require(is_object(&text) && tp_json_edit_find(&text, key, &member) == 0);
        require(member.end - member.value == strlen(value) &&
                memcmp(text.bytes + member.value, value, strlen(value)) == 0);
    }
    rc = tp_json_edit_remove(&text, key);
    require(rc == (valid ? 0 : -EINVAL));
    if (valid)
        require(is_object(&text) && tp_json_edit_find(&text, key, &member) == -ENOENT);
    else
        require(text.length == size && memcmp(text.bytes, data, size) == 0);
    free(text.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const keys[] = {"a", "", "dtype", "quantization_config"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        check_key(data, size, keys[i]);
    return 0;
}
