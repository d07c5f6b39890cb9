/* Function definitions as TypeScript: how harmony shows a model its tools. The rules are those of
 * openai-harmony; what a schema says that they do not know becomes "any". */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "infer/chat/harmony.h"
#include "infer/tokenizer/members.h"

enum {
    TYPE,
    DESCRIPTION,
    PROPERTIES,
    REQUIRED,
    ITEMS,
    ENUM,
    ONE_OF,
    NULLABLE,
    DEFAULT,
    TITLE,
    EXAMPLES,
};
static const char *const schema_names[] = {"type",    "description", "properties", "required",
                                           "items",   "enum",        "oneOf",      "nullable",
                                           "default", "title",       "examples",   NULL};

/* The text that grows; the first error stops it. */
struct writer {
    struct tp_buffer *out;
    int rc;
};

static void put(struct writer *writer, const char *text)
{
    if (writer->rc == 0)
        writer->rc = tp_buffer_append_text(writer->out, text);
}

static void put_indent(struct writer *writer, size_t indent)
{
    while (indent-- > 0)
        put(writer, " ");
}

static void put_string(struct writer *writer, const struct tp_json_string *string)
{
    if (writer->rc == 0)
        writer->rc = tp_buffer_reserve(writer->out, string->length);
    if (writer->rc < 0)
        return;
    tp_json_string_copy(string, writer->out->bytes + writer->out->length);
    writer->out->length += string->length;
}

/* A value that is a string. */
static bool get_string(const struct tp_json *value, struct tp_json_string *ret_string)
{
    struct tp_json at = *value;
    enum tp_json_kind kind;
    return tp_json_peek(&at, &kind) == 0 && kind == TP_JSON_STRING &&
           tp_json_string(&at, ret_string) == 0;
}

static bool get_member_string(const struct tp_members *schema, size_t i,
                              struct tp_json_string *ret_string)
{
    return schema->present[i] && get_string(&schema->values[i], ret_string);
}

/* Enters a member that is an array. */
static bool enter_array(const struct tp_members *schema, size_t i, struct tp_json *ret_at)
{
    struct tp_json at = schema->values[i];
    enum tp_json_kind kind;
    if (!schema->present[i] || tp_json_peek(&at, &kind) < 0 || kind != TP_JSON_ARRAY ||
        tp_json_enter_array(&at) < 0)
        return false;
    *ret_at = at;
    return true;
}

static bool next_element(struct tp_json *at, bool *first)
{
    bool more = false;
    return tp_json_array_next(at, first, &more) == 0 && more;
}

/* Any other value than a string, without the white space between its parts. */
static void put_value(struct writer *writer, const struct tp_json *value)
{
    struct tp_json at = *value;
    enum tp_json_kind kind;
    bool in_string = false;
    writer->rc = writer->rc == 0 ? tp_json_peek(&at, &kind) : writer->rc;
    size_t begin = at.at;
    writer->rc = writer->rc == 0 ? tp_json_skip(&at) : writer->rc;
    for (size_t i = begin; writer->rc == 0 && i < at.at; i++) {
        char c = at.text[i];
        if (c == '"')
            in_string = !in_string;
        else if (in_string && c == '\\')
            writer->rc = tp_buffer_append(writer->out, &at.text[i++], 1);
        if (writer->rc == 0 && (in_string || memchr(" \t\r\n", c, 4) == NULL))
            writer->rc = tp_buffer_append(writer->out, &at.text[i], 1);
    }
}

/* False if the value is no object: then nothing is known of it. */
static bool read_schema(struct tp_members *schema, const struct tp_json *json)
{
    struct tp_json at = *json;
    enum tp_json_kind kind;
    at.error = NULL;
    return tp_json_peek(&at, &kind) == 0 && kind == TP_JSON_OBJECT &&
           tp_members_read(schema, &at, "", schema_names) == 0;
}

static bool has_enum(const struct tp_members *schema)
{
    struct tp_json at;
    bool first = true;
    return enter_array(schema, ENUM, &at) && next_element(&at, &first);
}

/* null is a default like any other. */
static bool has_default(const struct tp_members *schema)
{
    return schema->present[DEFAULT] || schema->is_null[DEFAULT];
}

