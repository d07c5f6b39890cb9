#include "infer/cli/print.h"

#include <stdio.h>

#include "fs/base/json_text.h"

/* Much faster than printf, which would take longer than making the tokens. */
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

static void print_list(const struct tp_ids *ids, const char *separator)
{
    char block[4096] = "";
    size_t n = 0;
    for (size_t i = 0; i < ids->n; i++) {
        if (sizeof block - n < 16) {
            fwrite(block, 1, n, stdout);
            n = 0;
        }
        for (const char *c = separator; i > 0 && *c != '\0'; c++)
            block[n++] = *c;
        n += write_number(ids->items[i], block + n);
    }
    fwrite(block, 1, n, stdout);
}

void tp_print_ids(const struct tp_ids *ids, bool as_json)
{
    fputs(as_json ? "{\"tokens\": [" : "", stdout);
    print_list(ids, as_json ? ", " : " ");
    fputs(as_json ? "]}\n" : "\n", stdout);
}

static void print_string(const struct tp_buffer *text)
{
    cJSON *item = tp_json_text_item(text->bytes != NULL ? text->bytes : "", text->length);
    fputs(item != NULL ? item->valuestring : "null", stdout);
    cJSON_Delete(item);
}

void tp_print_ids_and_text(const struct tp_ids *ids, const struct tp_buffer *text)
{
    fputs("{\"tokens\": [", stdout);
    print_list(ids, ", ");
    fputs("], \"text\": ", stdout);
    print_string(text);
    fputs("}\n", stdout);
}

void tp_print_text_json(const struct tp_buffer *text, const char *key)
{
    if (key != NULL)
        printf("{\"%s\": ", key);
    print_string(text);
    fputs(key != NULL ? "}\n" : "\n", stdout);
}
