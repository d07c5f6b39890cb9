#include "fs/export/common/json_print.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_value(FILE *stream, const cJSON *item, int depth);

/* Escapes only what JSON demands: ensure_ascii=False. */
static void print_string(FILE *stream, const char *text)
{
    static const char short_escapes[] = "\"\"\\\\\bb\ff\nn\rr\tt";

    fputc('"', stream);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        const char *escape = NULL;
        for (size_t i = 0; i + 1 < sizeof short_escapes; i += 2) {
            if (short_escapes[i] == *text)
                escape = &short_escapes[i + 1];
        }
        if (escape != NULL)
            fprintf(stream, "\\%c", *escape);
        else if (c < 0x20)
            fprintf(stream, "\\u%04x", c);
        else
            fputc(c, stream);
    }
    fputc('"', stream);
}

static void print_number(FILE *stream, double number)
{
    char text[TP_JSON_REAL_SIZE];

    if (number == floor(number) && fabs(number) <= 0x1p53) {
        fprintf(stream, "%.0f", number);
    } else {
        tp_json_real_text(number, text);
        fputs(text, stream);
    }
}

static void print_members(FILE *stream, const cJSON *item, int depth)
{
    const cJSON *member;

    cJSON_ArrayForEach(member, item)
    {
        fprintf(stream, "\n%*s", 2 * (depth + 1), "");
        if (cJSON_IsObject(item)) {
            print_string(stream, member->string);
            fputs(": ", stream);
        }
        print_value(stream, member, depth + 1);
        if (member->next != NULL)
            fputc(',', stream);
    }
    if (item->child != NULL)
        fprintf(stream, "\n%*s", 2 * depth, "");
}

static void print_value(FILE *stream, const cJSON *item, int depth)
{
    if (cJSON_IsObject(item) || cJSON_IsArray(item)) {
        fputc(cJSON_IsObject(item) ? '{' : '[', stream);
        print_members(stream, item, depth);
        fputc(cJSON_IsObject(item) ? '}' : ']', stream);
    } else if (cJSON_IsString(item)) {
        print_string(stream, item->valuestring);
    } else if (cJSON_IsRaw(item)) {
        fputs(item->valuestring, stream);
    } else if (cJSON_IsNumber(item)) {
        print_number(stream, item->valuedouble);
    } else {
        fputs(cJSON_IsTrue(item) ? "true" : cJSON_IsFalse(item) ? "false" : "null", stream);
    }
}

char *tp_json_print(const cJSON *tree)
{
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    if (stream == NULL)
        return NULL;
    print_value(stream, tree, 0);
    fputc('\n', stream);
    if (fclose(stream) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

enum { DIGITS_SIZE = 32 }; /* 17 digits, a point, an exponent */

/* The significant digits of `number`, without zeros at the end; the value is
 * 0.DIGITS * 10^*ret_point. The first precision that reads back is the shortest. */
static void shortest_digits(double number, char ret_digits[DIGITS_SIZE], int *ret_point)
{
    char text[DIGITS_SIZE];
    int precision = 0;

    do
        snprintf(text, sizeof text, "%.*e", precision, number);
    while (precision++ < 16 && strtod(text, NULL) != number);

    char *digit = ret_digits;
    const char *at = text;
    for (; *at != 'e'; at++) { /* the point may be a comma: the locale's */
        if (*at >= '0' && *at <= '9')
            *digit++ = *at;
    }
    *digit = '\0';
    *ret_point = atoi(at + 1) + 1;
}

void tp_json_real_text(double number, char ret_text[TP_JSON_REAL_SIZE])
{
    char digits[DIGITS_SIZE];
    int point;
    shortest_digits(fabs(number), digits, &point);
    int n = (int)strlen(digits);
    const char *sign = signbit(number) ? "-" : "";

    /* The bounds at which Python changes to an exponent. */
    if (point <= -4 || point > 16)
        snprintf(ret_text, TP_JSON_REAL_SIZE, "%s%.1s%s%se%+03d", sign, digits, n > 1 ? "." : "",
                 digits + 1, point - 1);
    else if (point <= 0)
        snprintf(ret_text, TP_JSON_REAL_SIZE, "%s0.%.*s%s", sign, -point, "0000", digits);
    else if (n <= point)
        snprintf(ret_text, TP_JSON_REAL_SIZE, "%s%s%.*s.0", sign, digits, point - n,
                 "0000000000000000");
    else
        snprintf(ret_text, TP_JSON_REAL_SIZE, "%s%.*s.%s", sign, point, digits, digits + point);
}
