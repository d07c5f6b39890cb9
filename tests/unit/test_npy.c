/* npy headers against numpy's own: goldens/numbers/npy_headers.json for the usual shapes, and
 * below what it does not hold. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"
#include "decode/npy.h"
#include "tests/unit/read_file.h"

enum { RANK_MAX = 64 };

/* One golden: {"descr": "<f4", "shape": [2, 3], "header": "\u0093NUMPY..."}. */
struct golden {
    char descr[8];
    uint64_t shape[RANK_MAX];
    size_t rank;
    char *header; /* the bytes, which the file holds as Latin-1 */
    size_t length;
};

/* The bytes of Latin-1 text, in place. */
static size_t latin1_from_utf8(char *text, size_t length)
{
    size_t to = 0;
    for (size_t from = 0; from < length; from++) {
        unsigned char byte = (unsigned char)text[from];
        if (byte >= 0x80)
            byte = (unsigned char)((byte & 3) << 6 | ((unsigned char)text[++from] & 0x3f));
        text[to++] = (char)byte;
    }
    return to;
}

static void read_golden_field(struct tp_json *json, const struct tp_json_string *key,
                              struct golden *golden)
{
    struct tp_json_string string;
    bool first = true, more = true;
    if (tp_json_string_equals(key, "shape")) {
        cr_assert_eq(tp_json_enter_array(json), 0);
        while (tp_json_array_next(json, &first, &more) == 0 && more)
            cr_assert_eq(tp_json_unsigned(json, &golden->shape[golden->rank++]), 0);
        return;
    }
    cr_assert_eq(tp_json_string(json, &string), 0);
    if (tp_json_string_equals(key, "descr")) {
        cr_assert_lt(string.length, sizeof golden->descr);
        tp_json_string_copy(&string, golden->descr);
    } else {
        golden->header = malloc(string.length + 1);
        tp_json_string_copy(&string, golden->header);
        golden->length = latin1_from_utf8(golden->header, string.length);
    }
}

static void read_golden(struct tp_json *json, struct golden *golden)
{
    struct tp_json_string key;
    bool first = true, more = true;
    memset(golden, 0, sizeof *golden);
    cr_assert_eq(tp_json_enter_object(json), 0);
    while (tp_json_object_next(json, &first, &key, &more) == 0 && more)
        read_golden_field(json, &key, golden);
}

/* Compares what is written with `expected`, in a block that is exactly as long. */
static void check_written(enum tp_dtype dtype, const uint64_t *shape, size_t rank,
                          const char *header, size_t length)
{
    cr_assert_eq(tp_npy_header_length(dtype, shape, rank), length, "%s, rank %zu",
                 tp_dtype_name(dtype), rank);
    char *written = malloc(length);
    tp_npy_header_write(dtype, shape, rank, written);
    cr_expect_arr_eq(written, header, length, "%s, rank %zu", tp_dtype_name(dtype), rank);
    free(written);
}

static void check_parsed(const struct golden *golden)
{
    struct tp_npy_header header;
    struct tp_error error = {""};
    char *text = malloc(golden->length);
    memcpy(text, golden->header, golden->length);
    cr_assert_eq(tp_npy_header_parse(text, golden->length, &header, &error), 0, "%s", error.text);
    cr_expect_str_eq(tp_dtype_descr(header.dtype), golden->descr);
    cr_expect_eq(header.rank, golden->rank);
    cr_expect_arr_eq(header.shape, golden->shape, golden->rank * sizeof *header.shape);
    cr_expect_eq(header.data_offset, golden->length);
    cr_expect_not(header.fortran_order);
    tp_npy_header_clear(&header);
    free(text);
}

