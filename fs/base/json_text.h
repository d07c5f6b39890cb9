/* What cJSON cannot say by itself: integers of 64 bits, and strings that contain NUL or are
 * not valid UTF-8 (file names may be anything; such bytes come out as U+FFFD). */
#ifndef TENSORPORT_FS_BASE_JSON_TEXT_H
#define TENSORPORT_FS_BASE_JSON_TEXT_H

#include <cjson/cJSON.h>
#include <stddef.h>
#include <stdint.h>

/* New items, or NULL when there is no memory; the caller's. */
cJSON *tp_json_unsigned_item(uint64_t value);
cJSON *tp_json_text_item(const char *text, size_t length);

/* Adds them to an object; nothing happens when there is no memory, or `object` is NULL. */
void tp_json_add_unsigned(cJSON *object, const char *key, uint64_t value);
void tp_json_add_text(cJSON *object, const char *key, const char *text, size_t length);

#endif
