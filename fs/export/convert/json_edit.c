#include "fs/export/convert/json_edit.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Offset of what follows white space, and of the end of what is before it. */
static size_t skip_space(const struct tp_json_text *text, size_t at)
{
    while (at < text->length && is_space(text->bytes[at]))
        at++;
    return at;
}

static size_t trim_space(const struct tp_json_text *text, size_t end)
{
    while (end > 0 && is_space(text->bytes[end - 1]))
        end--;
    return end;
}

/* Takes the next member apart. */
static int next_member(const struct tp_json_text *text, struct tp_json *json, bool *first,
                       struct tp_json_string *ret_key, struct tp_json_member *ret_member,
                       bool *ret_more)
{
    int rc = tp_json_object_next(json, first, ret_key, ret_more);
    if (rc < 0 || !*ret_more)
        return rc;
    ret_member->begin = (size_t)(ret_key->raw - text->bytes) - 1;
    ret_member->value = skip_space(text, json->at);
    rc = tp_json_skip(json);
    ret_member->end = trim_space(text, json->at);
    return rc;
}

/* `wanted` NULL: the last member, whatever its name. */
static int find(const struct tp_json_text *text, const char *wanted,
                struct tp_json_member *ret_member)
{
    struct tp_json json;
    struct tp_json_string key;
    struct tp_json_member member, found = {0};
    size_t n = 0, n_found = 0, previous_end = 0; /* counted from 1 */
    bool first = true, more;
    tp_json_init(&json, text->bytes, text->length, NULL);
    int rc = tp_json_enter_object(&json);
    while (rc == 0 && (rc = next_member(text, &json, &first, &key, &member, &more)) == 0 && more) {
        n++;
        if (n_found > 0 && n == n_found + 1)
            found.next_begin = member.begin;
        if (wanted == NULL || tp_json_string_equals(&key, wanted)) {
            found = member;
            found.previous_end = previous_end;
            found.next_begin = 0;
            n_found = n;
        }
        previous_end = member.end;
    }
    if (rc == 0)
        rc = tp_json_end(&json);
    if (rc < 0)
        return rc;
    if (n_found == 0)
        return -ENOENT;
    *ret_member = found;
    return 0;
}

int tp_json_edit_find(const struct tp_json_text *text, const char *key,
                      struct tp_json_member *ret_member)
{
    return find(text, key, ret_member);
}

/* Puts `piece` in the place of [begin, end). */
static int replace(struct tp_json_text *text, size_t begin, size_t end, const char *piece)
{
    size_t length = text->length - (end - begin) + strlen(piece);
    char *bytes = malloc(length + 1);
    if (bytes == NULL)
        return -ENOMEM;
    memcpy(bytes, text->bytes, begin);
    memcpy(bytes + begin, piece, strlen(piece));
    memcpy(bytes + begin + strlen(piece), text->bytes + end, text->length - end);
    bytes[length] = '\0';
    free(text->bytes);
    *text = (struct tp_json_text){bytes, length};
    return 0;
}

int tp_json_edit_remove(struct tp_json_text *text, const char *key)
{
    struct tp_json_member member;
    int rc;
    while ((rc = find(text, key, &member)) == 0) {
        if (member.previous_end > 0) /* with the comma before it */
            rc = replace(text, member.previous_end, member.end, "");
        else
            rc = replace(text, member.begin, member.next_begin > 0 ? member.next_begin : member.end,
                         "");
        if (rc < 0)
            return rc;
    }
    return rc == -ENOENT ? 0 : rc;
}

/* At the end, with the white space that the last member has before it. */
static int add(struct tp_json_text *text, const char *key, const char *value)
{
    struct tp_json_member last;
    char *piece;
    int rc = find(text, NULL, &last);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    size_t at = rc == 0 ? last.end : skip_space(text, 0) + 1;
    size_t space = rc == 0 ? last.begin - trim_space(text, last.begin) : 0;
    if (asprintf(&piece, "%s%.*s\"%s\": %s", rc == 0 ? "," : "", (int)space,
                 text->bytes + (rc == 0 ? last.begin - space : 0), key, value) < 0)
        return -ENOMEM;
    rc = replace(text, at, at, piece);
    free(piece);
    return rc;
}

int tp_json_edit_set(struct tp_json_text *text, const char *key, const char *value)
{
    struct tp_json_member member;
    int rc = find(text, key, &member);
    if (rc == -ENOENT)
        return add(text, key, value);
    return rc < 0 ? rc : replace(text, member.value, member.end, value);
}
