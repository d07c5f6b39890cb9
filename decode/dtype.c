#include "decode/dtype.h"

#include <string.h>

static const struct {
    const char *name;
    const char *numpy_name;
    const char *descr;
    unsigned char size;
    bool is_float;
} dtypes[TP_N_DTYPES] = {
    [TP_BOOL] = {"BOOL", "bool", "|b1", 1, false},
    [TP_U8] = {"U8", "uint8", "|u1", 1, false},
    [TP_I8] = {"I8", "int8", "|i1", 1, false},
    [TP_F8_E4M3] = {"F8_E4M3", "float8_e4m3fn", "|u1", 1, true},
    [TP_F8_E5M2] = {"F8_E5M2", "float8_e5m2", "|u1", 1, true},
    [TP_F8_E8M0] = {"F8_E8M0", "float8_e8m0fnu", "|u1", 1, true},
    [TP_I16] = {"I16", "int16", "<i2", 2, false},
    [TP_U16] = {"U16", "uint16", "<u2", 2, false},
    [TP_F16] = {"F16", "float16", "<f2", 2, true},
    [TP_BF16] = {"BF16", "bfloat16", "<V2", 2, true},
    [TP_I32] = {"I32", "int32", "<i4", 4, false},
    [TP_U32] = {"U32", "uint32", "<u4", 4, false},
    [TP_F32] = {"F32", "float32", "<f4", 4, true},
    [TP_I64] = {"I64", "int64", "<i8", 8, false},
    [TP_U64] = {"U64", "uint64", "<u8", 8, false},
    [TP_F64] = {"F64", "float64", "<f8", 8, true},
    [TP_C64] = {"C64", "complex64", "<c8", 8, false},
};

size_t tp_dtype_size(enum tp_dtype dtype)
{
    return dtypes[dtype].size;
}

const char *tp_dtype_name(enum tp_dtype dtype)
{
    return dtypes[dtype].name;
}

const char *tp_dtype_numpy_name(enum tp_dtype dtype)
{
    return dtypes[dtype].numpy_name;
}

const char *tp_dtype_descr(enum tp_dtype dtype)
{
    return dtypes[dtype].descr;
}

bool tp_dtype_is_float(enum tp_dtype dtype)
{
    return dtypes[dtype].is_float;
}

bool tp_dtype_parse(const char *name, size_t length, enum tp_dtype *ret_dtype)
{
    for (enum tp_dtype dtype = 0; dtype < TP_N_DTYPES; dtype++) {
        if (strlen(dtypes[dtype].name) == length && memcmp(dtypes[dtype].name, name, length) == 0) {
            *ret_dtype = dtype;
            return true;
        }
    }
    return false;
}

bool tp_shape_elements(const uint64_t *shape, size_t rank, uint64_t *ret_elements)
{
    uint64_t product = 1;
    for (size_t i = 0; i < rank; i++) {
        if (__builtin_mul_overflow(product, shape[i], &product))
            return false;
    }
    *ret_elements = product;
    return true;
}

bool tp_shape_bytes(const uint64_t *shape, size_t rank, enum tp_dtype dtype, uint64_t *ret_bytes)
{
    uint64_t elements, bytes;
    if (!tp_shape_elements(shape, rank, &elements) ||
        __builtin_mul_overflow(elements, (uint64_t)tp_dtype_size(dtype), &bytes))
        return false;
    *ret_bytes = bytes;
    return true;
}