Test(npy, writes_and_reads_what_numpy_saves)
{
    struct bytes file = read_source_file("tests/kit/goldens/numbers/npy_headers.json");
    cr_assert_not_null(file.data, "cannot read the goldens");
    struct tp_json json;
    struct tp_error error = {""};
    bool first = true, more = true;
    size_t n = 0, n_written = 0;
    tp_json_init(&json, file.data, file.size, &error);
    cr_assert_eq(tp_json_enter_array(&json), 0);
    for (; tp_json_array_next(&json, &first, &more) == 0 && more; n++) {
        struct golden golden;
        read_golden(&json, &golden);
        for (enum tp_dtype dtype = 0; dtype < TP_N_DTYPES; dtype++) {
            if (strcmp(tp_dtype_descr(dtype), golden.descr) == 0) {
                check_written(dtype, golden.shape, golden.rank, golden.header, golden.length);
                n_written++;
            }
        }
        check_parsed(&golden);
        free(golden.header);
    }
    cr_expect_str_empty(error.text);
    cr_expect_geq(n, 36);
    cr_expect_geq(n_written, n);
    free(file.data);
}

/* `text` behind a version's magic and length, padded as numpy pads. */
static char *wrap(unsigned version, const char *text, size_t told, size_t *ret_length)
{
    size_t field = version == 1 ? 2 : 4;
    char *header = malloc(8 + field + told);
    memcpy(header, "\x93NUMPY", 6);
    header[6] = (char)version;
    header[7] = 0;
    for (size_t i = 0; i < field; i++)
        header[8 + i] = (char)(told >> 8 * i);
    memset(header + 8 + field, ' ', told);
    memcpy(header + 8 + field, text, strlen(text));
    header[8 + field + told - 1] = '\n';
    *ret_length = 8 + field + told;
    return header;
}

static void check_padded(const char *text, size_t told, enum tp_dtype dtype, const uint64_t *shape,
                         size_t rank)
{
    size_t length;
    char *header = wrap(told > UINT16_MAX ? 2 : 1, text, told, &length);
    check_written(dtype, shape, rank, header, length);
    free(header);
}

/* The lengths are numpy 2.4's: the first axis could grow to 21 digits, then 1 to 64 spaces. */
Test(npy, pads_like_numpy)
{
    check_padded("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 0), }", 118,
                 TP_F32, (uint64_t[]){UINT64_C(1) << 40, 0}, 2);
    check_padded("{'descr': '<V2', 'fortran_order': False, 'shape': (18446744073709551615,), }",
                 118, TP_BF16, (uint64_t[]){UINT64_MAX}, 1);
    check_padded("{'descr': '|b1', 'fortran_order': False, 'shape': (), }", 118, TP_BOOL, NULL, 0);
}

/* Ranks at which numpy 2.4's header of ones grows; at 36 the text ends just at a multiple of
 * 64, and numpy adds 64 spaces. */
Test(npy, adds_a_line_of_padding_where_none_is_needed)
{
    uint64_t ones[RANK_MAX];
    for (size_t i = 0; i < RANK_MAX; i++)
        ones[i] = 1;
    cr_expect_eq(tp_npy_header_length(TP_U8, ones, 1), 128);
    cr_expect_eq(tp_npy_header_length(TP_U8, ones, 14), 128);
    cr_expect_eq(tp_npy_header_length(TP_U8, ones, 15), 192);
    cr_expect_eq(tp_npy_header_length(TP_U8, ones, 35), 192);
    cr_expect_eq(tp_npy_header_length(TP_U8, ones, 36), 256);
    cr_expect_eq(tp_npy_header_length(TP_U8, ones, 57), 256);
    cr_expect_eq(tp_npy_header_length(TP_U8, ones, 58), 320);
    cr_expect_eq(tp_npy_header_length(TP_U8, ones, 64), 320);
    ones[0] = UINT64_MAX;
    cr_expect_eq(tp_npy_header_length(TP_U8, ones, 14), 128, "room for growth is the first axis'");
}

