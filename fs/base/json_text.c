#include "fs/base/json_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cJSON *tp_json_unsigned_item(uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    return cJSON_CreateRaw(text);
}

/* Length of the valid UTF-8 character at `text`, or 0 (Unicode 15, table 3-7). */
static size_t character_length(const unsigned char *text, size_t length)
{
    if (text[0] < 0x80)
        return 1;
    size_t n = text[0] >= 0xF0 ? 4 : text[0] >= 0xE0 ? 3 : 2;
    if (text[0] < 0xC2 || text[0] > 0xF4 || n > length)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    }
    if ((text[0] == 0xE0 && text[1] < 0xA0) || (text[0] == 0xED && text[1] > 0x9F) ||
        (text[0] == 0xF0 && text[1] < 0x90) || (text[0] == 0xF4 && text[1] > 0x8F))
        return 0;
    return n;
}

cJSON *tp_json_text_item(const char *text, size_t length)
{
    char *quoted = malloc(6 * length + 3); /* the longest escape is \u00NN */
    if (quoted == NULL)
        return NULL;
    char *to = quoted;
    *to++ = '"';
    for (size_t i = 0; i < length;) {
        unsigned char c = (unsigned char)text[i];
        size_t n = character_length((const unsigned char *)text + i, length - i);
        if (n == 0) {
            to += sprintf(to, "\xEF\xBF\xBD");
            n = 1;
        } else if (c < 0x20 || c == 0x7F) {
            to += sprintf(to, "\\u%04x", c);
        } else if (c == '"' || c == '\\') {
            *to++ = '\\';
            *to++ = (char)c;
        } else {
            memcpy(to, text + i, n);
            to += n;
        }
        i += n;
    }
    *to++ = '"';
    *to = '\0';
    cJSON *item = cJSON_CreateRaw(quoted);
    free(quoted);
    return item;
}

void tp_json_add_unsigned(cJSON *object, const char *key, uint64_t value)
{
    cJSON_AddItemToObject(object, key, tp_json_unsigned_item(value));
}

void tp_json_add_text(cJSON *object, const char *key, const char *text, size_t length)
{
    cJSON_AddItemToObject(object, key, tp_json_text_item(text, length));
}
