#include "infer/tokenizer/members.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_names[] = {
    [TP_JSON_NULL] = "null",       [TP_JSON_BOOLEAN] = "a boolean", [TP_JSON_NUMBER] = "a number",
    [TP_JSON_STRING] = "a string", [TP_JSON_ARRAY] = "an array",    [TP_JSON_OBJECT] = "an object",
};

static size_t find_name(const char *const *names, const struct tp_json_string *key)
{
    size_t i = 0;
    while (names[i] != NULL && !tp_json_string_equals(key, names[i]))
        i++;
    return i;
}

static int expect_object(struct tp_json *at, const char *path)
{
    enum tp_json_kind kind;
    int rc = tp_json_peek(at, &kind);
    if (rc < 0)
        return rc;
    if (kind != TP_JSON_OBJECT)
        return tp_error_set(at->error, -EINVAL, "%s: expected an object, found %s",
                            path[0] != '\0' ? path : "the file", kind_names[kind]);
    return tp_json_enter_object(at);
}

/* Moves the cursor behind the object. */
static int read_members(struct tp_members *members, struct tp_json *at, const char *path,
                        const char *const *names)
{
    struct tp_json_string key;
    enum tp_json_kind kind;
    bool first = true, more = true;
    members->names = names;
    members->error = at->error;
    memset(members->present, 0, sizeof members->present);
    memset(members->is_null, 0, sizeof members->is_null);
    snprintf(members->path, sizeof members->path, "%s", path);
    int rc = expect_object(at, path);
    while (rc == 0 && (rc = tp_json_object_next(at, &first, &key, &more)) == 0 && more) {
        size_t i = find_name(names, &key);
        rc = tp_json_peek(at, &kind);
        if (rc == 0 && names[i] != NULL) {
            members->values[i] = *at;
            members->present[i] = kind != TP_JSON_NULL;
            members->is_null[i] = kind == TP_JSON_NULL;
        }
        if (rc == 0)
            rc = tp_json_skip(at);
    }
    return rc;
}

int tp_members_read(struct tp_members *members, const struct tp_json *object, const char *path,
                    const char *const *names)
{
    struct tp_json at = *object;
    return read_members(members, &at, path, names);
}

int tp_members_read_whole(struct tp_members *members, const struct tp_json *text,
                          const char *const *names)
{
    struct tp_json at = *text;
    int rc = read_members(members, &at, "", names);
    return rc < 0 ? rc : tp_json_end(&at);
}

void tp_members_path(const struct tp_members *members, size_t i, char ret_path[TP_MEMBER_PATH_MAX])
{
    int n = snprintf(ret_path, TP_MEMBER_PATH_MAX, "%s%s%s", members->path,
                     members->path[0] != '\0' ? "." : "", members->names[i]);
    if (n >= TP_MEMBER_PATH_MAX) /* nested deeper than anything sensible: the name says most */
        snprintf(ret_path, TP_MEMBER_PATH_MAX, "%s", members->names[i]);
}

/* What stands there, for a message: a short string as it is. */
static void describe(const struct tp_members *members, size_t i, char target[80])
{
    struct tp_json at = members->values[i];
    enum tp_json_kind kind;
    struct tp_json_string text;
    at.error = NULL;
    if (!members->present[i])
        snprintf(target, 80, "nothing");
    else if (tp_json_peek(&at, &kind) < 0)
        snprintf(target, 80, "no value");
    else if (kind == TP_JSON_STRING && tp_json_string(&at, &text) == 0 && text.raw_length <= 60)
        snprintf(target, 80, "\"%.*s\"", (int)text.raw_length, text.raw);
    else
        snprintf(target, 80, "%s", kind_names[kind]);
}

int tp_members_mistake(const struct tp_members *members, size_t i, const char *what)
{
    char path[TP_MEMBER_PATH_MAX], found[80];
    tp_members_path(members, i, path);
    describe(members, i, found);
    return tp_error_set(members->error, -EINVAL, "%s: expected %s, found %s", path, what, found);
}

static bool has_kind(const struct tp_members *members, size_t i, enum tp_json_kind wanted)
{
    struct tp_json at = members->values[i];
    enum tp_json_kind kind;
    return members->present[i] && tp_json_peek(&at, &kind) == 0 && kind == wanted;
}

int tp_members_text(const struct tp_members *members, size_t i, char **ret_text, size_t *ret_length)
{
    struct tp_json at = members->values[i];
    struct tp_json_string string;
    if (!has_kind(members, i, TP_JSON_STRING))
        return tp_members_mistake(members, i, "a string");
    int rc = tp_json_string(&at, &string);
    if (rc < 0)
        return rc;
    char *text = malloc(string.length + 1);
    if (text == NULL)
        return -ENOMEM;
    tp_json_string_copy(&string, text);
    text[string.length] = '\0';
    *ret_text = text;
    *ret_length = string.length;
    return 0;
}

int tp_members_choice(const struct tp_members *members, size_t i, const char *const *choices,
                      size_t *ret_index)
{
    struct tp_json at = members->values[i];
    struct tp_json_string string;
    char list[256] = "one of ";
    for (size_t k = 0; choices[k] != NULL; k++) {
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", k == 0 ? "" : ", ", choices[k]);
    }
    if (!has_kind(members, i, TP_JSON_STRING))
        return tp_members_mistake(members, i, list);
    int rc = tp_json_string(&at, &string);
    if (rc < 0)
        return rc;
    size_t k = find_name(choices, &string);
    if (choices[k] == NULL)
        return tp_members_mistake(members, i, list);
    *ret_index = k;
    return 0;
}

int tp_members_flag(const struct tp_members *members, size_t i, bool otherwise, bool *ret_flag)
{
    struct tp_json at = members->values[i];
    enum tp_json_kind kind;
    if (!members->present[i]) {
        *ret_flag = otherwise;
        return 0;
    }
    if (!has_kind(members, i, TP_JSON_BOOLEAN))
        return tp_members_mistake(members, i, "true or false");
    int rc = tp_json_peek(&at, &kind); /* steps over white space */
    if (rc == 0)
        *ret_flag = at.text[at.at] == 't';
    return rc;
}

int tp_members_number(const struct tp_members *members, size_t i, uint64_t *ret_number)
{
    struct tp_json at = members->values[i];
    at.error = NULL;
    if (!has_kind(members, i, TP_JSON_NUMBER) || tp_json_unsigned(&at, ret_number) < 0)
        return tp_members_mistake(members, i, "a whole number");
    return 0;
}