/* Headers beyond 65535 bytes need version 2.0; numpy 2.4 changes at this rank. */
Test(npy, changes_to_version_2)
{
    enum { RANK_OF_VERSION_2 = 13091 };
    static uint64_t shape[RANK_OF_VERSION_2];
    for (size_t i = 0; i < RANK_OF_VERSION_2; i++)
        shape[i] = 123;
    for (size_t rank = RANK_OF_VERSION_2 - 1; rank <= RANK_OF_VERSION_2; rank++) {
        bool version_1 = rank < RANK_OF_VERSION_2;
        size_t length = tp_npy_header_length(TP_F32, shape, rank);
        cr_assert_eq(length, version_1 ? 65536 : 65600);
        char *header = malloc(length);
        tp_npy_header_write(TP_F32, shape, rank, header);
        cr_expect_arr_eq(header + 6, version_1 ? "\1\0\xf6\xff{'" : "\2\0\x34\0\1\0{'",
                         version_1 ? 6 : 8);
        cr_expect_eq(header[length - 1], '\n');
        free(header);
    }
}

/* The 8-bit floats are saved as bytes. */
Test(npy, writes_8_bit_floats_as_bytes)
{
    const uint64_t shape[] = {3, 5};
    char bytes[128], floats[128];
    tp_npy_header_write(TP_U8, shape, 2, bytes);
    tp_npy_header_write(TP_F8_E8M0, shape, 2, floats);
    cr_expect_arr_eq(bytes, floats, sizeof bytes);
}

/* Parses `text` as the dictionary of a file of `version`, from a block of its length. */
static int parse_dictionary(unsigned version, const char *text, struct tp_npy_header *ret_header,
                            struct tp_error *error)
{
    size_t length;
    char *header = wrap(version, text, strlen(text) + 1, &length);
    int rc = tp_npy_header_parse(header, length, ret_header, error);
    free(header);
    return rc;
}

Test(npy, reads_every_spelling)
{
    static const struct {
        const char *text;
        enum tp_dtype dtype;
        bool fortran_order;
        size_t rank;
        uint64_t shape[3];
    } cases[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", TP_F32, false, 2, {2, 3}},
        {"{\"shape\":(2,3,),\"descr\":\"<f4\",\"fortran_order\":True}", TP_F32, true, 2, {2, 3}},
        {" \t{ 'fortran_order' : False , 'shape' : ( 5 , ) , 'descr' : '|u1' } \n\n",
         TP_U8,
         false,
         1,
         {5}},
        {"{'descr': '<V2', 'fortran_order': False, 'shape': (), }", TP_BF16, false, 0, {0}},
        {"{'descr': '|V2', 'fortran_order': False, 'shape': (), }", TP_BF16, false, 0, {0}},
        {"{'descr': '|b1', 'fortran_order': False, 'shape': (0,), }", TP_BOOL, false, 1, {0}},
        {"{'descr': '<u1', 'fortran_order': False, 'shape': (0,), }", TP_U8, false, 1, {0}},
        {"{'descr': '|i1', 'fortran_order': False, 'shape': (1,), }", TP_I8, false, 1, {1}},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", TP_C64, false, 1, {1}},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (\n2, 1099511627776,\n0), }",
         TP_F64,
         false,
         3,
         {2, UINT64_C(1) << 40, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (unsigned version = 1; version <= 3; version++) {
            struct tp_npy_header header;
            struct tp_error error = {""};
            cr_assert_eq(parse_dictionary(version, cases[i].text, &header, &error), 0, "%s: %s",
                         cases[i].text, error.text);
            cr_expect_eq(header.dtype, cases[i].dtype, "%s", cases[i].text);
            cr_expect_eq(header.fortran_order, cases[i].fortran_order, "%s", cases[i].text);
            cr_expect_eq(header.rank, cases[i].rank, "%s", cases[i].text);
            cr_expect_arr_eq(header.shape, cases[i].shape, header.rank * sizeof *header.shape);
            cr_expect_eq(header.data_offset, (version == 1 ? 11 : 13) + strlen(cases[i].text));
            tp_npy_header_clear(&header);
        }
    }
}

Test(npy, computes_the_size_of_the_data)
{
    struct tp_npy_header header;
    cr_assert_eq(
        parse_dictionary(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (7, 1099511627776)}",
                         &header, NULL),
        0);
    cr_expect_eq(header.data_bytes, UINT64_C(7) << 43);
    tp_npy_header_clear(&header);
}

