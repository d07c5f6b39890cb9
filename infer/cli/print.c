#include "infer/cli/print.h"

#include <stdio.h>
#include <string.h>

#include "fs/base/json_text.h"

/* Two orders of magnitude faster than printf, which matters for megabytes of text. */
static size_t write_number(uint32_t number, char *target)
{
    char digits[10];
    size_t n = 0;
    do
        digits[n++] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    for (size_t i = 0; i < n; i++)
        target[i] = digits[n - 1 - i];
    return n;
}

void tp_print_ids(const struct tp_ids *ids, bool as_json)
{
    char block[4096] = "";
    size_t n = 0;
    fputs(as_json ? "{\"tokens\": [" : "", stdout);
    for (size_t i = 0; i < ids->n; i++) {
        if (sizeof block - n < 16) {
            fwrite(block, 1, n, stdout);
            n = 0;
        }
        if (i > 0 && as_json)
            block[n++] = ',';
        if (i > 0)
            block[n++] = ' ';
        n += write_number(ids->items[i], block + n);
    }
    fwrite(block, 1, n, stdout);
    fputs(as_json ? "]}\n" : "\n", stdout);
}

void tp_print_text_json(const struct tp_buffer *text, const char *key)
{
    cJSON *item = tp_json_text_item(text->bytes != NULL ? text->bytes : "", text->length);
    if (item == NULL)
        return;
    if (key != NULL)
        printf("{\"%s\": %s}\n", key, item->valuestring);
    else
        printf("%s\n", item->valuestring);
    cJSON_Delete(item);
}