/* "default: ..."; `bare`: a choice is shown without quotes. */
static void put_default(struct writer *writer, const struct tp_members *schema, bool bare)
{
    struct tp_json_string text;
    bool quoted = !bare || !has_enum(schema);
    put(writer, "default: ");
    if (!get_member_string(schema, DEFAULT, &text)) {
        put_value(writer, &schema->values[DEFAULT]);
        return;
    }
    put(writer, quoted ? "\"" : "");
    put_string(writer, &text);
    put(writer, quoted ? "\"" : "");
}

static void put_comment(struct writer *writer, size_t indent, const struct tp_json_string *text)
{
    put_indent(writer, indent);
    put(writer, "// ");
    put_string(writer, text);
    put(writer, "\n");
}

static void put_schema(struct writer *writer, const struct tp_json *json, size_t indent);

/* A type, with "| null" if it may be that and does not say so. */
static void put_nullable(struct writer *writer, const struct tp_members *schema,
                         const struct tp_json *json, size_t indent)
{
    size_t begin = writer->out->length;
    bool nullable = false;
    put_schema(writer, json, indent);
    if (writer->rc == 0 && tp_members_flag(schema, NULLABLE, false, &nullable) == 0 && nullable &&
        memmem(writer->out->bytes + begin, writer->out->length - begin, "null", 4) == NULL)
        put(writer, " | null");
}

/* One alternative of oneOf with what is said of it. `above` is what was said of all: not again. */
static void put_variant(struct writer *writer, const struct tp_json *json, size_t indent,
                        const struct tp_json_string *above, bool no_description, bool bare)
{
    struct tp_members variant;
    struct tp_json_string text;
    if (!read_schema(&variant, json)) {
        put(writer, "any");
        return;
    }
    put_nullable(writer, &variant, json, indent + 3);
    bool described = !no_description && get_member_string(&variant, DESCRIPTION, &text) &&
                     (above == NULL || above->raw_length != text.raw_length ||
                      memcmp(above->raw, text.raw, text.raw_length) != 0);
    if (described || has_default(&variant))
        put(writer, " // ");
    if (described)
        put_string(writer, &text);
    if (described && has_default(&variant))
        put(writer, " ");
    if (has_default(&variant))
        put_default(writer, &variant, bare);
}

static void put_alternatives(struct writer *writer, struct tp_json at, size_t indent)
{
    bool first = true;
    while (writer->rc == 0 && next_element(&at, &first)) {
        put(writer, "\n");
        put_indent(writer, indent);
        put(writer, " | ");
        put_variant(writer, &at, indent, NULL, false, false);
        writer->rc = writer->rc == 0 ? tp_json_skip(&at) : writer->rc;
    }
}

/* ---- objects */

struct property {
    struct tp_json_string key;
    struct tp_json json;
    struct tp_members schema;
    bool known; /* the schema is an object */
    bool required;
    size_t indent;
};

static void put_key(struct writer *writer, const struct property *property, const char *after)
{
    put_indent(writer, property->indent);
    put_string(writer, &property->key);
    put(writer, property->required ? "" : "?");
    put(writer, after);
}

static void put_title_and_examples(struct writer *writer, const struct property *property)
{
    struct tp_json_string text;
    struct tp_json at;
    bool first = true;
    if (get_member_string(&property->schema, TITLE, &text)) {
        put_comment(writer, property->indent, &text);
        put_indent(writer, property->indent);
        put(writer, "//\n");
    }
    if (!property->schema.present[ONE_OF] &&
        get_member_string(&property->schema, DESCRIPTION, &text))
        put_comment(writer, property->indent, &text);
    if (!enter_array(&property->schema, EXAMPLES, &at))
        return;
    for (size_t i = 0; writer->rc == 0 && next_element(&at, &first); i++) {
        if (i == 0) {
            put_indent(writer, property->indent);
            put(writer, "// Examples:\n");
        }
        if (get_string(&at, &text)) {
            put_indent(writer, property->indent);
            put(writer, "// - \"");
            put_string(writer, &text);
            put(writer, "\"\n");
        }
        writer->rc = writer->rc == 0 ? tp_json_skip(&at) : writer->rc;
    }
}