Test(npy, refuses_what_is_no_header)
{
    static const char *const texts[] = {
        "",
        "{}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'shape': (1,)}",
        "{'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': True, 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 'x'}",
        "{'descr': '<f4' 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)",
        "{,'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,,2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (01,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1.0,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551616,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 0)}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': false, 'shape': (1,)}",
        "{'descr': '>f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '=f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': 'f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f16', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<V3', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4, 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4\", 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct tp_npy_header header;
        struct tp_error error = {""};
        cr_expect_eq(parse_dictionary(1, texts[i], &header, &error), -EINVAL, "%s", texts[i]);
        cr_expect_str_not_empty(error.text);
    }
}

/* The dictionary ends with its block, without white space; its prefixes do so, too. */
Test(npy, refuses_every_prefix_of_the_dictionary)
{
    static const char text[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 3)}";
    for (size_t told = 0; told < sizeof text; told++) {
        struct tp_npy_header header;
        char *block = malloc(10 + told);
        memcpy(block, "\x93NUMPY\1\0", 8);
        block[8] = (char)told;
        block[9] = 0;
        memcpy(block + 10, text, told);
        int rc = tp_npy_header_parse(block, 10 + told, &header, NULL);
        cr_expect_eq(rc, told == sizeof text - 1 ? 0 : -EINVAL, "%zu bytes", told);
        if (rc == 0)
            tp_npy_header_clear(&header);
        free(block);
    }
}

Test(npy, refuses_other_magic_and_versions)
{
    static const struct {
        size_t at;
        char byte;
    } changes[] = {{0, '\x92'}, {5, 'y'}, {6, 0}, {6, 4}, {7, 1}, {8, 0x7f}, {9, 1}};
    const uint64_t shape[] = {2, 3};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct tp_npy_header header;
        char text[128];
        tp_npy_header_write(TP_F32, shape, 2, text);
        text[changes[i].at] = changes[i].byte;
        cr_expect_eq(tp_npy_header_parse(text, sizeof text, &header, NULL), -EINVAL, "case %zu", i);
    }
}

/* Every prefix is refused, from a block that ends there; what follows does not matter. */
Test(npy, needs_the_whole_header)
{
    const uint64_t shape[] = {2, 3};
    struct tp_npy_header header;
    char whole[132] = {0};
    tp_npy_header_write(TP_F32, shape, 2, whole);
    for (size_t length = 0; length < 128; length++) {
        char *cut = malloc(length + 1);
        memcpy(cut + 1, whole, length);
        cr_expect_eq(tp_npy_header_parse(cut + 1, length, &header, NULL), -EINVAL, "%zu", length);
        free(cut);
    }
    cr_assert_eq(tp_npy_header_parse(whole, sizeof whole, &header, NULL), 0);
    cr_expect_eq(header.data_offset, 128);
    cr_expect_eq(header.data_bytes, 24);
    tp_npy_header_clear(&header);
    cr_expect_null(header.shape);
}

Test(npy, says_what_it_expected_and_found)
{
    struct tp_npy_header header;
    struct tp_error error;
    parse_dictionary(1, "{'descr': '>f4', 'fortran_order': False, 'shape': ()}", &header, &error);
    cr_expect_str_eq(error.text, "npy header, descr: expected a little-endian boolean, integer, "
                                 "float, complex64 or <V2, found '>f4'");
    parse_dictionary(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (5)}", &header, &error);
    cr_expect_str_eq(error.text,
                     "npy header, byte 62: expected ',' after the only dimension, found ')'");
    tp_npy_header_parse("\x93NUMPY\1\0\x76\0{", 11, &header, &error);
    cr_expect_str_eq(error.text, "npy header: expected its 118 bytes, found 1");
}
