/* Element types of safetensors files: names, widths, and sizes that cannot overflow. */
#ifndef TENSORPORT_DECODE_DTYPE_H
#define TENSORPORT_DECODE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tp_dtype {
    TP_BOOL,
    TP_U8,
    TP_I8,
    TP_F8_E4M3,
    TP_F8_E5M2,
    TP_F8_E8M0,
    TP_I16,
    TP_U16,
    TP_F16,
    TP_BF16,
    TP_I32,
    TP_U32,
    TP_F32,
    TP_I64,
    TP_U64,
    TP_F64,
    TP_C64,
    TP_N_DTYPES
};

/* Bytes of one element. */
size_t tp_dtype_size(enum tp_dtype dtype);

/* "BF16": the name in a safetensors header. */
const char *tp_dtype_name(enum tp_dtype dtype);

/* "bfloat16": the name that numpy (with ml_dtypes) and JAX give it. */
const char *tp_dtype_numpy_name(enum tp_dtype dtype);

/* "<V2": the descr that numpy.save writes for it. The 8-bit floats have no descr that
 * numpy loads again; they are stored as "|u1". */
const char *tp_dtype_descr(enum tp_dtype dtype);

/* True for real floating-point types: those that a precision converts. */
bool tp_dtype_is_float(enum tp_dtype dtype);

/* Looks `name` (`length` bytes, safetensors spelling) up; false when there is none such. */
bool tp_dtype_parse(const char *name, size_t length, enum tp_dtype *ret_dtype);

/* Product of the dimensions (1 for rank 0), and that times the width. False on overflow of
 * 64 bits, also when a later zero would make the product 0: the official library counts so. */
bool tp_shape_elements(const uint64_t *shape, size_t rank, uint64_t *ret_elements);
bool tp_shape_bytes(const uint64_t *shape, size_t rank, enum tp_dtype dtype, uint64_t *ret_bytes);

#endif