/* A property that is one of several: an alternative a line. */
static void put_one_of(struct writer *writer, const struct property *property, struct tp_json at)
{
    struct tp_json_string above, of_first;
    struct tp_members variant;
    struct tp_json peek = at;
    bool first = true, peek_first = true;
    bool has_above = get_member_string(&property->schema, DESCRIPTION, &above);
    bool repeats = has_above && next_element(&peek, &peek_first) && read_schema(&variant, &peek) &&
                   get_member_string(&variant, DESCRIPTION, &of_first) &&
                   of_first.raw_length == above.raw_length &&
                   memcmp(of_first.raw, above.raw, above.raw_length) == 0;
    bool shown = has_above && !repeats;
    if (shown)
        put_comment(writer, property->indent, &above);
    if (has_default(&property->schema)) {
        put_indent(writer, property->indent);
        put(writer, "// ");
        put_default(writer, &property->schema, true);
        put(writer, "\n");
    }
    put_key(writer, property, ":\n");
    for (size_t i = 0; writer->rc == 0 && next_element(&at, &first); i++) {
        put_indent(writer, property->indent);
        put(writer, " | ");
        put_variant(writer, &at, property->indent, has_above ? &above : NULL, i == 0 && shown,
                    true);
        put(writer, "\n");
        writer->rc = writer->rc == 0 ? tp_json_skip(&at) : writer->rc;
    }
    put_indent(writer, property->indent);
    put(writer, ",\n");
}

static void put_property(struct writer *writer, const struct property *property)
{
    struct tp_json variants;
    if (property->known) {
        put_title_and_examples(writer, property);
        if (enter_array(&property->schema, ONE_OF, &variants)) {
            put_one_of(writer, property, variants);
            return;
        }
    }
    put_key(writer, property, ": ");
    if (property->known)
        put_nullable(writer, &property->schema, &property->json, property->indent + 4);
    else
        put(writer, "any");
    put(writer, ",");
    if (property->known && !property->schema.present[ONE_OF] && has_default(&property->schema)) {
        put(writer, " // ");
        put_default(writer, &property->schema, true);
    }
    put(writer, "\n");
}

static bool is_required(const struct tp_members *schema, const struct tp_json_string *key)
{
    struct tp_json at;
    struct tp_json_string name;
    bool first = true, found = false;
    if (!enter_array(schema, REQUIRED, &at))
        return false;
    while (!found && next_element(&at, &first)) {
        found = get_string(&at, &name) && name.raw_length == key->raw_length &&
                memcmp(name.raw, key->raw, key->raw_length) == 0;
        if (tp_json_skip(&at) < 0)
            break;
    }
    return found;
}

static void put_object(struct writer *writer, const struct tp_members *schema, size_t indent)
{
    struct tp_json_string text;
    struct tp_json at = schema->values[PROPERTIES];
    enum tp_json_kind kind;
    bool first = true, more = true;
    if (get_member_string(schema, DESCRIPTION, &text))
        put_comment(writer, indent, &text);
    put(writer, "{\n");
    bool has_properties = schema->present[PROPERTIES] && tp_json_peek(&at, &kind) == 0 &&
                          kind == TP_JSON_OBJECT && tp_json_enter_object(&at) == 0;
    while (has_properties && writer->rc == 0) {
        struct property property = {.indent = indent};
        writer->rc = tp_json_object_next(&at, &first, &property.key, &more);
        if (writer->rc < 0 || !more)
            break;
        property.json = at;
        property.known = read_schema(&property.schema, &at);
        property.required = is_required(schema, &property.key);
        put_property(writer, &property);
        writer->rc = writer->rc == 0 ? tp_json_skip(&at) : writer->rc;
    }
    put_indent(writer, indent);
    put(writer, "}");
}

/* ---- types */

/* Joins the strings of an array with " | "; false if there is none. */
static bool put_choices(struct writer *writer, struct tp_json at, const char *quote, bool is_type)
{
    struct tp_json_string text;
    bool first = true, any = false;
    while (writer->rc == 0 && next_element(&at, &first)) {
        if (get_string(&at, &text)) {
            put(writer, any ? " | " : "");
            put(writer, quote);
            if (is_type && tp_json_string_equals(&text, "integer"))
                put(writer, "number");
            else
                put_string(writer, &text);
            put(writer, quote);
            any = true;
        }
        writer->rc = writer->rc == 0 ? tp_json_skip(&at) : writer->rc;
    }
    return any;
}

