/* The reader of manifest.json: what it takes, what it finds, and what it refuses. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "infer/weights/manifest.h"

#define HEAD "{\"format_version\": 1, \"tensors\": ["
#define TAIL "]}"
#define TENSOR(name)                                                                               \
    "{\"name\":\"" name "\",\"file\":\"shard_000/x.npy\",\"shape\":[2,3],\"dtype\":\"bfloat16\","  \
    "\"nbytes\":12,\"source\":{\"dtype\":\"BF16\"}}"

Test(manifest, finds_names)
{
    static const char text[] =
        HEAD TENSOR("b") "," TENSOR("a") "," TENSOR("a\\u0000b") "," TENSOR("\\u00e9") TAIL;
    struct tp_manifest manifest;
    cr_assert_eq(tp_manifest_parse(text, sizeof text - 1, &manifest, NULL), 0);
    cr_assert_eq(manifest.n_tensors, 4);
    cr_expect_eq(tp_manifest_find(&manifest, "a", 1), 0);
    cr_expect_eq(tp_manifest_find(&manifest, "a\0b", 3), 1);
    cr_expect_eq(tp_manifest_find(&manifest, "b", 1), 2);
    cr_expect_eq(tp_manifest_find(&manifest, "\xc3\xa9", 2), 3);
    cr_expect_eq(tp_manifest_find(&manifest, "", 0), -1);
    cr_expect_eq(tp_manifest_find(&manifest, "c", 1), -1);
    const struct tp_manifest_tensor *tensor = &manifest.tensors[0];
    cr_expect_eq(tensor->dtype, TP_BF16);
    cr_expect_eq(tensor->rank, 2);
    cr_expect_eq(tensor->shape[1], 3);
    cr_expect_eq(tensor->nbytes, 12);
    cr_expect_str_eq(tensor->file, "shard_000/x.npy");
    tp_manifest_clear(&manifest);
}

Test(manifest, empty_and_more_than_is_known)
{
    static const char text[] = "{\"more\": [{}], \"tensors\": [], \"format_version\": 1}\n";
    struct tp_manifest manifest;
    cr_assert_eq(tp_manifest_parse(text, sizeof text - 1, &manifest, NULL), 0);
    cr_expect_eq(manifest.n_tensors, 0);
    cr_expect_eq(tp_manifest_find(&manifest, "a", 1), -1);
    tp_manifest_clear(&manifest);
}

#define ONE(name, file, shape, dtype, nbytes)                                                      \
    HEAD "{\"name\":" name ",\"file\":" file ",\"shape\":" shape ",\"dtype\":" dtype               \
         ",\"nbytes\":" nbytes "}" TAIL

static const struct {
    const char *text, *says;
} refused[] = {
    {"", ""},
    {"[]", ""},
    {"{}", "expected a field \"format_version\""},
    {"{\"format_version\": 1}", "expected a field \"tensors\""},
    {"{\"format_version\": 2, \"tensors\": []}", "format_version: expected 1, found 2"},
    {"{\"format_version\": \"1\", \"tensors\": []}", "format_version"},
    {"{\"format_version\": 1, \"tensors\": {}}", ""},
    {"{\"format_version\": 1, \"tensors\": [], \"tensors\": []}", "tensors appears twice"},
    {HEAD TAIL "x", ""},
    {HEAD "7" TAIL, "tensor 0"},
    {HEAD TENSOR("a") "," TENSOR("a") TAIL, "tensor \"a\" appears twice"},
    {HEAD "{\"name\":\"a\"}" TAIL, "tensor \"a\": expected a field \"file\", found none"},
    {HEAD "{\"name\":\"a\",\"name\":\"b\"}" TAIL, "name appears twice"},
    {HEAD "{\"name\":\"a\",\"offset\":128}" TAIL, "tensor \"a\": expected a .npy file of its own"},
    {HEAD "{\"name\":\"a\",\"chunks\":[]}" TAIL, "found a place in a container"},
    {ONE("7", "\"f\"", "[]", "\"float32\"", "4"), "tensor 0: name"},
    {ONE("\"a\"", "\"/etc/passwd\"", "[]", "\"float32\"", "4"),
     "tensor \"a\": file: expected the name of a file in the view, found \"/etc/passwd\""},
    {ONE("\"a\"", "\"../f\"", "[]", "\"float32\"", "4"), "file: expected the name"},
    {ONE("\"a\"", "\"s/../../f\"", "[]", "\"float32\"", "4"), "file: expected the name"},
    {ONE("\"a\"", "\"s/..\"", "[]", "\"float32\"", "4"), "file: expected the name"},
    {ONE("\"a\"", "\"\"", "[]", "\"float32\"", "4"), "file: expected the name"},
    {ONE("\"a\"", "\"f\\u0000\"", "[]", "\"float32\"", "4"), "file: expected the name"},
    {ONE("\"a\"", "\"f\"", "7", "\"float32\"", "4"), "shape"},
    {ONE("\"a\"", "\"f\"", "[-1]", "\"float32\"", "4"), "shape"},
    {ONE("\"a\"", "\"f\"", "[1.0]", "\"float32\"", "4"), "shape"},
    {ONE("\"a\"", "\"f\"", "[4294967296, 4294967296]", "\"float32\"", "0"), "shape: its size"},
    {ONE("\"a\"", "\"f\"", "[1]", "\"F32\"", "4"), "dtype: expected a type such as bfloat16"},
    {ONE("\"a\"", "\"f\"", "[1]", "7", "4"), "dtype"},
    {ONE("\"a\"", "\"f\"", "[3]", "\"float32\"", "4"), "nbytes: expected 12 by shape and dtype"},
    {ONE("\"a\"", "\"f\"", "[3]", "\"float32\"", "-12"), "nbytes"},
};

Test(manifest, refuses)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct tp_manifest manifest;
        struct tp_error error = {""};
        int rc = tp_manifest_parse(refused[i].text, strlen(refused[i].text), &manifest, &error);
        cr_expect_eq(rc, -EINVAL, "%s", refused[i].text);
        cr_expect_neq(error.text[0], '\0', "%s", refused[i].text);
        cr_expect_not_null(strstr(error.text, refused[i].says), "expected \"%s\" in \"%s\"",
                           refused[i].says, error.text);
    }
}
