/* Element types, checked sizes, and the message beside an error code. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "decode/dtype.h"
#include "decode/error.h"

Test(dtype, knows_every_type)
{
    static const struct {
        const char *name;
        size_t size;
        bool is_float;
        const char *numpy_name, *descr;
    } expected[] = {
        {"BOOL", 1, false, "bool", "|b1"},
        {"U8", 1, false, "uint8", "|u1"},
        {"I8", 1, false, "int8", "|i1"},
        {"F8_E4M3", 1, true, "float8_e4m3fn", "|u1"},
        {"F8_E5M2", 1, true, "float8_e5m2", "|u1"},
        {"F8_E8M0", 1, true, "float8_e8m0fnu", "|u1"},
        {"I16", 2, false, "int16", "<i2"},
        {"U16", 2, false, "uint16", "<u2"},
        {"F16", 2, true, "float16", "<f2"},
        {"BF16", 2, true, "bfloat16", "<V2"},
        {"I32", 4, false, "int32", "<i4"},
        {"U32", 4, false, "uint32", "<u4"},
        {"F32", 4, true, "float32", "<f4"},
        {"I64", 8, false, "int64", "<i8"},
        {"U64", 8, false, "uint64", "<u8"},
        {"F64", 8, true, "float64", "<f8"},
        {"C64", 8, false, "complex64", "<c8"},
    };
    cr_assert_eq(sizeof expected / sizeof *expected, TP_N_DTYPES);
    for (size_t i = 0; i < TP_N_DTYPES; i++) {
        enum tp_dtype dtype;
        const char *name = expected[i].name;
        cr_assert(tp_dtype_parse(name, strlen(name), &dtype), "%s", name);
        cr_expect_str_eq(tp_dtype_name(dtype), name);
        cr_expect_eq(tp_dtype_size(dtype), expected[i].size, "%s", name);
        cr_expect_eq(tp_dtype_is_float(dtype), expected[i].is_float, "%s", name);
        cr_expect_str_eq(tp_dtype_numpy_name(dtype), expected[i].numpy_name);
        cr_expect_str_eq(tp_dtype_descr(dtype), expected[i].descr);
    }
}

Test(dtype, refuses_other_names)
{
    static const char *const names[] = {"",        "F3", "F322", "f32",     "F4",
                                        "F6_E2M3", "F8", "U",    "bfloat16"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        enum tp_dtype dtype = TP_N_DTYPES;
        cr_expect_not(tp_dtype_parse(names[i], strlen(names[i]), &dtype), "%s", names[i]);
        cr_expect_eq(dtype, TP_N_DTYPES);
    }
    enum tp_dtype dtype;
    cr_expect_not(tp_dtype_parse("F32\0", 4, &dtype), "a NUL is part of the name");
    cr_expect(tp_dtype_parse("F32x", 3, &dtype), "the length counts, not a NUL");
}

Test(dtype, multiplies_shapes)
{
    static const struct {
        uint64_t shape[3];
        size_t rank;
        bool fits;
        uint64_t elements;
    } cases[] = {
        {{0}, 0, true, 1},
        {{7}, 1, true, 7},
        {{2, 3, 4}, 3, true, 24},
        {{5, 0, 2}, 3, true, 0},
        {{UINT64_MAX}, 1, true, UINT64_MAX},
        {{UINT64_MAX, 0}, 2, true, 0},
        {{0, UINT64_MAX, 2}, 3, true, 0},
        {{UINT64_MAX, 2}, 2, false, 0},
        {{UINT64_MAX, 2, 0}, 3, false, 0},
        {{UINT64_C(1) << 32, UINT64_C(1) << 32}, 2, false, 0},
        {{UINT64_C(1) << 32, UINT64_C(1) << 31}, 2, true, UINT64_C(1) << 63},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t elements = 42;
        cr_expect_eq(tp_shape_elements(cases[i].shape, cases[i].rank, &elements), cases[i].fits,
                     "case %zu", i);
        cr_expect_eq(elements, cases[i].fits ? cases[i].elements : 42, "case %zu", i);
    }
}

Test(dtype, multiplies_by_the_width)
{
    const uint64_t shape[] = {UINT64_C(1) << 60};
    uint64_t bytes = 42;
    cr_expect_not(tp_shape_bytes((uint64_t[]){UINT64_C(1) << 61}, 1, TP_F64, &bytes));
    cr_expect_not(tp_shape_bytes((uint64_t[]){UINT64_MAX, 2, 0}, 3, TP_U8, &bytes));
    cr_expect_eq(bytes, 42, "untouched on failure");
    cr_expect(tp_shape_bytes(shape, 1, TP_F64, &bytes));
    cr_expect_eq(bytes, UINT64_C(1) << 63);
    cr_expect(tp_shape_bytes(NULL, 0, TP_BF16, &bytes));
    cr_expect_eq(bytes, 2);
}

Test(error, keeps_the_code_and_one_line)
{
    struct tp_error error;
    cr_expect_eq(tp_error_set(&error, -EINVAL, "tensor \"%s\": expected %d", "a\nb\x7f", 3),
                 -EINVAL);
    cr_expect_str_eq(error.text, "tensor \"a\\x0ab\\x7f\": expected 3");
    cr_expect_eq(tp_error_prefix(&error, -EIO, "file %s", "x\ty"), -EIO);
    cr_expect_str_eq(error.text, "file x\\x09y: tensor \"a\\x0ab\\x7f\": expected 3");
}

Test(error, takes_no_message)
{
    cr_expect_eq(tp_error_set(NULL, -ENOMEM, "%s", "x"), -ENOMEM);
    cr_expect_eq(tp_error_prefix(NULL, -ENOMEM, "%s", "x"), -ENOMEM);
}

Test(error, cuts_long_messages)
{
    struct tp_error error;
    char text[3000];
    memset(text, '\n', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    cr_expect_eq(tp_error_set(&error, -EINVAL, "%s", text), -EINVAL);
    cr_expect_lt(strlen(error.text), sizeof error.text);
    cr_expect_eq(strlen(error.text) % 4, 0, "no half escape");
    cr_expect_eq(tp_error_prefix(&error, -EINVAL, "%s", text), -EINVAL);
    cr_expect_lt(strlen(error.text), sizeof error.text);
}