static void put_named_type(struct writer *writer, const struct tp_members *schema,
                           const struct tp_json_string *type, size_t indent)
{
    struct tp_json at;
    if (tp_json_string_equals(type, "object")) {
        put_object(writer, schema, indent);
    } else if (tp_json_string_equals(type, "string")) {
        if (!enter_array(schema, ENUM, &at) || !put_choices(writer, at, "\"", false))
            put(writer, "string");
    } else if (tp_json_string_equals(type, "number") || tp_json_string_equals(type, "integer")) {
        put(writer, "number");
    } else if (tp_json_string_equals(type, "boolean")) {
        put(writer, "boolean");
    } else if (tp_json_string_equals(type, "array") && schema->present[ITEMS]) {
        put_schema(writer, &schema->values[ITEMS], indent);
        put(writer, "[]");
    } else {
        put(writer, tp_json_string_equals(type, "array") ? "Array<any>" : "any");
    }
}

/* As deep as the reader lets values lie in one another. */
static void put_schema(struct writer *writer, const struct tp_json *json, size_t indent)
{
    struct tp_members schema;
    struct tp_json at;
    struct tp_json_string type;
    bool known = read_schema(&schema, json);
    if (known && enter_array(&schema, ONE_OF, &at))
        put_alternatives(writer, at, indent);
    else if (known && enter_array(&schema, TYPE, &at) && put_choices(writer, at, "", true))
        return;
    else if (known && get_member_string(&schema, TYPE, &type))
        put_named_type(writer, &schema, &type, indent);
    else
        put(writer, "any");
}

/* ---- the section */

/* Each line behind "// ". */
static void put_description(struct writer *writer, const char *text)
{
    while (*text != '\0') {
        size_t length = strcspn(text, "\n");
        size_t shown = length > 0 && text[length - 1] == '\r' ? length - 1 : length;
        put(writer, "// ");
        if (writer->rc == 0)
            writer->rc = tp_buffer_append(writer->out, text, shown);
        put(writer, "\n");
        text += length + (text[length] == '\n');
    }
}

static int put_tool(struct writer *writer, const struct tp_json *json)
{
    enum { NAME, TOOL_DESCRIPTION, PARAMETERS, FUNCTION };
    static const char *const names[] = {"name", "description", "parameters", "function", NULL};
    struct tp_members tool;
    char *name = NULL, *description = NULL;
    size_t length;
    int rc = tp_members_read(&tool, json, "tools[]", names);
    if (rc == 0 && tool.present[FUNCTION]) {
        struct tp_json inner = tool.values[FUNCTION];
        rc = tp_members_read(&tool, &inner, "tools[].function", names);
    }
    if (rc == 0)
        rc = tp_members_text(&tool, NAME, &name, &length);
    if (rc == 0 && tool.present[TOOL_DESCRIPTION])
        rc = tp_members_text(&tool, TOOL_DESCRIPTION, &description, &length);
    if (rc == 0) {
        put_description(writer, description != NULL ? description : "");
        put(writer, "type ");
        put(writer, name);
        put(writer, tool.present[PARAMETERS] ? " = (_: " : " = (");
        if (tool.present[PARAMETERS])
            put_schema(writer, &tool.values[PARAMETERS], 0);
        put(writer, ") => any;\n\n");
        rc = writer->rc;
    }
    free(name);
    free(description);
    return rc;
}

int tp_harmony_write_tools(const char *tools, size_t length, struct tp_buffer *out,
                           struct tp_error *error)
{
    struct writer writer = {.out = out};
    struct tp_json at;
    bool first = true, more = true;
    tp_json_init(&at, tools, length, error);
    put(&writer, "# Tools\n\n## functions\n\nnamespace functions {\n\n");
    int rc = tp_json_enter_array(&at);
    while (rc == 0 && (rc = tp_json_array_next(&at, &first, &more)) == 0 && more) {
        rc = put_tool(&writer, &at);
        if (rc == 0)
            rc = tp_json_skip(&at);
    }
    put(&writer, "} // namespace functions");
    return rc < 0 ? rc : writer.rc;
}
